"""Step 3 of 25: roll the map, so that shifted windows become regular ones.

Row and column `shift_size` come first; what leaves at the top and left enters at the bottom and right.
Hint: torch.roll moves towards larger indices.
Read: docs/nn/windows.md. Time: about 10 minutes.
"""

from torch import Tensor


def cyclic_shift(x: Tensor, shift_size: int) -> Tensor:
    """(B, H, W, C) -> (B, H, W, C), rolled; a negative shift_size undoes it."""
    return x.roll((-shift_size, -shift_size), dims=(1, 2))
