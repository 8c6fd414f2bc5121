"""The checks accept sound Dice losses of several definitions, and reject the mistakes people make."""

import pytest
import torch

from lungseg.checks.losses import check_dice_loss, check_loss_in_half_precision
from lungseg.losses import dice_loss


def soft_dice(probs, target, *, factor=2.0, smooth=1.0, dims=2):
    probs, target = probs.flatten(2), target.flatten(2)
    overlap, sizes = (probs * target).sum(dims), (probs + target).sum(dims)
    return (1 - (factor * overlap + smooth) / (sizes + smooth)).mean()


def squared_denominator(logits, target):
    """V-Net's own form."""
    probs, target = logits.sigmoid().flatten(2), target.flatten(2)
    overlap, sizes = (probs * target).sum(2), (probs**2 + target**2).sum(2)
    return (1 - (2 * overlap + 1) / (sizes + 1)).mean()


def everything_pooled(logits, target):
    return soft_dice(logits.sigmoid(), target, dims=(0, 1, 2))


def tiny_smoothing(logits, target):
    return dice_loss(logits, target, smooth=1e-5)


@pytest.mark.parametrize("sound", [squared_denominator, everything_pooled, tiny_smoothing])
def test_the_check_accepts_other_sound_definitions(sound):
    check_dice_loss(sound)


def forgets_the_sigmoid(logits, target):
    return soft_dice(logits, target)


def applies_the_sigmoid_twice(logits, target):
    return soft_dice(logits.sigmoid().sigmoid(), target)


def forgets_the_factor_two(logits, target):
    return soft_dice(logits.sigmoid(), target, factor=1.0)


def is_jaccard(logits, target):
    probs, target = logits.sigmoid().flatten(2), target.flatten(2)
    overlap = (probs * target).sum(2)
    return (1 - (overlap + 1) / ((probs + target).sum(2) - overlap + 1)).mean()


def returns_the_score_not_the_loss(logits, target):
    return 1 - dice_loss(logits, target)


def thresholds_first(logits, target):
    return soft_dice((logits.sigmoid() > 0.5).float() + 0 * logits, target)  # no gradient, so no training


@pytest.mark.parametrize(
    "broken",
    [
        forgets_the_sigmoid,
        applies_the_sigmoid_twice,
        forgets_the_factor_two,
        is_jaccard,
        returns_the_score_not_the_loss,
    ],
)
def test_the_check_rejects_a_wrong_value(broken):
    with pytest.raises(AssertionError, match="1 - Dice is|a perfect prediction"):
        check_dice_loss(broken)


def no_smoothing(logits, target):
    return soft_dice(logits.sigmoid(), target, smooth=0.0)


def counts_an_empty_target_as_solved(logits, target):
    """The loss that never scolds: Dice 1 for every empty target."""
    has_lesion = (target.flatten(2).sum(2) > 0).float()
    probs, target = logits.sigmoid().flatten(2), target.flatten(2)
    score = (2 * (probs * target).sum(2) + 1e-9) / ((probs + target).sum(2) + 1e-9)
    return 1 - (has_lesion * score + (1 - has_lesion)).mean()


def test_the_check_rejects_scoring_a_false_alarm_1():
    with pytest.raises(AssertionError, match=" 0 lesion pixels found, .* too many, 0 missed"):
        check_dice_loss(counts_an_empty_target_as_solved)


def one_loss_per_image(logits, target):
    probs, target = logits.sigmoid().flatten(1), target.flatten(1)
    score = (2 * (probs * target).sum(1) + 1) / ((probs + target).sum(1) + 1)
    return 1 - (score if len(logits) > 1 else score.mean())


def divides_by_what_vanishes(logits, target):
    """A normalisation of the sharpened map: p**4 is 0 in float32 at a logit of -50, and 0/0 follows."""
    sharp = logits.sigmoid() ** 4
    return dice_loss(logits, target) + 0 * (sharp / sharp.amax()).mean()


def weighs_the_first_image_more(logits, target):
    weight = torch.linspace(2, 1, len(logits))
    each = [dice_loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))]
    return (weight * torch.stack(each)).sum() / weight.sum()


@pytest.mark.parametrize(
    "broken, message",
    [
        (no_smoothing, "nan|finite|a perfect"),
        (one_loss_per_image, "not \\(\\) \\(a scalar\\)"),
        (divides_by_what_vanishes, "nan|not finite"),
        (weighs_the_first_image_more, "order of the images"),
        (thresholds_first, "stayed at"),
    ],
)
def test_the_check_rejects_what_no_network_can_be_trained_with(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_dice_loss(broken)


def sums_in_half_precision(logits, target):
    return soft_dice(logits.sigmoid(), target.to(logits.dtype)).float()


def answers_in_half_precision(logits, target):
    return dice_loss(logits, target).to(logits.dtype)


def rounds_the_probabilities(logits, target):
    return dice_loss(logits.sigmoid().logit().float(), target)  # 0 and 1 become -inf and inf


@pytest.mark.parametrize("broken", [sums_in_half_precision, answers_in_half_precision, rounds_the_probabilities])
def test_the_half_precision_check_rejects(broken):
    with pytest.raises(AssertionError, match="float16"):
        check_loss_in_half_precision(broken)
