"""Step 21 of 25: ResNet's bottleneck block.

relu(f(x) + shortcut(x)); f: 1x1 to width, 3x3 with the stride, 1x1 to 4 width, each with batch norm.
Hint: the shortcut is x itself, and only where the shape changes a 1x1 convolution with batch norm.
Read: docs/nn/resnet_unet.md. Time: about 30 minutes.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """He et al. 2015, Figure 5, with the stride in the 3x3 convolution."""

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        """4 * width channels come out."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Identity()
        if stride != 1 or in_channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * width, ceil(H/stride), ceil(W/stride))."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))
