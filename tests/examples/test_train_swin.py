"""The whole training, with tiny sizes: what it writes, that it repeats itself, and that nothing can break a run."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.slices import SliceWriter
from lungseg.nn.swin_unet import SwinUNet
from lungseg.predictor import load_predictor
from lungseg.training.contents import list_contents, read_contents
from lungseg.training.optim import make_optimizer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples/train_swin.py"

spec = importlib.util.spec_from_file_location("train_swin", SCRIPT)
train_swin = importlib.util.module_from_spec(spec)
sys.modules["train_swin"] = train_swin  # dataclasses look their module up
spec.loader.exec_module(train_swin)
main = train_swin.main

TINY = [
    "--img-size", "16", "--patch-size", "2", "--embed-dim", "16", "--depths", "2", "2", "--num-heads", "1", "2",
    "--window-size", "4", "--batch-size", "4", "--epochs", "3", "--augment", "full", "--drop-path-rate", "0.2",
    "--lr", "0.02", "--warmup-epochs", "1", "--no-prior-bias", "--loss", "dice",  # so that it finds something so soon
    "--threads", "0",  # as in runs of older versions; tests/conftest.py sets one for all
]  # fmt: skip


def make_folder(folder, splits=("train",) * 11 + ("val",) * 5 + ("test",) * 3, empty=()):
    """Bright discs on noise: enough to learn something from, one slice to a patient."""
    y, x = np.mgrid[:16, :16]
    with SliceWriter(folder) as out:
        for i, split in enumerate(splits):
            rng = np.random.default_rng(i)
            row, col = rng.integers(4, 12, 2)
            target = ((y - row) ** 2 + (x - col) ** 2 < 12).astype(np.uint8) * (split not in empty)
            image = np.clip(60 + 120 * target + rng.normal(0, 15, (16, 16)), 0, 255).astype(np.uint8)
            out.add(ImageRecord(f"slice{i:02d}", f"patient{i:02d}", split), image, target)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data") / "discs")


def train(folder, out, *flags):
    return main(["--data", str(folder), "--out", str(out), *TINY, *flags])


def log_of(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(a, b, where=""):
    """Bit by bit, through dicts, lists and tensors."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def assert_same_run(a, b):
    for name in ("last.pt", "best.pt"):
        one, two = ({k: v for k, v in load_checkpoint(out / name).items() if k != "log_position"} for out in (a, b))
        assert_same(one, two, name)  # weights, optimizer, schedule, every generator
    assert log_of(a) == log_of(b)
    assert (a / "predictions.png").read_bytes() == (b / "predictions.png").read_bytes()


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("runs") / "reference"
    dice = train(folder, out)
    torch.use_deterministic_algorithms(False)
    assert dice > 0.5  # a network that finds nothing scores 0, whatever was lost on the way there
    return out, dice


# ---- what a run is ----------------------------------------------------------------------------------------------


def test_a_run_leaves_every_promised_file_and_says_how_good_it_is(folder, tmp_path, capsys):
    out = tmp_path / "run"
    dice = train(folder, out)
    assert sorted(os.listdir(out)) == sorted(
        ["best.pt", "curves.png", "data.json", "last.prev.pt", "last.pt", "log.jsonl", "predictions.png", "recipe.json"]
    )
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(f"test, 3 slices, best epoch: Dice {dice:.4f}, IoU ")
    for words in ("RMSE", "recall", "all background: Dice 0.0000", "threshold: Dice"):
        assert words in last_line
    first, *epochs, final = log_of(out)
    assert first["recipe"]["epochs"] == 3 and first["torch"] == torch.__version__
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert all(line["val"]["images"] == 5 for line in epochs)
    assert final["best epoch"]["dice"] == dice and final["best epoch"]["images"] == 3
    assert json.loads((out / "recipe.json").read_text())["recipe"]["embed_dim"] == 16
    for name in ("curves.png", "predictions.png"):
        Image.open(out / name).verify()
    best = load_checkpoint(out / "best.pt")  # what somebody needs who has only this file
    assert best["network"]["name"] == "SwinUNet"
    SwinUNet(**best["network"]["arguments"]).load_state_dict(best["model"])


