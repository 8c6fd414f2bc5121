"""Step 15 of 25: a stage: several blocks, every other one shifted.

Blocks 0, 2, ... have shift 0, blocks 1, 3, ... half a window, rounded down; each has weights of its own.
Hint: nn.Sequential takes a list with *.
Read: docs/nn/swin_unet.md. Time: about 10 minutes.
"""

from step14_swin_block import SwinBlock
from torch import nn


def swin_stage(dim: int, depth: int, num_heads: int, window_size: int) -> nn.Sequential:
    """`depth` blocks as one module (B, H, W, dim) -> (B, H, W, dim)."""
    shifts = [0 if i % 2 == 0 else window_size // 2 for i in range(depth)]
    return nn.Sequential(*[SwinBlock(dim, num_heads, window_size, shift) for shift in shifts])
