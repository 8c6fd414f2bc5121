"""Step 13 of 25: merging in reverse.

One linear map to scale * scale * out_dim channels, laid out row by row in the token's square, then LayerNorm.
Hint: split the channels into (row, column, out_dim), then move the two axes next to H and W.
Read: docs/nn/patches.md. Time: about 25 minutes.
"""

from torch import Tensor, nn


class PatchExpanding(nn.Module):
    """Linear(dim, scale^2 out_dim), then LayerNorm(out_dim)."""

    def __init__(self, dim: int, out_dim: int, scale: int = 2):
        """scale: fine tokens per side of the square."""
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, scale H, scale W, out_dim)."""
        B, H, W, _ = x.shape
        s = self.scale
        x = self.expand(x).view(B, H, W, s, s, -1)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(B, s * H, s * W, -1)
        return self.norm(x)
