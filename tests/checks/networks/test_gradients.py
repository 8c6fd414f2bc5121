"""A result can be right and yet never learn: gradients are compared with small steps."""

import pytest
import torch
from torch import nn

from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.gradients import CUT_OFF, check_gradients

LESSON = Lesson("Layer", "Layer()", "the rule.", "docs/x.md", dict(CUT_OFF))


class Layer(nn.Module):
    """x -> gelu(w x) + b, with a part cut off on request."""

    def __init__(self, cut=""):
        super().__init__()
        self.w, self.b, self.cut = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.tensor(0.3)), cut

    def forward(self, x):
        if self.cut == "input":
            x = x.detach()
        if self.cut == "half":  # the value of w * x, and half of its slope
            return nn.functional.gelu(self.w * x / 2 + (self.w * x / 2).detach()) + self.b
        w = self.w.data if self.cut == "weight" else self.w
        return nn.functional.gelu(w * x) + (self.b.item() if self.cut == "bias" else self.b)


def test_a_whole_layer_passes():
    check_gradients(LESSON, Layer(), torch.randn(2, 3))
    check_gradients(LESSON, nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU()), torch.randn(2, 3))


@pytest.mark.parametrize("cut", ["input", "half", "weight", "bias"])
def test_a_part_that_is_cut_off_is_found(cut):
    with pytest.raises(Wrong) as wrong:
        check_gradients(LESSON, Layer(cut), torch.randn(2, 3))
    assert wrong.value.slip == "gradient cut off"
