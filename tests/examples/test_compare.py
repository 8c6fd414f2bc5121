"""The comparison, with tiny networks: equal budgets, all seeds and folds in the table, slices and volumes.

The training scripts are called in this process, which saves starting Python and torch for each run.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lungseg
from lungseg.checkpoint import load_checkpoint
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.evaluation import report
from lungseg.flags import parse_recipe
from lungseg.training import commands
from lungseg.training.recipe import RunOptions, TrainingRecipe

FEW = {
    "Swin-UNet": "train_swin.py --patch-size 4 --embed-dim 4 --depths 2 --num-heads 1 --window-size 4 --lr 0.01",
    "U-Net": "train_unet.py --channels 4 8 --lr 0.01",
}


SOLID = {
    "U-Net 3-D": "train_unet.py --spatial-dims 3 --channels 4 8 --norm instance --lr 0.01",
    "U-Net + neighbours": "train_unet.py --channels 4 8 --lr 0.01 --neighbours 1",
}
SMALL = ["--steps", "7", "--img-size", "32", "--batch-size", "4"]


@pytest.fixture(scope="module")
def compare(example):
    return example("compare")


@pytest.fixture
def here(example, monkeypatch):
    """Training commands run in this process; yields those that were run."""
    ran = []

    def run(command):
        ran.append(command)
        dice = example(Path(command[1]).stem).main(list(command[2:]))
        return 0 if isinstance(dice, float) else dice

    monkeypatch.setattr(commands, "run", run)
    return ran


@pytest.fixture(scope="module")
def done(compare, example, discs, tmp_path_factory):
    """Two networks, two seeds: 9 training slices in batches of 4 are 3 steps, so 7 steps are 2 epochs."""
    out = tmp_path_factory.mktemp("compare") / "run"
    argv = ["--data", str(discs), "--out", str(out), *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "NETWORKS", FEW)
        patch.setattr(commands, "run", lambda c: isinstance(example(Path(c[1]).stem).main(list(c[2:])), int))
        return out, compare.main(argv), compare.main(argv)


def read_rows(out):
    with open(out / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_network_has_the_same_budget_data_and_seeds(done):
    out, dice, _ = done
    assert dice.keys() == FEW.keys()
    states = {
        (name, seed): load_checkpoint(out / f"{name}_seed{seed}" / "last.pt")
        for name in ("swin_unet", "u_net")
        for seed in (0, 1)
    }
    for (_, seed), state in states.items():
        assert state["recipe"]["epochs"] == 2 and state["run"]["seed"] == seed
        assert state["schedule"]["last_epoch"] == 6  # optimizer steps
    shared = ("img_size", "batch_size", "augment", "loss", "schedule", "warmup_epochs", "optimizer", "weight_decay")
    assert len({tuple(str(s["recipe"][name]) for name in shared) for s in states.values()}) == 1
    assert len({s["run"]["slices"] for s in states.values()}) == 1


def test_the_table_is_the_mean_over_the_seeds(done):
    """At the size of the files, which is that of the training here: the logs of the training runs say the same."""
    out, dice, _ = done
    for name, folder in (("Swin-UNet", "swin_unet"), ("U-Net", "u_net")):
        logs = [(out / f"{folder}_seed{seed}" / "log.jsonl").read_text().splitlines() for seed in (0, 1)]
        means = [json.loads(lines[-1])["best epoch"]["dice"] for lines in logs]
        assert dice[name] == pytest.approx(sum(means) / 2)
        decided = [json.loads(lines[-1])["decision"]["test"]["dice"] for lines in logs]
        chosen = [float(r["chosen_dice"]) for r in read_rows(out) if (r["network"], r["stratum"]) == (name, "all")]
        assert chosen == pytest.approx([sum(decided) / 2], rel=1e-5) and sum(decided) > sum(means)
    whole = {row["network"]: row for row in read_rows(out) if row["stratum"] == "all"}
    assert whole["U-Net"]["slices"] == "3" and whole["U-Net"]["patients"] == "3" and whole["U-Net"]["lesions"] == "3"
    assert float(whole["U-Net"]["dice"]) == pytest.approx(dice["U-Net"], rel=1e-5)
    assert {row["stratum"] for row in read_rows(out)} >= {"all", "5-10 mm"}


def test_a_test_split_without_lesion_is_refused_before_any_training(compare, tmp_path, capsys):
    with SliceWriter(tmp_path / "data") as folder:
        for i, split in enumerate(("train", "val", "test")):
            image, target = np.arange(64, dtype=np.uint8).reshape(8, 8) + i, np.eye(8, dtype=np.uint8)
            folder.add(ImageRecord(f"s{i}", f"p{i}", split), image, target * (split != "test"))
    assert compare.main(["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "No test image" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_second_start_goes_on_and_says_the_same(done):
    _, first, second = done
    assert first == second


def test_the_files_say_what_was_done(done):
    out, _, _ = done
    text = (out / "comparison.md").read_text()
    for words in ("Every network on discs, seeds 0, 1", "| U-Net |", "Swin-UNet 0.", "RRc-UNet 3D (quoted)"):
        assert words in text
    assert "averaging differ" in text
    ours = {row["network"]: row for row in read_rows(out) if row["stratum"] == "all"}
    for name, title in (("Swin-UNet", "Swin-UNet"), ("U-Net", "U-Net (quoted)")):
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} | 0."))
        next_to = line.split(" | ")[2::2]
        assert [float(x.strip(" |")) for x in next_to] == pytest.approx(
            [float(ours[name][score]) for score in ("dice", "iou", "rmse", "recall")], abs=1e-4
        )
    with Image.open(out / "worst_median_best.png") as picture:
        assert picture.width > 300


def test_a_picture_that_fails_loses_no_table(done, compare, discs, monkeypatch):
    out, first, _ = done
    monkeypatch.setattr(compare, "NETWORKS", FEW)
    monkeypatch.setattr(compare, "prediction_sheet", lambda *_, **__: 1 / 0)
    (out / "comparison.md").unlink()
    argv = ["--data", str(discs), "--out", str(out), *SMALL]
    with pytest.warns(UserWarning, match="^worst_median_best.png was not drawn"):
        assert compare.main(argv) == first
    assert (out / "comparison.md").exists()


def test_other_settings_are_not_mixed_in(done, compare, capsys, tmp_path):
    out, _, _ = done
    assert compare.main(["--out", str(out), "--steps", "8"]) == 2
    assert "other settings" in capsys.readouterr().err
    (tmp_path / "letter.txt").write_text("the only copy")
    assert compare.main(["--out", str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert compare.main(["--data", str(tmp_path / "none"), "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_data_that_changed_are_not_mixed_in(done, compare, discs, capsys, tmp_path):
    """Else one of the networks would be trained on other masks, and the table would not say so."""
    out, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(done[0], out)
    shutil.copytree(discs, data)
    settings = json.loads((out / "compare.json").read_text())
    argv = ["--out", str(out), "--data", str(data), *SMALL]
    (out / "compare.json").write_text(json.dumps(settings | {"data": str(data)}, indent=1) + "\n")
    shutil.copy(data / "masks/slice01.png", data / "masks/slice02.png")
    assert compare.main(argv) == 2
    assert "other settings or data" in capsys.readouterr().err


def test_of_two_comparisons_in_one_folder_the_second_is_refused(compare, tmp_path, capsys):
    hold = "import os, sys, time; from lock import locked\nwith locked(sys.argv[1]): os.write(1, b'x'); time.sleep(60)"
    argv = [sys.executable, "-c", hold, str(tmp_path / "run")]
    folder = {"PYTHONPATH": str(Path(lungseg.__file__).parent / "training")}
    first = subprocess.Popen(argv, stdout=subprocess.PIPE, env=os.environ | folder)
    try:
        assert first.stdout.read(1) == b"x"
        assert compare.main(["--out", str(tmp_path / "run")]) == 2
        assert f"run is in use by process {first.pid}" in capsys.readouterr().err
    finally:
        first.kill()
        first.communicate()


def test_a_budget_of_seconds_is_measured_in_epochs(compare, discs, tmp_path, monkeypatch):
    options = compare.Comparison(data=discs, out=tmp_path, seconds=100.0)
    seconds = {"U-Net": 7.0, "Swin-UNet": 300.0}
    monkeypatch.setattr(compare.NetworkRuns, "seconds_per_epoch", lambda network_runs: seconds[network_runs.name])

    def epochs(name):
        network_runs = compare.make_runs(name, FEW[name], discs, options)
        return compare.count_epochs(network_runs, FEW[name], discs, options)

    assert epochs("U-Net") == 14 and epochs("Swin-UNet") == 1  # never none


@pytest.mark.parametrize(
    "flags",
    [
        ["--steps", "0"],
        ["--seconds", "-1"],
        ["--seeds", "1", "1"],
        ["--seeds", "-1"],
        ["--recipe", "demo"],
        ["--folds", "1"],
        ["--crop-size", "8", "8"],
        ["--crop-size", "8", "8", "9"],
    ],
)
def test_impossible_settings_are_refused(compare, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main(flags)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_each_network_of_the_report_is_compared(compare):
    assert report.SLICES.keys() - compare.NETWORKS.keys() == {"RRC-U-Net"}  # which is for volumes
    assert report.VOLUMES.keys() <= compare.VOLUME_NETWORKS.keys()


@pytest.mark.parametrize("kind", ["NETWORKS", "VOLUME_NETWORKS"])
def test_each_network_of_the_comparison_can_be_trained_by_its_script(compare, example, kind):
    """The flags are read and the networks built, at full size, without training. What they share is equal."""
    shared = []
    for command in getattr(compare, kind).values():
        script, *flags = command.split()
        module = example(script.removesuffix(".py"))
        known = {f"--{f.name.replace('_', '-')}" for f in fields(module.Recipe)}
        if {"--stem", "--conv-channels"} & set(flags) - known:
            continue  # a script without them
        recipe, _, _ = parse_recipe(module.RECIPES, RunOptions(), [*flags, *compare.SHARED.split()])
        assert module.network_arguments(recipe)
        of_each = ("lr", "batch_size", "epochs", "neighbours")  # its own rate; the budget; what it is shown
        of_each += ("phantom_volumes", "crop_size")  # of recipes for volumes
        shared.append({f.name: getattr(recipe, f.name) for f in fields(TrainingRecipe) if f.name not in of_each})
        assert recipe.crop_side is None  # unless the comparison says so
    assert len(shared) > 2 and all(found == shared[0] for found in shared)


def test_a_subset_of_the_networks_can_be_chosen(compare, discs, tmp_path, here, monkeypatch, capsys):
    monkeypatch.setattr(compare, "NETWORKS", FEW)
    out = tmp_path / "run"
    argv = ["--data", str(discs), "--out", str(out), *SMALL, "--seeds", "0"]
    assert compare.main([*argv, "--networks", "u_net"]).keys() == {"U-Net"}
    assert compare.main([*argv, "--networks", "U-Net", "swin_unet"]).keys() == FEW.keys()  # and later others too
    assert [Path(command[1]).stem for command in here] == ["train_unet", "train_swin"]
    assert compare.main([*argv, "--networks", "u_nett"]) == 2
    assert "--networks u_nett: expected names among swin_unet, u_net." in capsys.readouterr().err


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    """A folder of volumes of 4 to 6 slices of 16 x 16, two of each patient: bright balls on noise."""
    folder = tmp_path_factory.mktemp("data") / "balls"
    with VolumeWriter(folder) as out:
        for i, split in enumerate(("train",) * 8 + ("val",) * 4 + ("test",) * 12):
            rng = np.random.default_rng(i)
            z, y, x = np.indices((4 + i % 3, 16, 16)) - np.reshape([2, *rng.integers(5, 11, 2)], (3, 1, 1, 1))
            target = ((2 * z) ** 2 + y**2 + x**2 < 16).astype(np.uint8)
            hu = (-800.0 + 800.0 * target + rng.normal(0, 50, target.shape)).astype(np.int16)
            out.add(ImageRecord(f"v{i:02d}", f"p{i // 2}", split), hu, target, (2.0, 1.0, 1.0))
    return folder


def test_volumes_are_compared_whole_and_by_the_size_of_their_balls(compare, balls, tmp_path, here, monkeypatch):
    """8 training volumes, 2 crops of each, in batches of 4: 4 steps to an epoch."""
    monkeypatch.setattr(compare, "VOLUME_NETWORKS", SOLID)
    out = tmp_path / "run"
    argv = ["--data", str(balls), "--out", str(out), "--steps", "24", "--seeds", "0", "--batch-size", "4"]
    dice = compare.main([*argv, "--crop-size", "4", "12", "12", "--slice-mm", "1"])
    state = load_checkpoint(out / "u_net_3_d_seed0/last.pt")
    assert state["recipe"]["epochs"] == 6 and state["schedule"]["last_epoch"] == 24
    assert tuple(state["recipe"]["crop_size"]) == (4, 12, 12) and state["recipe"]["slice_mm"] == 1
    for name, folder in (("U-Net 3-D", "u_net_3_d"), ("U-Net + neighbours", "u_net_neighbours")):
        last = json.loads((out / f"{folder}_seed0/log.jsonl").read_text().splitlines()[-1])
        assert dice[name] == pytest.approx(last["best epoch"]["dice"], abs=1e-6)
    flat = load_checkpoint(out / "u_net_neighbours_seed0/last.pt")
    assert flat["network"]["arguments"]["in_channels"] == 3 and flat["recipe"]["epochs"] == 2  # 39 slices, 10 steps
    assert dice["U-Net 3-D"] > 0
    whole, *by_size = (row for row in read_rows(out) if row["network"] == "U-Net 3-D")
    assert (whole["slices"], whole["patients"], whole["unit"], whole["split"]) == ("12", "6", "mm", "test")
    assert [row["stratum"] for row in by_size] == ["5-10 mm"]  # radius 4 mm
    text = (out / "comparison.md").read_text()
    for words in ("| volumes |", "FP/volume", "pooled Dice (95 %)", "RRc-UNet 3D, quoted) | 0.8777 | – |"):
        assert words in text
    assert 0 < float(whole["iou_low"]) <= float(whole["iou"]) <= float(whole["iou_high"])


def test_a_2d_network_on_volumes_has_a_budget_in_slices(compare, balls, tmp_path):
    options = compare.Comparison(data=balls, out=tmp_path, steps=100, batch_size=4, crop_size=(4, 12, 12))
    command = compare.VOLUME_NETWORKS["U-Net + neighbours"]
    network_runs = compare.make_runs("U-Net + neighbours", command, balls, options)
    assert " --neighbours 1 --crop-size 12 --batch-size 4" in " ".join(network_runs.flags)
    slices = sum(4 + i % 3 for i in range(8))
    assert compare.count_epochs(network_runs, command, balls, options) == round(100 / -(-slices // 4))


def test_with_folds_every_other_patient_is_scored_once_by_who_did_not_learn_from_them(
    compare, discs, tmp_path, here, monkeypatch
):
    monkeypatch.setattr(compare, "NETWORKS", {"U-Net": FEW["U-Net"]})
    asked, out = [], tmp_path / "run"
    look = compare.score_run

    def watched(folder, data, options):
        asked.append((folder.name, {record.group for record in data.records}))
        return look(folder, data, options)

    monkeypatch.setattr(compare, "score_run", watched)
    dice = compare.main(["--data", str(discs), "--out", str(out), *SMALL, "--folds", "3", "--seeds", "0"])
    assert len(here) == 3 and all("--folds 3 --fold" in " ".join(command) for command in here)
    test, held_out = asked[:3], asked[3:]
    assert [name for name, _ in held_out] == [f"u_net_fold{k}_seed0" for k in range(3)]
    assert sorted(patient for _, patients in held_out for patient in patients) == [f"patient{i:02d}" for i in range(12)]
    assert all(patients == {"patient12", "patient13", "patient14"} for _, patients in test)
    for name, patients in held_out:  # those whom this run validated on
        state = load_checkpoint(out / name / "best.pt")
        assert (state["recipe"]["folds"], f"fold{state['recipe']['fold']}") == (3, name.split("_")[2])
        assert len(patients) == 4
    rows = {row["split"]: row for row in read_rows(out) if row["stratum"] == "all"}
    assert (rows["out of fold"]["slices"], rows["test"]["slices"]) == ("12", "3")
    assert float(rows["test"]["dice"]) == pytest.approx(dice["U-Net"], rel=1e-5)
    assert "out of fold" in (out / "comparison.md").read_text()


def test_with_lesion_classes_lesions_of_any_class_are_compared(compare, two_classes, tmp_path, here, monkeypatch):
    monkeypatch.setattr(compare, "NETWORKS", {"U-Net": FEW["U-Net"]})
    sizes = ["--steps", "60", "--img-size", "32", "--batch-size", "4", "--seeds", "0"]
    found = compare.main(["--data", str(two_classes), "--out", str(tmp_path / "out"), *sizes])
    assert 0 < found["U-Net"] <= 1
    assert (
        "esions of any class are scored, not whether they are solid, cyst"
        in (tmp_path / "out/comparison.md").read_text()
    )
    assert load_checkpoint(tmp_path / "out/u_net_seed0/best.pt")["network"]["arguments"]["num_classes"] == 2
    whole = read_rows(tmp_path / "out")[0]
    assert whole["slices"] == "3" and whole["lesions"] == "4"  # where discs and squares touch, they are one lesion
