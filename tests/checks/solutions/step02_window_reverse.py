"""Step 2 of 25: put the windows back.

window_reverse(window_partition(x, ws), H, W) is x again.
Hint: the same axes in the other direction; the batch size follows from the number of windows.
Read: docs/nn/windows.md. Time: about 10 minutes.
"""

from torch import Tensor


def window_reverse(windows: Tensor, height: int, width: int) -> Tensor:
    """(B*nW, ws, ws, C) -> (B, height, width, C)."""
    _, ws, _, C = windows.shape
    x = windows.view(-1, height // ws, width // ws, ws, ws, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, C)
