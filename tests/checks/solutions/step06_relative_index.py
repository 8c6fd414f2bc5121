"""Step 6 of 25: number the offsets between the tokens of a window.

Query i and key j get row (dr + ws - 1)(2 ws - 1) + dc + ws - 1 of a table, (dr, dc) = position of i - of j.
Hint: a token's row is i // ws and its column i % ws; broadcasting makes all pairs.
Read: docs/nn/windows.md. Time: about 25 minutes.
"""

import torch
from torch import Tensor


def relative_position_index(window_size: int) -> Tensor:
    """int64 (N, N) with N = window_size**2."""
    i = torch.arange(window_size**2)
    row, col = i // window_size, i % window_size
    dr = row[:, None] - row[None, :] + window_size - 1
    dc = col[:, None] - col[None, :] + window_size - 1
    return dr * (2 * window_size - 1) + dc