def test_without_data_phantoms_are_drawn_into_the_runs_folder(tmp_path):
    dice = main(["--out", str(tmp_path), *TINY, "--epochs", "1", "--phantom-patients", "6", "--phantom-slices", "2"])
    assert 0 <= dice <= 1
    (phantoms,) = tmp_path.glob("phantoms*")
    assert len(read_manifest(phantoms)) == 12
    moved = tmp_path.with_name("moved")
    shutil.move(tmp_path, moved)
    assert main(["--out", str(moved), "--resume"]) == dice  # they move with the run


def test_the_same_command_gives_the_same_digits_and_another_seed_does_not(folder, reference, tmp_path):
    out, dice = reference
    assert train(folder, tmp_path / "again") == dice
    assert_same_run(out, tmp_path / "again")
    train(folder, tmp_path / "other", "--seed", "1")
    assert log_of(tmp_path / "other")[1] != log_of(out)[1]


OTHER = {
    "img_size": 12, "augment": "flips", "patch_size": 4, "embed_dim": 8, "depths": (2, 4), "num_heads": (2, 2),
    "window_size": 3, "drop_path_rate": 0.0, "prior_bias": True, "loss": "bce", "optimizer": "adam", "lr": 0.01,
    "weight_decay": 0.5, "warmup_epochs": 2.0, "schedule": "constant", "grad_clip": 0.01, "batch_size": 3,
    "accumulate": 2, "epochs": 2, "patience": 1, "min_epochs": 3, "monitor": "loss",
    "momentum": 0.5, "plateau_patience": 1, "min_lr": 5e-8, "freeze_encoder": 2, "amp": "bf16", "ema": 0.9,
    "stem": "conv", "conv_channels": (6,),
    "folds": 2, "fold": 1,
}  # fmt: skip
NEVER_BETTER = ["--lr", "1e-7", "--monitor", "iou"]  # a network that does not change is best after its first epoch
PLATEAU = [*NEVER_BETTER, "--schedule", "plateau", "--warmup-epochs", "0", "--min-lr", "0"]
FOLDS = ["--folds", "3", "--fold", "0"]
BASE = {  # what must be so for the field to matter
    "patience": NEVER_BETTER, "min_epochs": [*NEVER_BETTER, "--patience", "1"], "momentum": ["--optimizer", "sgd"],
    "plateau_patience": PLATEAU, "min_lr": [*PLATEAU, "--plateau-patience", "1"],
    "folds": FOLDS, "fold": FOLDS,
    "stem": ["--conv-channels", "5"],  # as many as a patch of 2 pixels needs
    "conv_channels": ["--stem", "conv", "--conv-channels", "5"],
    "monitor": ["--loss", "bce"],  # falls from the first epoch, before anything is found
}  # fmt: skip
# Phantoms; files (negatives: test_mine_negatives.py); what may change the last digits only, or none
# (tests/training/test_run.py); crops and neighbours (tests/training/test_crops.py, test_neighbours.py)
ELSEWHERE = {"phantom_view", "phantom_patients", "phantom_slices", "weights", "threads", "network", "negatives"}
ELSEWHERE.add("soft_targets")  # these slices had one reader: tests/examples/test_train_unet.py
ELSEWHERE |= {  # numbers of losses: tests/training/test_loss.py
    "pos_weight", "tversky_beta", "tversky_gamma", "focal_gamma", "focal_alpha", "boundary_weight", "lesion_size",
}  # fmt: skip
ELSEWHERE |= {"crop_size", "crops_per_slice", "foreground", "neighbours"}


def test_the_list_of_changed_fields_is_complete():
    assert {f.name for f in fields(train_swin.Recipe)} == OTHER.keys() | ELSEWHERE


@pytest.mark.parametrize("field", sorted(OTHER))
def test_no_knob_is_dead(folder, reference, tmp_path, field, epochs_of):
    """Whatever field is changed, the run is another one (the published script has ten flags that do nothing)."""
    flag, value, base = "--" + field.replace("_", "-"), OTHER[field], BASE.get(field, [])
    argv = [flag, *map(str, value if isinstance(value, tuple) else [value])]
    if value is True:
        argv = [flag]
    run = [main, "--data", str(folder), *TINY, *base]
    one = epochs_of(*run, out=tmp_path / "base") if base else log_of(reference[0])[1:-1]
    assert one != epochs_of(*run, *argv, out=tmp_path / "run")


