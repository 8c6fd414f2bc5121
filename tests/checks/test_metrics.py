"""The checks of the metrics reject the mistakes that published code makes."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from lungseg.checks.metrics import (
    check_confusion_counts,
    check_hausdorff95,
    check_per_image,
    check_summarise,
)
from lungseg.evaluation.metrics import confusion_counts, counts_from_pred, hausdorff95, per_image, pooled, summarise


def compares_the_logit_with_the_probability(logits, target, *, threshold):
    return counts_from_pred(logits > threshold, target)


def forgets_the_threshold(logits, target, *, threshold):
    return counts_from_pred(logits > 0, target)


def sums_over_the_batch(logits, target, *, threshold):
    return confusion_counts(logits, target, threshold=threshold).sum(0, keepdim=True)


def swaps_fp_and_fn(logits, target, *, threshold):
    return confusion_counts(logits, target, threshold=threshold)[:, [0, 2, 1, 3]]


def counts_in_uint8(logits, target, *, threshold):
    return confusion_counts(logits, target, threshold=threshold).to(torch.uint8).long()


def counts_in_int32(logits, target, *, threshold):
    return confusion_counts(logits, target, threshold=threshold).int()


@pytest.mark.parametrize(
    "broken, message",
    [
        (compares_the_logit_with_the_probability, "a loop over the pixels"),
        (forgets_the_threshold, "at probability 0.[39]"),
        (sums_over_the_batch, "not \\(B, 4\\)"),
        (swaps_fp_and_fn, "a loop over the pixels"),
        (counts_in_uint8, "300 x 300"),
        (counts_in_int32, "expected int64"),
    ],
)
def test_the_check_of_counts_rejects(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_confusion_counts(broken)


def with_changed(name, change):
    """`per_image`, with one of its scores replaced by change(tp, fp, fn, tn, score)."""

    def broken(counts):
        scores = per_image(counts)
        return scores | {name: change(*counts.double().unbind(1), scores[name])}

    return broken


def one_for_an_empty_target(tp, fp, fn, tn, dice):
    return torch.where(tp + fn == 0, 1.0, dice)


def one_for_nothing_at_all(tp, fp, fn, tn, dice):
    return torch.where(tp + fp + fn == 0, 1.0, dice)


def without_the_factor_two(tp, fp, fn, tn, dice):
    return tp / (2 * tp + fp + fn)


def nan_for_a_false_alarm(tp, fp, fn, tn, dice):
    return torch.where(tp + fn == 0, torch.nan, dice)


def of_all_images_together(tp, fp, fn, tn, dice):
    return dice.new_full(dice.shape, (2 * tp.sum() / (2 * tp + fp + fn).sum()).item())


@pytest.mark.parametrize(
    "change",
    [
        one_for_an_empty_target,
        one_for_nothing_at_all,
        without_the_factor_two,
        nan_for_a_false_alarm,
        of_all_images_together,
    ],
)
def test_the_check_of_scores_per_image_rejects_dice(change):
    with pytest.raises(AssertionError, match=r"\(tp, fp, fn, tn\) = .*: dice is"):
        check_per_image(with_changed("dice", change))


def test_the_check_of_scores_per_image_rejects_rmse_without_the_root():
    with pytest.raises(AssertionError, match="rmse is"):
        check_per_image(with_changed("rmse", lambda tp, fp, fn, tn, rmse: rmse**2))


def averages_zeros_for_nan(counts):
    return summarise(counts) | {"dice": per_image(counts)["dice"].nan_to_num(0).mean().item()}


def lets_nan_through(counts):
    return summarise(counts) | {"recall": per_image(counts)["recall"].mean().item()}


def pools_and_calls_it_a_mean(counts):
    return summarise(counts) | {"dice": pooled(counts)["dice"]}


def averages_and_calls_it_pooled(counts):
    return summarise(counts) | {"pooled_rmse": per_image(counts)["rmse"].mean().item()}


def calls_every_empty_target_a_false_alarm(counts):
    summary = summarise(counts)
    return summary | {"false_alarms": summary["empty_targets"]}


@pytest.mark.parametrize(
    "broken, name",
    [
        (averages_zeros_for_nan, "dice"),
        (lets_nan_through, "recall"),
        (pools_and_calls_it_a_mean, "dice"),
        (averages_and_calls_it_pooled, "pooled_rmse"),
        (calls_every_empty_target_a_false_alarm, "false_alarms"),
    ],
)
def test_the_check_of_summaries_rejects(broken, name):
    with pytest.raises(AssertionError, match=f"{name} is .*, not "):
        check_summarise(broken)


def test_the_check_of_summaries_rejects_one_that_hides_the_empty_targets():
    with pytest.raises(AssertionError, match="the summary lacks 'empty_targets'"):
        check_summarise(lambda counts: {k: v for k, v in summarise(counts).items() if k != "empty_targets"})


def looks_one_way(pred, target, spacing_mm):
    if not (pred.any() and target.any()):
        return float("nan")
    outlines = [m & ~ndimage.binary_erosion(m) for m in (pred, target)]
    return np.percentile(ndimage.distance_transform_edt(~outlines[1], sampling=spacing_mm)[outlines[0]], 95)


def measures_in_pixels(pred, target, spacing_mm):
    return hausdorff95(pred, target, 1.0)


def takes_the_maximum(pred, target, spacing_mm):
    if not (pred.any() and target.any()):
        return float("nan")
    outlines = [m & ~ndimage.binary_erosion(m) for m in (pred, target)]
    there = [ndimage.distance_transform_edt(~o, sampling=spacing_mm) for o in outlines]
    return max(there[1][outlines[0]].max(), there[0][outlines[1]].max())


def calls_a_missed_lesion_near(pred, target, spacing_mm):
    return np.nan_to_num(hausdorff95(pred, target, spacing_mm)).item()


@pytest.mark.parametrize("broken", [looks_one_way, measures_in_pixels, takes_the_maximum, calls_a_missed_lesion_near])
def test_the_check_of_the_distance_rejects(broken):
    with pytest.raises(AssertionError, match="all pairs of outline pixels"):
        check_hausdorff95(broken)
