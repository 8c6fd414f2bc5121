"""Step 12 of 25: half the side, twice the channels.

Join each 2 x 2 neighbourhood in the order (0,0) (1,0) (0,1) (1,1), LayerNorm, one linear map without bias.
Hint: x[:, 0::2, 1::2] takes even rows and odd columns; pad odd sides first (step 4).
Read: docs/nn/patches.md. Time: about 20 minutes.
"""

import torch
from step04_pad_to_multiple import pad_to_multiple
from torch import Tensor, nn


class PatchMerging(nn.Module):
    """LayerNorm(4 dim), then Linear(4 dim, 2 dim)."""

    def __init__(self, dim: int):
        """dim: channels of the incoming tokens."""
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), 2 dim)."""
        x = pad_to_multiple(x, 2)
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
        return self.reduction(self.norm(x))
