"""The check of the cross entropy accepts what is stable; mutants_data.py holds the wrong ones."""

import pytest
import torch.nn.functional as F

from lungseg.checks.lessons import Wrong
from lungseg.checks.scores.cross_entropy import check_bce_loss
from lungseg.losses import bce_loss


def logsigmoid_written_out(logits, target):
    return -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)).mean()


@pytest.mark.parametrize("sound", [bce_loss, F.binary_cross_entropy_with_logits, logsigmoid_written_out])
def test_the_check_accepts_cross_entropies_that_are_stable(sound):
    check_bce_loss(sound)


def clips_the_gradient(logits, target):
    """The value is right; the gradient is that of logits up to 20."""
    return (
        bce_loss(logits.clamp(-20, 20), target)
        + (bce_loss(logits, target) - bce_loss(logits.clamp(-20, 20), target)).detach()
    )


def test_the_check_of_the_cross_entropy_looks_at_the_gradient():
    with pytest.raises(Wrong, match="the gradient is not"):
        check_bce_loss(clips_the_gradient)
