"""The checks of the metrics accept right code in several styles, and reject what their table of mutants leaves out."""

import pytest
import torch

from lungseg.checks.lessons import Wrong
from lungseg.checks.scores.metrics import check_confusion_counts, check_per_image, check_summarise
from lungseg.evaluation.metrics import confusion_counts, per_image, summarise

CHECKS = [
    (check_confusion_counts, confusion_counts),
    (check_per_image, per_image),
    (check_summarise, summarise),
]


@pytest.mark.parametrize("check, ours", CHECKS, ids=[ours.__name__ for _, ours in CHECKS])
def test_our_own_functions_pass(check, ours):
    check(ours)


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
