"""Step 1 of 25: cut a feature map into windows.

Windows are numbered row by row, image by image; each keeps the order of its tokens.
Hint: split H into (rows of windows, window_size) and W likewise, then move one axis.
Read: docs/nn/windows.md. Time: about 15 minutes.
"""

from torch import Tensor


def window_partition(x: Tensor, window_size: int) -> Tensor:
    """(B, H, W, C) -> (B*nW, window_size, window_size, C); window_size divides H and W."""
    B, H, W, C = x.shape
    x = x.view(B, H // window_size, window_size, W // window_size, window_size, C)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window_size, window_size, C)