def test_best_stays_the_first_when_the_score_falls(folder, tmp_path, monkeypatch):
    """ "Best" overwritten by "last" is a known bug of a famous script. A NaN is not the best either."""
    scores, look = iter([0.5, float("nan"), 0.4]), train_swin.evaluate

    def scripted_evaluate(*args, title="val", **kwargs):
        found = look(*args, title=title, **kwargs)
        return found if title == "test" else SimpleNamespace(scores={**found.scores, "dice": next(scores)})

    monkeypatch.setattr(train_swin, "evaluate", scripted_evaluate)
    train(folder, tmp_path / "run")
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert best["stopping"] == {"best": 0.5, "best_epoch": 1, "epochs": 1, "stop": False}


def test_each_epoch_has_its_own_order_and_its_own_variations(folder, tmp_path, monkeypatch):
    seen, learn = [], train_swin.train_one_epoch

    def watched(model, batches, *args, **kwargs):
        seen.append(
            [(id_, picture.sum().item()) for image, _, ids in batches for id_, picture in zip(ids, image, strict=True)]
        )
        return learn(model, batches, *args, **kwargs)

    monkeypatch.setattr(train_swin, "train_one_epoch", watched)
    train(folder, tmp_path / "run", "--epochs", "2")
    first, second = seen
    assert [id_ for id_, _ in first] != [id_ for id_, _ in second]
    assert sorted(id_ for id_, _ in first) == sorted(id_ for id_, _ in second)
    assert not set(first) & set(second)


def test_a_folder_without_a_test_split_is_evaluated_on_validation_and_says_so(tmp_path, capsys):
    data = make_folder(tmp_path / "data", ("train",) * 6 + ("val",) * 2)
    train(data, tmp_path / "run", "--epochs", "1")
    text = capsys.readouterr().out
    assert "There is no test split" in text and "\nval, 2 slices, best epoch" in text


# ---- going on ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """No handler of ours catches it."""


def kill_before(monkeypatch, call):
    """Die before the n-th call that changes the disk or the network."""
    calls = 0

    def counted(function):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    for name in ("replace", "fsync", "truncate", "rename"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(torch.optim.AdamW, "step", counted(torch.optim.AdamW.step))
    return lambda: calls


def test_killed_before_a_write_or_step_the_resumed_run_ends_bit_identical(folder, reference, tmp_path, monkeypatch):
    """Every third: an epoch is 11 (3 steps, 1 for the log, 7 for the checkpoints), so each kind has its turn."""
    with monkeypatch.context() as patch:
        total = kill_before(patch, call=-1)
        train(folder, tmp_path / "count")
        total = total()
    assert total > 25  # 3 epochs: 9 steps; log and checkpoints
    for call in range(1, total + 1, 3):
        out = tmp_path / str(call)
        with monkeypatch.context() as patch:
            kill_before(patch, call)
            with pytest.raises(Killed):
                train(folder, out)
        assert train(folder, out, *go_on(out)) == reference[1]
        assert_same_run(reference[0], out)


def go_on(out):
    """A run that was killed before it had written anything begins again, with the same command."""
    return ["--resume"] if (out / "recipe.json").exists() else []


def command(folder, out, *flags):
    return [sys.executable, str(SCRIPT), "--data", str(folder), "--out", str(out), *TINY, *flags]


def started(argv):
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_really_killed_twice_it_ends_bit_identical_with_any_number_of_workers(folder, reference, tmp_path):
    out = tmp_path / "run"
    for file, workers in (("best.pt", "2"), ("last.prev.pt", "0")):  # after the first epoch; after the second
        process = started(command(folder, out, *go_on(out), "--num-workers", workers))
        wait_for((out / file).exists, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert train(folder, out, "--resume", "--num-workers", "1") == reference[1]
    assert_same_run(reference[0], out)


def test_ctrl_c_says_how_to_go_on_and_one_can(folder, reference, tmp_path):
    out = tmp_path / "run"
    process = started(command(folder, out, "--num-workers", "2"))
    wait_for((out / "last.pt").exists, process)
    os.killpg(process.pid, signal.SIGINT)  # the terminal sends it to the workers too
    _, errors = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("the run was over before the signal came")
    assert process.returncode == 130
    assert "All finished epochs are saved" in errors and f"--out {out} --resume" in errors
    assert "Traceback" not in errors
    assert train(folder, out, "--resume") == reference[1]
    assert_same_run(reference[0], out)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_in_half, change_a_byte, os.remove])
