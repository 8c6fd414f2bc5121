"""The check of the bottleneck accepts every right way; mutants_networks.py holds the wrong ones."""

import pytest
from torch import nn

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.bottleneck import check_bottleneck
from lungseg.nn.resnet_unet import Bottleneck


def test_ours_passes():
    check_bottleneck(Bottleneck)


def test_a_sequential_with_its_shortcut_first_passes():
    class Block(nn.Module):
        def __init__(self, in_channels, width, stride=1):
            super().__init__()
            same = stride == 1 and in_channels == 4 * width
            shortcut = nn.Conv2d(in_channels, 4 * width, 1, stride), nn.BatchNorm2d(4 * width)
            self.shortcut = nn.Sequential(*() if same else shortcut)
            self.f = nn.Sequential(
                nn.Conv2d(in_channels, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width),
            )  # fmt: skip

        def forward(self, x):
            return (self.f(x) + self.shortcut(x)).relu()

    check_bottleneck(Block)


def test_a_projection_where_the_identity_would_do_is_refused():
    class Always(Bottleneck):
        def __init__(self, in_channels, width, stride=1):
            super().__init__(in_channels, width, stride)
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    with pytest.raises(Wrong, match=r"identity is\s+the point"):
        check_bottleneck(Always)
