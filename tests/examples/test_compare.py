"""The comparison, with two tiny networks: equal budgets, all seeds in the table, and that of the original report."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

import lungseg
from lungseg.checkpoint import load_checkpoint
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.flags import parse_recipe
from lungseg.training.recipe import RunOptions, TrainingRecipe

FEW = {
    "Swin-UNet": "train_swin.py --patch-size 4 --embed-dim 4 --depths 2 --num-heads 1 --window-size 4 --lr 0.01",
    "U-Net": "train_unet.py --channels 4 8 --lr 0.01",
}


@pytest.fixture(scope="module")
def compare(example):
    return example("compare")


@pytest.fixture(scope="module")
def done(compare, discs, tmp_path_factory):
    """Two networks, two seeds: 9 training slices in batches of 4 are 3 steps, so 7 steps are 2 epochs."""
    out = tmp_path_factory.mktemp("compare") / "run"
    argv = ["--data", str(discs), "--out", str(out), "--steps", "7", "--img-size", "32", "--batch-size", "4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "NETWORKS", FEW)
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
    assert "No test slice" in capsys.readouterr().err and not (tmp_path / "out").exists()


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
    argv = ["--data", str(discs), "--out", str(out), "--steps", "7", "--img-size", "32", "--batch-size", "4"]
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
    argv = ["--out", str(out), "--data", str(data), "--steps", "7", "--img-size", "32", "--batch-size", "4"]
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

    def pretend(name, data, options, epochs, seed, kind):
        assert epochs == 1 and kind == "trial"
        folder = compare.run_folder(name, options, kind)
        folder.mkdir()
        seconds = {"U-Net": 7.0, "Swin-UNet": 300.0}[name]
        (folder / "log.jsonl").write_text("{}\n" + json.dumps({"epoch": 1, "seconds": seconds}) + "\n")

    monkeypatch.setattr(compare, "train", pretend)
    assert compare.count_epochs("U-Net", discs, options) == 14
    assert compare.count_epochs("Swin-UNet", discs, options) == 1  # never none


@pytest.mark.parametrize(
    "flags", [["--steps", "0"], ["--seconds", "-1"], ["--seeds", "1", "1"], ["--seeds", "-1"], ["--recipe", "demo"]]
)
def test_impossible_settings_are_refused(compare, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        compare.main(flags)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_each_network_of_the_comparison_is_in_the_table_of_the_report(compare):
    assert compare.NETWORKS.keys() <= compare.REPORT.keys()


def test_each_network_of_the_comparison_can_be_trained_by_its_script(compare, example):
    """The flags are read and the networks built, at full size, without training. What they share is equal."""
    shared = []
    for command in compare.NETWORKS.values():
        script, *flags = command.split()
        module = example(script.removesuffix(".py"))

        recipe, _, _ = parse_recipe(module.RECIPES, RunOptions(), [*flags, *compare.SHARED.split()])
        assert module.network_arguments(recipe)
        of_each = ("lr", "batch_size", "epochs", "crop_size")  # its own rate; the budget, which the other flags say
        shared.append({f.name: getattr(recipe, f.name) for f in fields(TrainingRecipe) if f.name not in of_each})
        assert recipe.crop_side is None  # none of them is trained on crops
    assert all(found == shared[0] for found in shared)


def test_with_lesion_classes_lesions_of_any_class_are_compared(compare, two_classes, tmp_path, monkeypatch):
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


# ---- the table of the original report ---------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_of_the_reports_and_ours_where_we_have_it(compare):
    text = compare.report_table({"UNETR": {"dice": 0.5, "iou": 0.4, "rmse": 0.1, "recall": 0.625}})
    table, _, paragraph = text.partition("\n\n")
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert len(rows) == 2 + len(compare.REPORT)
    assert rows["UNETR"] == "| UNETR | 0.8063 | 0.5000 | 0.6772 | 0.4000 | 0.0223 | 0.1000 | 0.7727 | 0.6250 |"
    assert rows["U-Net (quoted)"] == "| U-Net (quoted) | 0.862 | – | – | – | – | – | – | – |"
    assert rows["Swin-UNet"].startswith("| Swin-UNet | 0.7969 | – | 0.7143 | – | 0.01193 | – |")  # its own digits
    assert "RRc-UNet 3D (quoted) contradicts itself" in paragraph and "averaging differ" in paragraph


OURS = st.floats(0, 1).map(lambda x: {"dice": x, "iou": x / 2, "rmse": x / 4, "recall": x})


@given(
    st.dictionaries(st.sampled_from(["Swin-UNet", "UNETR", "ResNet50-U-Net", "U-Net", "RRC-U-Net", "Another"]), OURS)
)
def test_no_score_of_ours_is_left_out(compare, ours):
    table = compare.report_table(ours).partition("\n\n")[0].splitlines()[2:]
    shown = {tuple(line.strip("| ").split(" | ")[2::2]) for line in table}
    assert len(table) == len(compare.REPORT.keys() | ours.keys())
    assert shown - {("–",) * 4} == {tuple(f"{scores[n]:.4f}" for n in compare.SCORES) for scores in ours.values()}


def test_a_score_that_nobody_has_is_a_dash(compare):
    nothing = dict.fromkeys(compare.SCORES, math.nan)
    assert compare.report_table({"U-Net": nothing}) == compare.report_table({})
