"""Convolutions around a transformer: from pixels to tokens in strided steps, and from tokens back to pixels.

A patch embedding turns 4 x 4 pixels into a token with one linear map, and the finest skip of Swin-Unet is that token:
nothing in the network knows where in the patch an edge was. "Early Convolutions Help Transformers See Better" (Xiao et
al. 2021, https://arxiv.org/abs/2106.14881, section 4) replaces the patch embedding by a few 3 x 3 convolutions with
stride 2, and finds that such networks train faster, at higher rates. Here the maps on the way are also the skips of a
U-Net (Ronneberger et al. 2015) at full and at half resolution.

Batch norm between the convolutions is on purpose: once trained it is a fixed scale, so it keeps the absolute grey
values of CT. Instance or layer norm over a patch of air makes its noise as strong as tissue (docs/results.md).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lungseg.nn.layers import conv_norm_relu, crop, double_conv


class ConvStem(nn.Module):
    """Image -> tokens, and the maps on the way: two 3 x 3 convolutions at each resolution, stride 2 between them.

    Args:
        in_channels: channels of the image.
        embed_dim: channels of a token.
        channels: of the maps at resolution 1/1, 1/2, ...; a token stands for 2^len(channels) pixels along each side.
        norm: of the convolutions, "batch" or "instance".
    """

    def __init__(self, in_channels: int, embed_dim: int, channels: Sequence[int], *, norm: str = "batch"):
        super().__init__()
        self.stages = nn.ModuleList([double_conv(in_channels, channels[0], norm=norm)])
        for a, b in pairwise(channels):
            halve, keep = conv_norm_relu(a, b, stride=2, norm=norm), conv_norm_relu(b, b, norm=norm)
            self.stages.append(nn.Sequential(halve, keep))
        self.halve = conv_norm_relu(channels[-1], embed_dim, stride=2, norm=norm)
        self.proj = nn.Conv2d(embed_dim, embed_dim, kernel_size=1)  # tokens may be negative, which ReLU left out
        self.norm = nn.LayerNorm(embed_dim)  # as the patch embedding ends

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, in_channels, H, W) -> tokens (B, ceil(H/4), ceil(W/4), embed_dim), maps of H, W and of ceil(H/2), ...

        With two `channels`; a side that 2 does not divide is rounded up at each step, so nothing needs padding.
        """
        x, maps = image, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)  # (B, 16, H, W), (B, 32, H/2, W/2)
        tokens = self.proj(self.halve(x)).movedim(1, -1)  # (B, H/4, W/4, embed_dim)
        return self.norm(tokens), maps


class ConvDecoder(nn.Module):
    """Tokens -> pixels: at each step a 2 x 2 transposed convolution, the skip beside it, two 3 x 3 convolutions.

    Args:
        embed_dim: channels of a token.
        channels, norm: as in `ConvStem`, whose maps are the skips.
    """

    def __init__(self, embed_dim: int, channels: Sequence[int], *, norm: str = "batch"):
        super().__init__()
        upward = list(pairwise([embed_dim, *reversed(channels)]))  # (48, 32), (32, 16)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, kernel_size=2, stride=2) for a, b in upward)
        self.stages = nn.ModuleList(double_conv(2 * b, b, norm=norm) for _, b in upward)

    def forward(self, tokens: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """(B, h, w, embed_dim) and the maps of `ConvStem`, finest first -> (B, channels[0], H, W)."""
        x = tokens.movedim(-1, 1)  # (B, embed_dim, h, w)
        for up, stage, skip in zip(self.up, self.stages, reversed(skips), strict=True):
            x = crop(up(x), skip.shape[2:])  # twice the side, minus what was rounded up
            x = stage(torch.cat([skip, x], dim=1))
        return x
