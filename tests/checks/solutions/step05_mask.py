"""Step 5 of 25: who may attend to whom after the roll.

Two tokens may attend to each other if one cell of the shifted grid holds both, and padding only to padding.
Hint: number the regions of the padded map, roll and cut the numbers like the map, compare them pair by pair.
Read: docs/nn/windows.md. Time: about 40 minutes.
"""

import torch
from step01_window_partition import window_partition
from torch import Tensor


def shifted_window_mask(height: int, width: int, window_size: int, shift_size: int) -> Tensor:
    """bool (nW, N, N), True = may attend; the map is padded first and rolled by -shift_size after."""
    H, W = height + -height % window_size, width + -width % window_size
    row, col = torch.arange(H)[:, None], torch.arange(W)[None, :]
    padding = (row >= height) | (col >= width)
    region = 4 * ((row < shift_size) & (shift_size > 0)) + 2 * (col < shift_size) + padding
    region = region.roll((-shift_size, -shift_size), (0, 1))
    region = window_partition(region[None, :, :, None], window_size).flatten(1)
    return region[:, :, None] == region[:, None, :]
