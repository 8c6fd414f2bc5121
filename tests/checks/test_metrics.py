"""The checks of the metrics accept right code in several styles, and reject what their table of mutants leaves out."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from lungseg.checks.distances import check_hausdorff95
from lungseg.checks.lessons import Wrong
from lungseg.checks.metrics import check_confusion_counts, check_per_image, check_summarise
from lungseg.checks.scores import check_dice, check_iou, check_precision, check_recall, check_rmse, check_score
from lungseg.evaluation.metrics import confusion_counts, counts_from_pred, hausdorff95, per_image, summarise

CHECKS = [
    (check_confusion_counts, confusion_counts),
    (check_per_image, per_image),
    (check_summarise, summarise),
    (check_hausdorff95, hausdorff95),
]


@pytest.mark.parametrize("check, ours", CHECKS, ids=[ours.__name__ for _, ours in CHECKS])
def test_our_own_functions_pass(check, ours):
    check(ours)


@pytest.mark.parametrize("name", ["dice", "iou", "precision", "recall", "rmse"])
def test_our_scores_of_one_image_pass(name):
    check_score(
        name, lambda pred, target: per_image(counts_from_pred(pred[None, None], target[None, None]))[name].item()
    )


def with_sets(pred, target):
    a, b = (set(map(tuple, np.argwhere(np.asarray(m)))) for m in (pred, target))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else math.nan


def with_bool_arrays(pred, target):
    return np.float64((pred & ~target).sum() + (target & ~pred).sum()) / pred.size


def with_bool_tensors(pred, target):
    return (pred & target).sum() / (pred | target).sum()


def with_arrays_of_numbers(pred, target):
    return np.sqrt(np.mean((pred.astype(float) - target.astype(float)) ** 2))


def with_long_tensors(pred, target):
    tp = torch.bincount((2 * target + pred).flatten().long(), minlength=4)
    return tp[3] / (tp[3] + tp[1])


def recall_or_nan(pred, target):
    lesion = [p for p, t in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True) if t]
    return sum(lesion) / len(lesion) if lesion else float("nan")


@pytest.mark.parametrize(
    "check, sound",
    [
        (check_dice, with_sets),
        (check_iou, with_bool_tensors),
        (check_rmse, with_arrays_of_numbers),
        (check_rmse, lambda pred, target: with_bool_arrays(pred, target) ** 0.5),
        (check_precision, with_long_tensors),
        (check_recall, recall_or_nan),
    ],
)
def test_the_checks_of_scores_accept_other_styles(check, sound):
    check(sound)


def test_an_error_for_every_kind_of_map_is_told():
    with pytest.raises(Wrong, match="no_such_method"):
        check_dice(lambda pred, target: pred.no_such_method())


def with_cdist(pred, target, spacing_mm):
    """Sound: all pairs of outline pixels."""
    a, b = (np.argwhere(m & ~ndimage.binary_erosion(m)) * spacing_mm for m in (pred, target))
    if not (len(a) and len(b)):
        return float("nan")
    pairs = cdist(a, b)
    return max(np.percentile(pairs.min(0), 95), np.percentile(pairs.min(1), 95))


def test_the_check_of_the_distance_accepts_another_sound_one():
    check_hausdorff95(with_cdist)


def counts_in_int32(logits, target, *, threshold):
    return confusion_counts(logits, target, threshold=threshold).int()


def test_counts_must_be_int64():
    with pytest.raises(Wrong, match=r"expected torch\.int64"):
        check_confusion_counts(counts_in_int32)


def with_changed(name, change):
    """`per_image`, with one of its scores replaced by change(tp, fp, fn, tn, score)."""

    def broken(counts):
        scores = per_image(counts)
        return scores | {name: change(*counts.double().unbind(1), scores[name])}

    return broken


def nan_for_a_false_alarm(tp, fp, fn, tn, dice):
    return torch.where(tp + fn == 0, torch.nan, dice)


def of_all_images_together(tp, fp, fn, tn, dice):
    return dice.new_full(dice.shape, (2 * tp.sum() / (2 * tp + fp + fn).sum()).item())


@pytest.mark.parametrize("change", [nan_for_a_false_alarm, of_all_images_together])
def test_the_check_of_scores_per_image_rejects_dice(change):
    with pytest.raises(Wrong, match=r"\(tp, fp, fn, tn\) = .*: dice is"):
        check_per_image(with_changed("dice", change))


@pytest.mark.parametrize("result, message", [([], "is a list, expected a dict"), ({"dice": 0}, "lacks 'iou'")])
def test_the_check_of_scores_per_image_rejects_another_result(result, message):
    with pytest.raises(Wrong, match=message):
        check_per_image(lambda counts: result)


def averages_and_calls_it_pooled(counts):
    return summarise(counts) | {"pooled_rmse": per_image(counts)["rmse"].mean().item()}


def test_the_check_of_summaries_rejects_one_wrong_number():
    with pytest.raises(Wrong, match="pooled_rmse is .*, expected "):
        check_summarise(averages_and_calls_it_pooled)
