"""The checks accept sound Dice losses of several definitions, and reject the mistakes people make."""

import pytest
import torch

from lungseg.checks.lessons import Wrong
from lungseg.checks.scores.losses import check_dice_loss, check_loss_in_half_precision
from lungseg.losses import dice_loss


def soft_dice(probs, target, *, smooth=1.0, dims=2):
    probs, target = probs.flatten(2), target.flatten(2)
    overlap, sizes = (probs * target).sum(dims), (probs + target).sum(dims)
    return (1 - (2 * overlap + smooth) / (sizes + smooth)).mean()


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
        (divides_by_what_vanishes, "nan|not finite"),
        (weighs_the_first_image_more, "order of the images"),
    ],
)
def test_the_check_rejects_what_no_network_can_be_trained_with(broken, message):
    with pytest.raises(Wrong, match=message):
        check_dice_loss(broken)


def sums_in_half_precision(logits, target):
    return soft_dice(logits.sigmoid(), target.to(logits.dtype)).float()


def answers_in_half_precision(logits, target):
    return dice_loss(logits, target).to(logits.dtype)


def rounds_the_probabilities(logits, target):
    return dice_loss(logits.sigmoid().logit().float(), target)  # 0 and 1 become -inf and inf


@pytest.mark.parametrize("broken", [sums_in_half_precision, answers_in_half_precision, rounds_the_probabilities])
def test_the_half_precision_check_rejects(broken):
    with pytest.raises(Wrong, match="float16"):
        check_loss_in_half_precision(broken)
