"""Step 11 of 25: from pixels to tokens.

Each patch becomes one token by the same linear map; fill incomplete patches with zeros at the bottom and right.
Hint: a convolution whose stride is its kernel size; move the channels to the end, then LayerNorm.
Read: docs/nn/patches.md. Time: about 20 minutes.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Patches to tokens, with one convolution and a LayerNorm."""

    def __init__(self, in_channels: int, embed_dim: int, patch_size: int = 4):
        """A patch has patch_size x patch_size pixels."""
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, ceil(H/p), ceil(W/p), embed_dim)."""
        H, W = image.shape[2:]
        image = F.pad(image, (0, -W % self.patch_size, 0, -H % self.patch_size))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))
