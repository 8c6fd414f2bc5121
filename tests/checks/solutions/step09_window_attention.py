"""Step 9 of 25: attention inside windows, with a bias for each offset.

softmax(q k^T / sqrt(d) + B) v in every window; blocked pairs get -inf before the softmax.
Hint: window w of the batch has mask w % nW; table[index] is (N, N, heads).
Read: docs/nn/attention.md. Time: about 45 minutes.
"""

import torch
from step06_relative_index import relative_position_index
from step07_attention import attention
from step08_heads import merge_heads, split_heads
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows. Its layers: qkv, proj, relative_position_bias_table."""

    def __init__(self, dim: int, window_size: int, num_heads: int):
        """The table is a parameter ((2 * window_size - 1)**2, num_heads), zero at the start."""
        super().__init__()
        self.window_size, self.num_heads = window_size, num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B*nW, N, dim), bool (nW, N, N) or None -> (B*nW, N, dim)."""
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))
        index = relative_position_index(self.window_size).to(x.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)
        if attn_mask is not None:
            blocked = torch.zeros(attn_mask.shape, device=x.device).masked_fill(~attn_mask, -torch.inf)
            blocked = blocked.repeat(len(x) // len(attn_mask), 1, 1)
            bias = bias + blocked[:, None]
        return self.proj(merge_heads(attention(q, k, v, bias=bias)))
