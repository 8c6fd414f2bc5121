"""Step 7 of 25: the attention formula.

softmax(q k^T / sqrt(d) + bias) v, for any number of leading axes.
Hint: -1 and -2 name the last two axes whatever comes before them.
Read: docs/nn/attention.md. Time: about 20 minutes.
"""

from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """q, k, v (..., N, d), bias (..., N, N) with -inf where blocked -> (..., N, d)."""
    logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ v
