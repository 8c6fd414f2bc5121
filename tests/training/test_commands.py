"""Training runs as commands: started once, continued if stopped, and never mixed with other settings."""

import json
import sys

import pytest

from lungseg.training.commands import NetworkRuns, folder_name, keep_settings, read_log, run

SCRIPT = """
import pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
with open(out / "called.txt", "a") as file:
    file.write(" ".join(sys.argv[1:]) + chr(10))
if (out.parent / "fails").exists():
    (out / "recipe.json").write_text("{}")
    sys.exit(int((out.parent / "fails").read_text()))
lines = ['{}', '{"epoch": 1, "seconds": 6.0}', '{"best epoch": {"dice": 0.5}}']
(out / "log.jsonl").write_text(chr(10).join(lines))
"""


@pytest.fixture
def network_runs(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    made = NetworkRuns("A-Net (b)", tmp_path / "script.py", ["--lr", "1"], tmp_path / "out", seeds=(3, 4), folds=None)
    made.epochs = 2
    return made


def calls(folder):
    return [line.split() for line in (folder / "called.txt").read_text().splitlines()]


def test_a_name_makes_a_folder():
    assert [folder_name(n) for n in ("Swin-UNet", "U-Net", "ResNet50-U-Net")] == [
        "swin_unet", "u_net", "resnet50_u_net",
    ]  # fmt: skip
    assert folder_name("Swin-UNet (conv) + neighbours") == "swin_unet_conv_neighbours"


def test_a_run_is_started_once_and_its_log_is_read(network_runs):
    network_runs.train(3)
    network_runs.train(3)  # it is finished
    folder = network_runs.out / "a_net_b_seed3"
    assert calls(folder) == [["--out", str(folder), "--lr", "1", "--epochs", "2", "--seed", "3"]]
    network_runs.train(4)
    assert network_runs.minutes() == pytest.approx(0.1) and read_log(folder)[-1]["best epoch"] == {"dice": 0.5}
    assert network_runs.seconds_per_epoch() == 6 and read_log(network_runs.out) == [{}]
    assert calls(network_runs.out / "a_net_b_trial")[0][-4:] == ["--epochs", "1", "--seed", "3"]


def test_a_run_that_was_stopped_is_continued(network_runs):
    network_runs.out.mkdir()
    for code, error in ((130, KeyboardInterrupt), (2, ValueError)):
        (network_runs.out / "fails").write_text(str(code))
        with pytest.raises(error):
            network_runs.train(3)
    (network_runs.out / "fails").unlink()
    network_runs.train(3)
    resumed = [call[-1] == "--resume" for call in calls(network_runs.out / "a_net_b_seed3")]
    assert resumed == [False, True, True]


def test_each_fold_is_a_run(network_runs):
    folds = NetworkRuns("A", network_runs.script, [], network_runs.out, seeds=(0, 1), folds=2)
    folds.epochs = 1
    assert [(folder.name, seed, fold) for folder, seed, fold in folds.runs] == [
        ("a_fold0_seed0", 0, (0, 2)), ("a_fold1_seed0", 0, (1, 2)),
        ("a_fold0_seed1", 1, (0, 2)), ("a_fold1_seed1", 1, (1, 2)),
    ]  # fmt: skip
    folds.train(1)
    (call,) = calls(network_runs.out / "a_fold1_seed1")
    assert "--folds 2 --fold 1 --epochs 1 --seed 1" in " ".join(call)
    assert not (network_runs.out / "a_fold1_seed0").exists()


def test_the_exit_code_of_a_command():
    assert run([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_settings_are_kept_and_others_refused(tmp_path):
    file = tmp_path / "what.json"
    keep_settings(file, {"seeds": (0, 1), "data": tmp_path, "new": None}, what="comparison")
    keep_settings(file, {"seeds": [0, 1], "data": str(tmp_path)}, what="comparison")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"old": None}))  # as an older version wrote it
    keep_settings(file, {"seeds": (0, 1), "data": tmp_path}, what="comparison")
    before = file.read_text()
    with pytest.raises(ValueError, match="holds a comparison with other settings"):
        keep_settings(file, {"seeds": (0, 2), "data": tmp_path}, what="comparison")
    assert file.read_text() == before
    file.write_text("[" + before)
    with pytest.raises(ValueError, match="holds a comparison with other settings"):
        keep_settings(file, {"seeds": (0, 1), "data": tmp_path}, what="comparison")
    with pytest.raises(ValueError, match="not empty, and holds no comparison"):
        keep_settings(tmp_path / "other.json", {}, what="comparison")
