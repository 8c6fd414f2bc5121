"""Step 19 of 25: UNETR's transformer block: attention among all tokens.

z' = attention(norm1(z)) + z, then mlp(norm2(z')) + z'.
Hint: the attention and the heads are those of steps 7 and 8, the MLP that of step 10.
Read: docs/nn/unetr.md. Time: about 30 minutes.
"""

from step07_attention import attention
from step08_heads import merge_heads, split_heads
from step10_mlp_drop_path import MLP
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention among all tokens. Its layers: qkv, proj."""

    def __init__(self, dim: int, num_heads: int):
        """num_heads divides dim."""
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x).chunk(3, dim=-1))
        return self.proj(merge_heads(attention(q, k, v)))


class TransformerBlock(nn.Module):
    """UNETR, equations 2 and 3; the MLP has 4 * dim hidden channels."""

    def __init__(self, dim: int, num_heads: int):
        """dim: channels of a token."""
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        z = z + self.attn(self.norm1(z))
        return z + self.mlp(self.norm2(z))
