"""Step 14 of 25: the Swin block: norm, shifted window attention, add; norm, MLP, add.

Pad, roll, cut, attend with the mask, put back, roll back, crop.
Hint: normalise before you pad; the mask is also needed without a shift, if there is padding.
Read: docs/nn/swin_unet.md. Time: about 45 minutes.
"""

from step01_window_partition import window_partition
from step02_window_reverse import window_reverse
from step03_cyclic_shift import cyclic_shift
from step04_pad_to_multiple import pad_to_multiple
from step05_mask import shifted_window_mask
from step09_window_attention import WindowAttention
from step10_mlp_drop_path import MLP, DropPath
from torch import Tensor, nn


class SwinBlock(nn.Module):
    """Swin Transformer, equation 3."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift_size: int = 0, drop_path: float = 0.0):
        """The MLP has 4 * dim hidden channels."""
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim), any H and W."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Attention in shifted windows: (B, H, W, dim) -> (B, H, W, dim)."""
        _, H, W, _ = x.shape
        ws, shift = self.window_size, self.shift_size
        x = pad_to_multiple(x, ws)
        padded = x.shape[1:3]
        mask = shifted_window_mask(H, W, ws, shift).to(x.device)
        windows = window_partition(cyclic_shift(x, shift), ws).flatten(1, 2)
        windows = self.attn(windows, mask).unflatten(1, (ws, ws))
        x = cyclic_shift(window_reverse(windows, *padded), -shift)
        return x[:, :H, :W]
