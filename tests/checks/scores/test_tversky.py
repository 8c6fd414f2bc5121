"""The checks of the Tversky losses accept ours and other sound ones; mutants_data.py holds the wrong ones."""

import pytest
import torch

from lungseg.checks.lessons import Wrong
from lungseg.checks.scores.tversky import check_focal_tversky_loss, check_tversky_loss
from lungseg.losses import focal_tversky_loss, tversky_loss


def with_einsum(logits, target, alpha, beta, smooth):
    """Sound: FP and FN from the sizes and the overlap."""
    p = torch.sigmoid(logits)
    tp = torch.einsum("bkhw,bkhw->bk", p, target)
    fp, fn = p.sum((2, 3)) - tp, target.sum((2, 3)) - tp
    return torch.mean(1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth))


def with_epsilon(logits, target, alpha, beta, gamma, smooth):
    """Sound: a small number keeps the power from 0."""
    p = torch.sigmoid(logits)
    tp, fp, fn = ((a * b).sum((2, 3)) for a, b in ((p, target), (p, 1 - target), (1 - p, target)))
    missed = (alpha * fp + beta * fn) / (tp + alpha * fp + beta * fn + smooth)
    return ((missed + 1e-7) ** (1 / gamma)).mean()


def test_ours_and_other_sound_ones_pass():
    check_tversky_loss(tversky_loss)
    check_tversky_loss(with_einsum)
    check_focal_tversky_loss(focal_tversky_loss)
    check_focal_tversky_loss(with_epsilon)


def test_a_loss_that_never_reaches_0_is_refused():
    with pytest.raises(Wrong, match="perfect"):
        check_tversky_loss(lambda x, g, alpha, beta, smooth: with_einsum(x.clamp(-4, 4), g, alpha, beta, smooth))