def test_with_a_damaged_checkpoint_the_one_before_is_used(folder, reference, tmp_path, capsys, damage):
    out = tmp_path / "run"
    shutil.copytree(reference[0], out)
    damage(out / "last.pt")
    assert train(folder, out, "--resume") == reference[1]
    assert_same_run(reference[0], out)
    text = capsys.readouterr().out
    assert "epoch   3/3" in text and "epoch   2/3" not in text
    assert ("last.damaged.pt" in text) == (damage is not os.remove)


def test_a_finished_run_resumed_says_the_same_again(reference, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(reference[0], out)
    assert main(["--out", str(out), "--resume"]) == reference[1]  # the folder of slices is remembered
    assert_same_run(reference[0], out)
    assert "epoch " not in capsys.readouterr().out.replace("best epoch", "")


def test_early_stopping_is_remembered(folder, tmp_path):
    out = tmp_path / "run"
    flags = ["--lr", "1e-9", "--patience", "1", "--monitor", "iou", "--epochs", "6"]
    dice = train(folder, out, *flags)
    epochs = [line for line in log_of(out) if "epoch" in line]
    assert len(epochs) == 2
    assert main(["--out", str(out), "--resume"]) == dice
    assert [line for line in log_of(out) if "epoch" in line] == epochs


# ---- refusals ---------------------------------------------------------------------------------------------------


def refused(capsys, argv):
    assert main([str(a) for a in argv]) == 2
    text = capsys.readouterr().err
    assert text.startswith("train_swin.py: ") and text.count("\n") == 1, text
    return text


def test_a_run_is_never_overwritten(folder, reference, capsys):
    before = log_of(reference[0])
    assert "--resume" in refused(capsys, ["--data", folder, "--out", reference[0]])
    assert log_of(reference[0]) == before


@pytest.mark.parametrize(
    "flags", ["--lr 0.1", "--recipe report", "--seed 5", "--epochs 4", "--threads 2", "--folds 3 --fold 1"]
)
def test_a_resumed_run_cannot_become_another(reference, capsys, flags):
    assert "was started with" in refused(capsys, ["--out", reference[0], "--resume", *flags.split()])


def test_a_run_goes_on_with_its_own_slices_wherever_they_are_now(folder, reference, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(reference[0], out)
    shutil.copytree(folder, tmp_path / "moved")
    assert main(["--out", str(out), "--data", str(tmp_path / "moved"), "--resume"]) == reference[1]
    other = make_folder(tmp_path / "other", ("train",) * 8 + ("val",) * 3)
    assert "started with slices" in refused(capsys, ["--out", out, "--data", other, "--resume"])


def test_data_that_changed_since_a_run_began_are_not_learned_from(reference, folder, tmp_path, capsys):
    """Names and splits stay as they were; the digests do not. A copy of the same contents has only other times."""
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(reference[0], out)
    shutil.copytree(folder, data, copy_function=shutil.copy)
    again = ["--out", out, "--data", data, "--resume"]
    assert main([str(a) for a in again]) == reference[1]
    assert read_contents(out) == list_contents(data)  # with the times of the copy, so that it is read once only
    mask = np.array(Image.open(data / "masks/slice03.png"))
    Image.fromarray(np.roll(mask, 3, axis=1)).save(data / "masks/slice03.png")
    said = refused(capsys, again)
    assert "has changed since the run in" in said and "masks/slice03.png (changed). Restore it" in said
    Image.fromarray(mask).save(data / "masks/slice03.png")
    (data / "manifest.csv").write_text((data / "manifest.csv").read_text().replace("-1000", "-1350"))
    assert "manifest.csv (changed)" in refused(capsys, again)
    os.remove(out / "data.json")  # the checkpoint knows it too, but not which file
    assert "some of its files" in refused(capsys, again)
    state = load_checkpoint(out / "last.pt")
    assert state["input"]["hu_window"] == [-1000, 400]


def test_data_are_found_again_from_another_folder(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    dice = train(Path(folder.name), tmp_path / "run", "--epochs", "1")
    monkeypatch.chdir("/")
    assert main(["--out", str(tmp_path / "run"), "--resume"]) == dice
    state = load_checkpoint(tmp_path / "run/last.pt")
    save_checkpoint(tmp_path / "run/last.pt", {**state, "data": "/nowhere/lungs"})
    said = refused(capsys, ["--out", tmp_path / "run", "--resume"])
    assert "are no longer in /nowhere/lungs. Give their folder with --data" in said


def test_resume_with_nothing_to_resume_begins_nothing(reference, tmp_path, capsys):
    shutil.copytree(reference[0], tmp_path / "mine")
    said = refused(capsys, ["--out", tmp_path / "mien", "--resume"])
    assert f"{tmp_path / 'mien'} holds no run to resume. Did you mean {tmp_path / 'mine'}?" in said
    assert os.listdir(tmp_path) == ["mine"]


def test_of_two_runs_started_into_one_folder_one_trains(folder, reference, tmp_path, capsys):
    out = tmp_path / "run"
    first = started(command(folder, out, "--num-workers", "1"))
    wait_for((out / "recipe.json").exists, first)
    for flags in ([], ["--resume"]):  # neither reads the data
        said = refused(capsys, ["--data", tmp_path / "missing", "--out", out, *flags])
        assert f"{out} is in use by process {first.pid}" in said
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert_same_run(reference[0], out)


@pytest.fixture(scope="module")
def never_better(folder, tmp_path_factory):
    """A run whose best epoch is the first; last.prev.pt is the second."""
    out = tmp_path_factory.mktemp("runs") / "never_better"
    train(folder, out, *NEVER_BETTER)
    return out


@pytest.mark.parametrize("change", ["another epoch", "another network", "another shape", "missing"])
def test_a_best_epoch_that_is_not_that_of_the_run_is_refused(never_better, tmp_path, capsys, change):
    out = tmp_path / "run"
    shutil.copytree(never_better, out)
    best = load_checkpoint(out / "best.pt")
    if change == "another epoch":
        shutil.copy(out / "last.prev.pt", out / "best.pt")
    elif change == "another network":
        save_checkpoint(out / "best.pt", {**best, "network": {**best["network"], "name": "UNet"}})
    elif change == "another shape":
        save_checkpoint(out / "best.pt", {**best, "model": {**best["model"], "norm.weight": torch.ones(3)}})
    else:
        os.remove(out / "best.pt")
    words = {
        "another epoch": "best.pt is of epoch 2, expected epoch 1 or 4",
        "another network": "it has another network",
        "another shape": "best.pt does not fit this run: model.norm.weight is (3,)",
        "missing": "best.pt, the best epoch of this run, is missing",
    }
    assert words[change] in refused(capsys, ["--out", out, "--resume"])


@pytest.mark.parametrize("again", [(0.6, 0.7), (0.4, 0.3)], ids=["the best again", "no longer the best"])
def test_killed_between_best_and_last_the_run_goes_on(folder, tmp_path, monkeypatch, again):
    """Repeated on a GPU, an epoch may come out a little worse; then best.pt is still the best there ever was."""
    out, scores, look = tmp_path / "run", [0.5, 0.6], train_swin.evaluate

    def scripted_evaluate(*args, title="val", **kwargs):
        found = look(*args, title=title, **kwargs)
        return found if title == "test" else SimpleNamespace(scores={**found.scores, "dice": scores.pop(0)})

    def kill_at_the_second_last(path, *args, **kwargs):
        if path.name == "last.pt" and path.exists():
            raise Killed
        save_checkpoint(path, *args, **kwargs)

    monkeypatch.setattr(train_swin, "evaluate", scripted_evaluate)
    with monkeypatch.context() as patch:
        patch.setattr("lungseg.training.run.save_checkpoint", kill_at_the_second_last)
        with pytest.raises(Killed):
            train(folder, out)
    ahead, behind = (load_checkpoint(out / name)["stopping"]["epochs"] for name in ("best.pt", "last.pt"))
    assert (ahead, behind) == (2, 1)
    scores[:] = again
    assert isinstance(main(["--out", str(out), "--resume"]), float) and not scores
    assert load_checkpoint(out / "best.pt")["stopping"]["best"] == max(0.6, *again)


def test_a_log_that_was_damaged_is_named(reference, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(reference[0], out)
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"val": {', '"val": [', 1)
    (out / "log.jsonl").write_text("".join(lines))
    assert "log.jsonl, line 3 is damaged" in refused(capsys, ["--out", out, "--resume"])


def test_an_epoch_is_printed_once_it_is_saved(folder, tmp_path, monkeypatch, capsys):
    """Otherwise a full disk would be reported after the line that says all is well."""
    said = []

    def watched(*args, **kwargs):
        said.append(capsys.readouterr().out)
        save_checkpoint(*args, **kwargs)

    monkeypatch.setattr("lungseg.training.run.save_checkpoint", watched)
    train(folder, tmp_path / "run", "--epochs", "1")
    assert len(said) == 2 and not any("epoch   1/1" in text for text in said)
    assert "epoch   1/1" in capsys.readouterr().out


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_a_slice_lost_during_the_run_is_one_sentence(folder, tmp_path, monkeypatch, capsys, num_workers):
    """With worker processes too, whose errors come with a traceback otherwise."""
    data = tmp_path / "data"
    shutil.copytree(folder, data)
    monkeypatch.setattr("lungseg.data.slices.CACHE_BYTES", 0)
    begin = sys.modules["lungseg.training.run"].Run.begin

    def lose_a_file(*args, **kwargs):
        os.remove(data / "images/slice03.png")
        return begin(*args, **kwargs)

    monkeypatch.setattr("lungseg.training.run.Run.begin", lose_a_file)
    assert train(data, tmp_path / "run", "--num-workers", num_workers) == 2
    said = capsys.readouterr().err
    assert "images/slice03.png is missing" in said and said.count("\n") == 1, said


def test_a_checkpoint_of_another_script_is_not_resumed(folder, reference, tmp_path, capsys):
    state = load_checkpoint(reference[0] / "last.pt")
    del state["recipe"]["monitor"]
    save_checkpoint(tmp_path / "last.pt", state)
    assert "another script or version" in refused(capsys, ["--data", folder, "--out", tmp_path, "--resume"])


def test_bad_input_ends_in_one_sentence_and_leaves_nothing(folder, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "images/slice03.png").write_bytes(b"no picture")
    only_test = make_folder(tmp_path / "only_test", ("test",) * 3)
    out = ["--out", tmp_path / "run"]
    for argv, words in (
        (["--data", tmp_path / "missing"], "missing"),
        (["--data", broken], "slice03.png is not a PNG"),
        (["--data", only_test], "Training needs train and val"),
        (["--data", folder, "--embed-dim", "10", "--num-heads", "3", "6"], "divi"),
        (["--data", folder, "--device", "cuda"], "no GPU"),
    ):
        if "cuda" in argv and torch.cuda.is_available():
            continue
        assert words in refused(capsys, [*argv, *out])
        assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number_stops_and_names_the_slices(folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(folder, out, "--lr", "1e30", "--grad-clip", "none", "--warmup-epochs", "0") == 2
    text = capsys.readouterr().err
    assert "The loss became nan on the batch of slices slice" in text and text.count("\n") == 1
    assert not (out / "best.pt").exists()


def test_validation_slices_without_a_lesion_are_refused_before_the_first_epoch(tmp_path, capsys):
    """Their Dice is 0/0, which is NaN, which is never best: better said now than after the last epoch."""
    data = make_folder(tmp_path / "data", ("train",) * 6 + ("val",) * 2, empty=("val",))
    out = tmp_path / "run"
    assert "No validation image" in refused(capsys, ["--data", data, "--out", out, *TINY])
    assert not out.exists()
    assert isinstance(main(["--data", str(data), "--out", str(out), *TINY, "--monitor", "loss"]), float)


def test_a_run_stopped_in_its_first_epoch_goes_on_as_it_was_started(folder, reference, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_swin, "train_one_epoch", interrupted)
        assert train(folder, out) == 130
    said = f"No epoch was finished; begin again with: python {sys.argv[0]} --out {out} --resume"
    assert said in capsys.readouterr().err
    assert "with seed 0, and now it would be 5" in refused(capsys, ["--out", out, "--resume", "--seed", "5"])
    assert main(["--out", str(out), "--resume"]) == reference[1]  # its own folder, network and settings
    assert_same_run(reference[0], out)


def test_a_run_stopped_in_its_first_epoch_keeps_its_data_weights_and_processes(
    folder, reference, tmp_path, capsys, monkeypatch
):
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(folder, data)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.chdir(reference[0])
    with monkeypatch.context() as patch:
        patch.setattr(train_swin, "train_one_epoch", interrupted)
        assert train(data, out, "--weights", "best.pt") == 130
    monkeypatch.chdir("/")
    capsys.readouterr()
    started, mask = json.loads((out / "recipe.json").read_text()), (data / "masks/slice03.png").read_bytes()
    assert started["recipe"]["weights"] == str(reference[0] / "best.pt")
    (out / "recipe.json").write_text(json.dumps(started | {"processes": 7}))
    assert "was started with processes 7, and now it would be 1" in refused(capsys, ["--out", out, "--resume"])
    (out / "recipe.json").write_text(json.dumps(started))
    shutil.copy(data / "masks/slice04.png", data / "masks/slice03.png")
    assert "masks/slice03.png (changed)" in refused(capsys, ["--out", out, "--resume"])
    (data / "masks/slice03.png").write_bytes(mask)
    assert isinstance(main(["--out", str(out), "--resume"]), float)  # the weights are found from here too


def test_published_weights_are_a_start(folder, reference, tmp_path, capsys):
    """Swin's layout, made from a network of ours: the run must begin with them, and a resumed one must not."""
    torch.manual_seed(7)
    network = SwinUNet(embed_dim=16, depths=(2, 2), num_heads=(1, 2), window_size=4, patch_size=2)
    names = {"encoder.0.": "layers.0.blocks.", "bottleneck.": "layers.1.blocks.", "merging.0.": "layers.0.downsample."}
    published = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in {**names, "patch_embed.": "patch_embed.", "norm.": "norm."}.items():
            if name.startswith(ours):
                published[theirs + name.removeprefix(ours)] = tensor
    torch.save({"model": published}, tmp_path / "swin.pth")
    out = tmp_path / "run"
    assert isinstance(train(folder, out, "--weights", str(tmp_path / "swin.pth")), float)
    assert "Swin (microsoft): " in capsys.readouterr().out
    assert log_of(out)[1:] != log_of(reference[0])[1:]
    assert "cannot be read" in refused(
        capsys, ["--data", folder, "--out", tmp_path / "x", *TINY, "--weights", "none.pth"]
    )


def test_ones_own_weights_are_a_start(folder, reference, tmp_path, starts_from):
    """The reference has no bias in its head (--no-prior-bias); a network with one starts at what it computes, 0."""
    argv = ["--data", str(folder), *TINY]
    starts_from(main, argv, reference[0] / "best.pt", tmp_path / "run")
    still = ["--epochs", "1", "--lr", "1e-12", "--prior-bias", "--weights", str(reference[0] / "best.pt")]
    assert isinstance(main([*argv, *still, "--out", str(tmp_path / "bias")]), float)
    assert load_checkpoint(tmp_path / "bias/last.pt")["model"]["head.bias"].abs().item() < 1e-6


def test_a_run_of_an_older_version_is_resumed(folder, reference, tmp_path):
    """It knew nothing of the fields that were added since; with their defaults it is the same run."""
    out = tmp_path / "run"
    shutil.copytree(reference[0], out)
    state = load_checkpoint(out / "last.prev.pt")
    for part in ("recipe", "run"):
        for name in (
            "weights",
            "freeze_encoder",
            "threads",
            "crop_size",
            "crops_per_slice",
            "foreground",
            "neighbours",
            "folds",
            "fold",
            "negatives",
        ):
            del state[part][name]
        state[part]["amp"] = "bf16"  # the default, with which a CPU took float32
    save_checkpoint(out / "last.pt", state)
    os.remove(out / "last.prev.pt")
    assert main(["--out", str(out), "--resume"]) == reference[1]
    assert_same_run(reference[0], out)


def test_a_run_begun_before_the_fused_optimizer_is_resumed_with_the_plain_one(folder, tmp_path, monkeypatch):
    def plain(recipe, model):
        groups = make_optimizer(recipe, model).param_groups
        return torch.optim.AdamW([{k: group[k] for k in ("params", "weight_decay")} for group in groups], lr=recipe.lr)

    with monkeypatch.context() as patch:
        patch.setattr(train_swin, "make_optimizer", plain)
        dice = train(folder, tmp_path / "old")
    out = tmp_path / "resumed"
    shutil.copytree(tmp_path / "old", out)
    os.replace(out / "last.prev.pt", out / "last.pt")  # after two of three epochs
    assert main(["--out", str(out), "--resume"]) == dice > 0.5
    assert_same_run(tmp_path / "old", out)


def test_a_fold_resumes_by_itself(folder, tmp_path):
    """Its numbers are in its checkpoint; without them, other patients would validate."""
    dice = train(folder, tmp_path / "whole", *FOLDS, "--epochs", "2")
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    os.replace(tmp_path / "out/last.prev.pt", tmp_path / "out/last.pt")  # after the first epoch
    assert main(["--out", str(tmp_path / "out"), "--resume"]) == dice
    assert_same_run(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize(
    "flags",
    ["--patch-size 0", "--embed-dim 0", "--window-size 0", "--depths 2 0", "--grad-clip 0", "--lr nan"]
    + ["--warmup-epochs -1", "--seed 99999999999999999999"]
    + ["--folds 1 --fold 0", "--folds 5 --fold 5"],
)
def test_impossible_numbers_are_refused_before_anything_is_written(folder, tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as stop:
        main(["--data", str(folder), "--out", str(tmp_path / "run"), *flags.split()])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "must" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_help_is_for_people(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "phantoms" in text and "torchrun" in text and "--drop-path-rate" in text


@pytest.mark.parametrize("name", train_swin.RECIPES)
def test_every_recipe_describes_a_network_that_can_be_built(name):
    with torch.device("meta"):
        SwinUNet(**train_swin.network_arguments(train_swin.RECIPES[name]))


# ---- several processes ------------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_learns(folder, tmp_path):
    """11 training slices in batches of at most 6, 5 for validation: uneven for two processes in every way."""
    flags = ["--epochs", "2", "--drop-path-rate", "0", "--batch-size", "6", "--lr", "1e-3", "--ema", "0.9"]
    train(folder, tmp_path / "one", *flags)
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--nnodes=1"]
    argv = [*run, "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0", *command(folder, tmp_path / "two", *flags)[1:]]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test, 3 slices, best epoch") == 1  # one process speaks
    for one, two in zip(log_of(tmp_path / "one")[1:], log_of(tmp_path / "two")[1:], strict=True):
        assert one.keys() == two.keys()
        for key in ("train_loss", "val"):
            if key in one:
                assert two[key] == pytest.approx(one[key], abs=1e-4), key
    lasts = [load_checkpoint(tmp_path / name / "last.pt") for name in ("one", "two")]
    for one, two in ([last["model"] for last in lasts], [last["ema"]["weights"] for last in lasts]):
        for name in one:
            torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-4)


def test_the_data_decide_how_many_classes_the_network_has(learns_two_classes):
    learns_two_classes(main, *TINY, "--prior-bias")


OWN_NETWORK = """
from torch import nn

class SwinUNet(nn.Module):
    def __init__(self, in_channels=1, num_classes=1, *, embed_dim=8):
        super().__init__()
        self.body = nn.Conv2d(in_channels, embed_dim, 3, padding=1)
        self.out = nn.Conv2d(embed_dim, num_classes, 1)

    def forward(self, image):
        return self.out(self.body(image).relu())
"""


def test_a_network_of_ones_own_is_trained_resumed_and_not_taken_for_ours(discs, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_swin.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(discs), "--out", "run", "--img-size", "16", "--device", "cpu", "--schedule", "constant"]
    arguments += ["--embed-dim", "6"]
    assert 0 <= train_swin.main([*arguments, "--network", "my_swin.py", "--epochs", "1"]) <= 1
    saved = torch.load("run/best.pt", weights_only=True)
    assert saved["network"]["name"] == "SwinUNet of my_swin.py" and saved["model"]["body.weight"].shape == (6, 1, 3, 3)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the file is found from everywhere
    assert 0 <= train_swin.main(["--out", str(tmp_path / "run"), "--resume", "--epochs", "2"]) <= 1
    with pytest.raises(ValueError, match="only that file can build"):
        load_predictor(tmp_path / "run" / "best.pt")
    capsys.readouterr()
    assert train_swin.main([*arguments[:2], "--out", "x", "--network", "nowhere.py"]) == 2
    assert "expected a Python file" in capsys.readouterr().err
