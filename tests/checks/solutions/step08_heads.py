"""Step 8 of 25: split channels into heads, and join them again.

Head h gets the channels h * d to (h + 1) * d - 1 of every token.
Hint: split the last axis into (heads, d), then move the axis of heads.
Read: docs/nn/attention.md. Time: about 20 minutes.
"""

from torch import Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, N, C) -> (B, num_heads, N, C / num_heads)."""
    B, N, C = x.shape
    return x.view(B, N, num_heads, C // num_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, num_heads, N, d) -> (B, N, num_heads * d)."""
    B, heads, N, d = x.shape
    return x.transpose(1, 2).reshape(B, N, heads * d)
