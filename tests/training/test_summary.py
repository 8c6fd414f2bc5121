"""What a run reports at its end."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.draw import class_colour
from lungseg.evaluation.metrics import worst_median_best
from lungseg.losses import bce_loss
from lungseg.training.log import RunLog
from lungseg.training.step import Evaluation, evaluate
from lungseg.training.summary import (
    ZeroDiceWatch,
    dice_per_image,
    draw_curves,
    draw_predictions,
    epoch_line,
    write_summary,
)


def three_slices(test):
    """(name, Dice, id) of the worst, the median and the best image."""
    dice = dice_per_image(test)
    return [(name, dice[i], test.ids[i]) for name, i in worst_median_best(dice)]


def test_worst_median_and_best_leave_out_slices_without_a_dice():
    counts = torch.tensor([[5, 5, 5, 85], [0, 0, 0, 100], [9, 1, 1, 89], [0, 3, 0, 97], [1, 9, 9, 81]])
    chosen = three_slices(Evaluation(["a", "b", "c", "d", "e"], counts, 0.0))
    assert chosen == [("worst", 0.0, "d"), ("median", 0.5, "a"), ("best", 0.9, "c")]
    nothing = three_slices(Evaluation(["b"], counts[1:2], 0.0))
    assert [id_ for _, _, id_ in nothing] == ["b"] * 3 and math.isnan(nothing[0][1])


@pytest.fixture
def finished(tmp_path):
    """A network that is right everywhere, what it scored, and the slices."""
    rng = np.random.default_rng(0)
    with SliceWriter(tmp_path / "data") as out:
        for i, split in enumerate(["train", "train", "test", "test", "test"]):
            target = np.zeros((16, 16), np.uint8)
            target[3 : 6 + i, 4:9] = 1
            image = (100 * target + rng.integers(0, 50, target.shape)).astype(np.uint8)
            out.add(ImageRecord(f"s{i}", f"p{i}", split), image, target)
    train, test = (SliceDataset(tmp_path / "data", split) for split in ("train", "test"))
    model = nn.Conv2d(1, 1, 1)
    nn.init.constant_(model.weight, 100.0)
    nn.init.constant_(model.bias, -30.0)  # a threshold at 0.3: right everywhere
    batches = [(image[None], target[None], [id_]) for image, target, id_ in test]
    result = evaluate(model, batches, bce_loss)
    return model, result, train, test


def test_the_summary_states_the_scores_next_to_the_baselines(finished, tmp_path):
    model, result, train, test = finished
    log = RunLog(tmp_path / "log.jsonl")
    for epoch in (1, 2):
        val = {"loss": 0.5, "dice": math.nan, "iou": 0.3, "recall": 0.2}
        log.write(epoch=epoch, train_loss=0.4, val=val)
    line = write_summary(log, result, model, train, test, split="test")

    assert line.startswith("test, 3 slices, best epoch: Dice 1.0000, IoU 1.0000, RMSE 0.0000, recall 1.0000 | ")
    assert "all background: Dice 0.0000" in line and "threshold: Dice 1.0000" in line and "\n" not in line
    last = json.loads(log.path.read_text().splitlines()[-1])
    assert last["split"] == "test" and last["best epoch"]["images"] == 3
    assert last["all background"]["recall"] == 0 and last["threshold"]["iou"] == 1
    for name in ("curves.png", "predictions.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100


def test_the_summary_of_classes_names_the_dice_of_each_and_says_which_is_not_there(tmp_path):
    log, some = RunLog(tmp_path / "log.jsonl"), Slices()
    log.write(epoch=1, train_loss=0.4, val={"loss": 0.5, "dice": 0.4, "iou": 0.3, "recall": 0.2})
    model = nn.Conv2d(1, 3, 1)
    for p, values in ((model.weight, [100.0, -100.0, 0.0]), (model.bias, [-70.0, 30.0, -9.0])):
        p.data.copy_(torch.tensor(values).view(p.shape))  # bright is class 1, dark is class 2, class 3 is never seen
    batches = [(image[None], target[None], [id_]) for image, target, id_ in some]
    result = evaluate(model, batches, bce_loss, classes=("solid", "cyst", "rare"))
    line = write_summary(log, result, model, some, some, split="test")
    assert "Dice of each class: solid 1.0000, cyst 1.0000, rare (none there)" in line and "\n" not in line
    assert line.startswith("test, 3 slices, best epoch: Dice 1.0000, IoU 1.0000") and "threshold: Dice 0." in line
    last = json.loads(log.path.read_text().splitlines()[-1])
    assert last["best epoch"]["dice of cyst"] == 1 and last["best epoch"]["dice of rare"] is None
    assert last["threshold"]["dice of solid"] == 1 and last["all background"]["dice"] == 0
    assert three_slices(result)[0][1] == 1.0  # the mean over the classes that a slice has
    with Image.open(tmp_path / "predictions.png") as picture:
        shown = np.asarray(picture.convert("RGB"))
    assert all((shown == class_colour(k)).all(-1).any() for k in (1, 2))


class Given(list):
    """Samples (image, target, id) as they are given."""

    @property
    def records(self):
        return [ImageRecord(id_, id_, "test") for _, _, id_ in self]


def shown_rows(samples, dice, monkeypatch):
    """The rows of predictions.png for a network that predicts the bright pixels; dice: one per id, in sorted order."""
    model = nn.Conv2d(1, 1, 1) if samples[0][0].ndim == 3 else nn.Conv3d(1, 1, 1)
    nn.init.constant_(model.weight, 100.0)
    nn.init.constant_(model.bias, -50.0)
    counts = torch.tensor([[round(100 * d), 200 - 2 * round(100 * d), 0, 0] for d in dice])
    rows = []
    monkeypatch.setattr("lungseg.training.summary.prediction_sheet", lambda given, **_: rows.extend(given))
    draw_predictions(samples, Evaluation(sorted(id_ for _, _, id_ in samples), counts, 0.0), model)
    return rows


def test_the_first_id_is_shown_of_several_with_the_same_dice_in_any_order_of_the_manifest(monkeypatch):
    blank = torch.zeros(1, 8, 8)
    samples = Given((blank + i / 9, blank, id_) for i, id_ in enumerate("zam"))
    rows = shown_rows(samples, [0.0, 0.0, 0.5], monkeypatch)
    assert [text for text, *_ in rows] == ["worst\nDice 0.000\na", "median\nDice 0.000\nm", "best\nDice 0.500\nz"]
    assert [round(9 * float(image[0, 0])) for _, image, _, _ in rows] == [1, 2, 0]


def test_a_volume_is_shown_by_its_slice_with_most_lesion_whatever_was_predicted(monkeypatch):
    image, target = torch.zeros(1, 5, 8, 8), torch.zeros(1, 5, 8, 8)
    target[0, 1, :3, :3] = 1
    image[0, 3] = 1  # all of slice 3 is predicted
    (text, _, shown, _), *_ = shown_rows(Given([(image, target, "v")]), [0.5], monkeypatch)
    assert text == "worst\nDice 0.500\nv\nits slice 1" and np.array_equal(shown, target[0, 1])


class Slices(torch.utils.data.Dataset):
    """Three slices with a bright and a dark lesion; maps of three classes."""

    records = [ImageRecord(f"s{i}", f"p{i}", "test") for i in range(3)]

    def __len__(self):
        return len(self.records)

    def __getitem__(self, i):
        target = torch.zeros(3, 16, 16)
        target[0, 2:5, 2 : 5 + i], target[1, 9:12, 9:12] = 1, 1
        return 0.5 + 0.4 * target[:1] - 0.4 * target[1:2], target, self.records[i].id


def test_curves_are_drawn_also_of_a_log_with_gaps():
    val = {"loss": 0.5, "dice": None, "iou": 0.3, "recall": 0.2}
    lines = [{"recipe": {}}, {"epoch": 1, "train_loss": 0.4, "val": val}, {"split": "test"}]
    assert draw_curves(lines).size[1] > draw_curves(lines).size[0]


def test_the_line_of_an_epoch():
    val = {"loss": 0.5, "dice": 0.25, "iou": 0.125}
    line = epoch_line(3, 20, 0.75, val, True)
    assert line == "epoch   3/20  train loss 0.7500  val loss 0.5000  val Dice 0.2500  IoU 0.1250  best"
    assert "best" not in epoch_line(3, 20, 0.75, val, False)


@pytest.mark.parametrize(
    ("broken", "said", "missing"),
    [
        ("draw_curves", "curves.png was not drawn", "curves.png"),
        ("draw_predictions", "predictions.png was not drawn", "predictions.png"),
        ("baseline_counts", "The baselines were not computed", None),
    ],
)
def test_what_fails_at_the_end_loses_no_score(broken, said, missing, finished, tmp_path, monkeypatch):
    def fails(*_):
        assert broken == "baseline_counts" or "best epoch" in log.lines()[-1]  # the scores are safe by then
        raise MemoryError

    monkeypatch.setattr(f"lungseg.training.summary.{broken}", fails)
    model, result, train, test = finished
    log = RunLog(tmp_path / "log.jsonl")
    log.write(epoch=1, train_loss=0.4, val={"loss": 0.5, "dice": 0.1, "iou": 0.3, "recall": 0.2})
    with pytest.warns(UserWarning, match=f"^{said} .MemoryError."):
        line = write_summary(log, result, model, train, test, split="test")
    assert "best epoch: Dice 1.0000" in line and log.lines()[-1]["best epoch"]["dice"] == 1
    pictures = {p.name for p in tmp_path.glob("*.png")}
    assert pictures == {"curves.png", "predictions.png"} - {missing}


@pytest.mark.parametrize(
    ("dice", "after"),
    [
        ([0.0] * 12, [5]),  # said once
        ([0.0] * 4 + [0.1] + [0.0] * 4, []),  # not in a row
        ([0.3] + [0.0] * 5 + [0.3] + [0.0] * 6, [6]),
        ([0.00004] * 5, [5]),  # printed as 0.0000
        ([math.nan] * 9, []),  # no validation image has a lesion: another matter
    ],
)
def test_five_epochs_of_dice_0_are_remarked_on_once(dice, after, tmp_path):
    watch = ZeroDiceWatch()
    said = [watch.remark(d, tmp_path / "my data", tmp_path / "run") for d in dice]
    assert [epoch for epoch, sentence in enumerate(said, 1) if sentence] == after
    for epoch in after:
        assert f"--data '{tmp_path}/my data' --checkpoint {tmp_path}/run/last.pt" in said[epoch - 1]


def test_for_volumes_the_remark_names_a_page_and_no_command(tmp_path):
    watch = ZeroDiceWatch()
    (tmp_path / "volumes").mkdir()
    *_, last = [watch.remark(0.0, tmp_path, tmp_path) for _ in range(5)]
    assert "docs/diagnose.md" in last and "--data" not in last
