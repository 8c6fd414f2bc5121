"""Step 16 of 25: Swin-UNet of your own parts.

Embed, encoder stages with merging, bottleneck, decoder stages with expanding and skips, and logits for each pixel.
Hint: keep the map before each encoder stage as its skip; concatenate, then Linear(2 dim, dim); crop what was padded.
Read: docs/nn/swin_unet.md. Time: about 60 minutes.
"""

from collections.abc import Sequence

import torch
from step11_patch_embed import PatchEmbed
from step12_patch_merging import PatchMerging
from step13_patch_expanding import PatchExpanding
from step15_stage import swin_stage
from torch import Tensor, nn


class SwinUNet(nn.Module):
    """Swin-Unet, Figure 1. Returns logits, without sigmoid."""

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        embed_dim: int = 32,
        depths: Sequence[int] = (2, 2),
        num_heads: Sequence[int] = (2, 4),
        window_size: int = 8,
        patch_size: int = 4,
    ):
        """Stage i has embed_dim * 2**i channels; the last one is the bottleneck, the decoder mirrors the others."""
        super().__init__()
        dims = [embed_dim * 2**i for i in range(len(depths))]
        down, up = range(len(dims) - 1), range(len(dims) - 2, -1, -1)

        def stage(i: int) -> nn.Sequential:
            return swin_stage(dims[i], depths[i], num_heads[i], window_size)

        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        self.encoder = nn.ModuleList(stage(i) for i in down)
        self.merging = nn.ModuleList(PatchMerging(dims[i]) for i in down)
        self.bottleneck = nn.Sequential(stage(len(dims) - 1), nn.LayerNorm(dims[-1]))
        self.expanding = nn.ModuleList(PatchExpanding(dims[i + 1], dims[i]) for i in up)
        self.fuse = nn.ModuleList(nn.Linear(2 * dims[i], dims[i]) for i in up)
        self.decoder = nn.ModuleList(stage(i) for i in up)
        self.norm = nn.LayerNorm(embed_dim)
        self.to_pixels = PatchExpanding(embed_dim, embed_dim, patch_size)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        H, W = image.shape[2:]
        x, skips = self.patch_embed(image), []
        for stage, merge in zip(self.encoder, self.merging, strict=True):
            skips.append(x)
            x = merge(stage(x))
        x = self.bottleneck(x)
        for expand, fuse, stage in zip(self.expanding, self.fuse, self.decoder, strict=True):
            skip = skips.pop()
            x = expand(x)[:, : skip.shape[1], : skip.shape[2]]
            x = stage(fuse(torch.cat([x, skip], dim=-1)))
        logits = self.head(self.to_pixels(self.norm(x)))
        return logits.permute(0, 3, 1, 2)[..., :H, :W]
