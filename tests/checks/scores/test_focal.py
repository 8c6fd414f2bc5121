"""The check of the focal loss accepts ours and another sound one; mutants_data.py holds the wrong ones."""

import torch.nn.functional as F

from lungseg.checks.scores.focal import check_focal_loss
from lungseg.losses import focal_loss


def from_cross_entropy(logits, target, gamma, alpha):
    """Sound: exp(-cross entropy) is the probability of the right answer, and expm1 keeps its digits."""
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = -(-cost).expm1()
    focus = (gamma * wrong.clamp(min=1e-30).log()).exp()
    weight = 1 if alpha is None else alpha * target + (1 - alpha) * (1 - target)
    return (weight * focus * cost).mean()


def test_ours_and_another_sound_one_pass():
    check_focal_loss(focal_loss)
    check_focal_loss(from_cross_entropy)
