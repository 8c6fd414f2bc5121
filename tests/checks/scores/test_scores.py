"""The checks of the scores of one image accept other styles; mutants_data.py holds the wrong ones."""

import math

import numpy as np
import pytest
import torch

from lungseg.checks.lessons import Wrong
from lungseg.checks.scores.scores import check_dice, check_iou, check_precision, check_recall, check_rmse, check_score
from lungseg.evaluation.metrics import counts_from_pred, per_image


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
