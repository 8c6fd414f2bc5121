"""U-Net in two or three dimensions: the plain network that every other one has to beat.

"U-Net: Convolutional Networks for Biomedical Image Segmentation" (Ronneberger et al. 2015,
https://arxiv.org/abs/1505.04597), Figure 1; in 3-D "3D U-Net" (Cicek et al. 2016, https://arxiv.org/abs/1606.06650).

As in the paper: two 3 x 3 convolutions per stage, max-pooling down, 2 x 2 transposed convolutions up, skips by
concatenation. Unlike the paper, but like most implementations since: convolutions are padded, so that the logits are
as large as the image; they are normalised; and there are half as many channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from lungseg.nn.arguments import check_batch_norm, check_counts, check_image, check_stages
from lungseg.nn.layers import CONV, CONV_TRANSPOSE, MAX_POOL, NORM, crop, double_conv
from lungseg.nn.memory_layout import fast_layout


class UNet(nn.Module):
    """An encoder of blocks, a decoder of blocks, and a skip between the two at each size.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for lesion against background.
        spatial_dims: 2 for slices, 3 for volumes.
        channels: channels of each stage, from the full size down; each stage halves the sides.
        norm: "batch" or "instance". Once trained, batch norm is a fixed scale per channel: it keeps the absolute grey
            values of CT, and scales a crop like the whole slice. Instance norm takes the scale from each image, and so
            also trains on batches of one or two, the usual case for volumes.
        block: (in_channels, out_channels) -> module that keeps the size; `double_conv` if None.

    Raises:
        ValueError: for any other spatial_dims or norm, no channels, or counts below 1; in forward, for an image
            that is not (B, in_channels, H, W[, D]), whose dtype is not that of the weights, or whose deepest map has
            a single pixel in all while batch norm trains.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        spatial_dims: int = 2,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        norm: str = "batch",
        block: Callable[[int, int], nn.Module] | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        check_counts(name, in_channels=in_channels, num_classes=num_classes, spatial_dims=spatial_dims)
        check_stages(name, channels=channels)
        if spatial_dims not in CONV:
            raise ValueError(f"{name}: spatial_dims must be 2 for slices or 3 for volumes, got {spatial_dims}.")
        if norm not in tuple(NORM):
            raise ValueError(f"{name}: norm must be one of {', '.join(NORM)}, got {norm!r}.")
        block = block or partial(double_conv, spatial_dims=spatial_dims, norm=norm)
        self.in_channels, self.spatial_dims = in_channels, spatial_dims
        self.batch_norm, self.stride = norm == "batch", 2 ** (len(channels) - 1)
        *outer, deepest = channels
        self.encoder = nn.ModuleList(block(a, b) for a, b in pairwise([in_channels, *outer]))
        # ceil_mode: the last pixel of an odd side is pooled alone, so nothing is lost and nothing is padded.
        self.pool = MAX_POOL[spatial_dims](kernel_size=2, ceil_mode=True)
        self.bottleneck = block([in_channels, *outer][-1], deepest)
        upward = pairwise(reversed(channels))  # (512, 256), (256, 128), (128, 64), (64, 32)
        self.up = nn.ModuleList(CONV_TRANSPOSE[spatial_dims](a, b, kernel_size=2, stride=2) for a, b in upward)
        self.decoder = nn.ModuleList(block(2 * n, n) for n in reversed(outer))
        self.head = CONV[spatial_dims](channels[0], num_classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W[, D]) -> logits (B, num_classes, H, W[, D]), any sides of at least 1 pixel."""
        name = type(self).__name__
        check_image(name, image, self.in_channels, next(self.parameters()).dtype, spatial_dims=self.spatial_dims)
        if self.training and self.batch_norm:
            check_batch_norm(name, image, self.stride)
        x, skips = fast_layout(image) if self.spatial_dims == 2 else image, []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)  # (B, 32, H, W), (B, 64, H/2, W/2), (B, 128, H/4, W/4), (B, 256, H/8, W/8)
            x = self.pool(x)
        x = self.bottleneck(x)  # (B, 512, H/16, W/16)
        for up, stage in zip(self.up, self.decoder, strict=True):
            skip = skips.pop()
            x = crop(up(x), skip.shape[2:])  # the skip's size and channels
            x = stage(torch.cat([skip, x], dim=1))  # (B, 256, H/8, W/8) ... (B, 32, H, W)
        return self.head(x)  # (B, num_classes, H, W)
