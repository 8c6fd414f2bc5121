"""Lesion classes from end to end: check the folder, train, evaluate, predict; slices and volumes."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from lungseg.data.classes import read_classes
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import check_folder
from lungseg.data.volumes import VolumeWriter, check_volume_folder
from lungseg.draw import class_colour

UNET = ["--img-size", "32", "--channels", "8", "16", "--batch-size", "3", "--epochs", "15", "--lr", "0.03"]
SWIN = [
    "--img-size", "16", "--patch-size", "2", "--embed-dim", "4", "--depths", "2", "2", "--num-heads", "1", "2",
    "--window-size", "4", "--batch-size", "4", "--epochs", "2",
]  # fmt: skip
SOLID = [
    "--spatial-dims", "3", "--norm", "instance", "--channels", "8", "16", "--crop-size", "4", "16", "16",
    "--crops-per-volume", "4", "--foreground", "1", "--batch-size", "2", "--epochs", "8", "--lr", "0.03",
]  # fmt: skip


@pytest.fixture(scope="module")
def main(example):
    return {name: example(name).main for name in ("train_unet", "train_swin", "evaluate", "predict")}


@pytest.fixture(scope="module")
def learned(main, two_classes, tmp_path_factory):
    """A U-Net that has learned which lesion is which; its evaluation is next to it."""
    out = tmp_path_factory.mktemp("runs") / "unet"
    assert check_folder(two_classes) == []
    dice = main["train_unet"](["--data", str(two_classes), "--out", str(out), *UNET, "--augment", "flips"])
    assert dice > 0.5
    assert main["evaluate"]([str(out / "best.pt"), "--data", str(two_classes)]) > 0.5
    return out


def read_rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_colours(path):
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(maxcolors=2**24)}


def read_mask(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


# ---- evaluation -------------------------------------------------------------------------------------------------


def test_the_evaluation_has_a_row_for_each_class_that_agrees_with_the_training(learned, two_classes, log_of):
    table = read_rows(learned / "evaluation_test/evaluation.csv")
    of_network = {row["stratum"]: row for row in table if row["method"] == "UNet"}
    last = log_of(learned)[-1]["decision"]["test"]  # with the threshold that both took from the validation slices
    for name in ("solid", "cyst"):  # the two classes never meet, so that no pixel is above 1/2 for both
        assert float(of_network[f"class {name}"]["dice"]) == pytest.approx(last[f"dice of {name}"], abs=0.02)
    assert {"slices": "3", "empty_targets": "1"}.items() <= of_network["class cyst"].items()  # slice 12 holds none
    assert not any(row["stratum"].startswith("class") for row in table if row["method"] != "UNet")
    report = (learned / "evaluation_test/evaluation.md").read_text()
    assert "Each class on its own" in report
    assert "| class solid | 3 | 0 |" in report and "| class cyst | 3 | 1 |" in report
    assert "| class | lesions | missed | called solid | called cyst |" in report
    assert "| solid | 3 | 0 | 3 | 0 |" in report
    shown = read_colours(learned / "evaluation_test/worst_median_best.png")
    assert {class_colour(1), class_colour(2)} <= shown


def test_each_slice_has_the_counts_of_each_class(learned):
    for row in read_rows(learned / "evaluation_test/slices.csv"):
        for count in ("tp", "fn"):  # never both classes in one pixel, so that all lesion is one or the other
            assert int(row[f"{count} of solid"]) + int(row[f"{count} of cyst"]) <= int(row["tp"]) + int(row["fn"])
        tp, fp, fn = (int(row[f"{count} of solid"]) for count in ("tp", "fp", "fn"))
        assert float(row["dice of solid"]) == pytest.approx(2 * tp / (2 * tp + fp + fn), rel=1e-4)


def test_where_network_and_data_have_other_classes_lesions_of_any_are_scored_and_a_remark_says_so(
    main, learned, two_classes, discs, tmp_path
):
    other = shutil.copytree(two_classes, tmp_path / "other")
    (other / "classes.txt").write_text("LR2\nLR3\n")
    for data, known in ((other, "LR2, LR3"), (discs, "lesion")):
        out = tmp_path / f"evaluated_{data.name}"
        assert main["evaluate"]([str(learned / "best.pt"), "--data", str(data), "--out", str(out)]) >= 0
        report = (out / "evaluation.md").read_text()
        assert (
            f"The network predicts solid, cyst, the data hold {known}: only lesions of any class are scored." in report
        )
        assert "| class " not in report
    same = read_rows(learned / "evaluation_test/evaluation.csv")[0]
    assert read_rows(tmp_path / "evaluated_other/evaluation.csv")[0] == same  # of any class, whatever they are called


def test_a_binary_network_is_evaluated_on_lesions_of_any_class(main, two_classes, discs, tmp_path):
    run = tmp_path / "binary"
    main["train_unet"](["--data", str(discs), "--out", str(run), *UNET[:-4], "--epochs", "1"])
    assert main["evaluate"]([str(run / "best.pt"), "--data", str(two_classes)]) >= 0
    assert (
        "The network predicts lesion, the data hold solid, cyst" in (run / "evaluation_test/evaluation.md").read_text()
    )
    assert main["predict"]([str(run / "best.pt"), str(two_classes), "--out", str(tmp_path / "out")]) == 0
    assert set(np.unique(read_mask(tmp_path / "out/masks/slice00.png"))) <= {0, 255}
    assert not (tmp_path / "out/classes.txt").exists()


# ---- prediction -------------------------------------------------------------------------------------------------


def test_predicted_masks_hold_class_numbers_and_overlays_their_colours(main, learned, two_classes, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--out", str(out), "--probabilities", "--threshold", "0.5"]
    assert main["predict"]([str(learned / "best.pt"), str(two_classes), *flags]) == 0
    assert "pixels" in capsys.readouterr().out and read_classes(out) == ("solid", "cyst")
    right = 0
    for row in read_rows(out / "slices.csv"):
        pred, target = (read_mask(folder / f"masks/{row['id']}.png") for folder in (out, two_classes))
        counts = [int((pred == k).sum()) for k in (1, 2)]
        assert [int(row[f"predicted_px of {name}"]) for name in ("solid", "cyst")] == counts
        assert int(row["predicted_px"]) == sum(counts)
        probs = [read_mask(out / f"probabilities/{k}/{row['id']}.png") / 65535 for k in (1, 2)]
        assert np.array_equal(pred > 0, np.maximum(*probs) > 0.5)
        assert (probs[0] >= probs[1])[pred == 1].all() and (probs[1] >= probs[0])[pred == 2].all()
        right += (pred == target)[target > 0].mean() > 0.5
    assert right > 10  # of 15: it really distinguishes them
    assert {class_colour(1), class_colour(2)} <= read_colours(out / "overlays/slice01.png")
    assert {class_colour(1), class_colour(2)} <= read_colours(out / "legend.png")


def test_a_target_without_classes_is_green_next_to_a_prediction_of_classes(main, learned, discs, tmp_path):
    out = tmp_path / "out"
    assert main["predict"]([str(learned / "best.pt"), str(discs), "--out", str(out)]) == 0
    shown = set.union(*(read_colours(path) for path in (out / "overlays").iterdir()))
    assert (0, 210, 90) in shown and class_colour(1) in shown


# ---- another network, and volumes -------------------------------------------------------------------------------


def test_another_script_from_check_to_prediction(main, two_classes, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    assert isinstance(main["train_swin"](["--data", str(two_classes), "--out", str(run), *SWIN]), float)
    assert isinstance(main["evaluate"]([str(run / "best.pt"), "--data", str(two_classes)]), float)
    names = [row["stratum"] for row in read_rows(run / "evaluation_test/evaluation.csv")]
    assert "class solid" in names and "class cyst" in names
    assert main["predict"]([str(run / "best.pt"), str(two_classes), "--out", str(out), "--threshold", "0.01"]) == 0
    assert set(np.unique(read_mask(out / "masks/slice00.png"))) <= {0, 1, 2}


def test_volumes_from_check_to_prediction(main, tmp_path, log_of):
    data, run, out = tmp_path / "scans", tmp_path / "run", tmp_path / "out"
    with VolumeWriter(data, classes=("solid", "cyst")) as writer:
        for i, split in enumerate(("train", "train", "val", "test")):
            target = np.zeros((6, 20, 24), np.uint8)
            target[1:5, 3:9, 3 + i : 9 + i], target[2:5, 12:18, 12 - i : 18 - i] = 1, 2
            hu = -700 + 800 * (target == 1) - 250 * (target == 2)
            writer.add(ImageRecord(f"v{i}", f"p{i}", split), hu.astype(np.int16), target, 1.0)
    assert check_volume_folder(data) == []
    assert main["train_unet"](["--data", str(data), "--out", str(run), *SOLID]) > 0.2
    assert main["evaluate"]([str(run / "best.pt"), "--data", str(data)]) > 0.2
    report = (run / "evaluation_test/evaluation.md").read_text()
    assert "| class solid | 1 | 0 |" in report and "| class cyst | 1 | 0 |" in report
    assert main["predict"]([str(run / "best.pt"), str(data), "--out", str(out), "--probabilities"]) == 0
    pred = np.load(out / "volumes/v3.npz")["pred"]
    assert pred.shape == (6, 20, 24) and {1, 2} <= set(np.unique(pred)) <= {0, 1, 2}
    assert np.array_equal(pred, np.stack([read_mask(path) for path in sorted((out / "masks/v3").iterdir())]))
    rows = [row for row in read_rows(out / "slices.csv") if row["id"].startswith("v3/")]
    assert sum(int(row["predicted_px of cyst"]) for row in rows) == (pred == 2).sum()
    assert read_mask(out / "probabilities/2/v3/003.png").dtype == np.uint16


def test_a_binary_checkpoint_is_a_start_for_classes(main, two_classes, discs, tmp_path, capsys):
    """The head is of another size, so it stays fresh and begins at the classes' shares; all else is taken over."""
    one, two = tmp_path / "one", tmp_path / "two"
    small = [*UNET[:-4], "--epochs", "1"]
    main["train_unet"](["--data", str(discs), "--out", str(one), *small])
    capsys.readouterr()
    flags = ["--data", str(two_classes), "--out", str(two), *small, "--weights", str(one / "best.pt")]
    assert isinstance(main["train_unet"](flags), float)
    assert "head" in capsys.readouterr().out
