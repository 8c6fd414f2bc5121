"""Attention: the formula as it is written, and the self-attention of ViT and of Swin's windows built on it.

`attention` is equation 1 of "Attention Is All You Need" (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762)
with an additive bias. It also returns its weights, so that one can look at them. `fused_attention` computes the same
values with torch's `F.scaled_dot_product_attention`, whose GPU kernels never store the (N, N) weights; a test asserts
that values and gradients of the two agree.
"""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts
from lungseg.nn.windows import relative_position_index


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, scale: float | None = None, drop: float = 0.0
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale + bias) v, step by step.

    Args:
        q, k, v: (..., N, head_dim).
        bias: added before the softmax, broadcastable to (..., N, N); -inf where a query may not attend.
        scale: 1/sqrt(head_dim) if None, so that the logits keep unit variance (Vaswani et al., section 3.2.1).
        drop: probability of dropping a weight.

    Returns:
        The mixed values, (..., N, head_dim), and the weights, (..., N, N), whose rows sum to 1 before dropping.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = (q * scale) @ k.transpose(-2, -1)  # (..., N, N): row = query, column = key
    if bias is not None:
        logits = logits + bias
    weights = logits.softmax(dim=-1)
    return F.dropout(weights, drop) @ v, weights


def fused_attention(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, drop: float = 0.0) -> Tensor:
    """The values of `attention` (with its default scale) by torch's own function; q, k, v: (B, heads, N, head_dim)."""
    q = q * q.shape[-1] ** -0.5  # scaled here as in the formula: torch would scale q and k each by the root of this
    bias = None if bias is None else bias.to(q.dtype)  # under autocast q is half precision, the bias table is not
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop, scale=1.0)


class SelfAttention(nn.Module):
    """Multi-head self-attention among all tokens of an image.

    ViT (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929), appendix A, equations 5-8; UNETR (Hatamizadeh
    et al. 2021, https://arxiv.org/abs/2103.10504), equation 4. Cost and memory grow with N^2.

    Args:
        dim: channels K of a token.
        num_heads: attention heads; must divide dim.
        qkv_bias: learn a bias for queries, keys and values.
        scale: what the logits q k^T are multiplied by; 1/sqrt(head_dim) if None.
        attn_drop: probability of dropping an attention weight, in training.
        proj_drop: probability of dropping an output channel, in training.
        fused: use torch's fused attention, which never stores the (N, N) weights. If False, the formula runs.

    Raises:
        ValueError: if num_heads does not divide dim.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = False,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        fused: bool = True,
    ):
        super().__init__()
        check_counts("SelfAttention", dim=dim, num_heads=num_heads)
        if dim % num_heads:
            raise ValueError(
                f"SelfAttention: num_heads={num_heads} does not divide dim={dim}. "
                f"Choose a dim that is a multiple of num_heads."
            )
        self.num_heads, self.scale, self.attn_drop, self.fused = num_heads, scale, attn_drop, fused
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, *, return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(B, N, K) -> (B, N, K), and the weights (B, num_heads, N, N) if asked for."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        drop = self.attn_drop if self.training else 0.0
        if self.fused and not return_weights:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=drop, scale=self.scale)
        else:
            x, weights = attention(q, k, v, scale=self.scale, drop=drop)
        x = self.proj_drop(self.proj(x.transpose(1, 2).flatten(2)))  # (B, N, K): heads side by side
        return (x, weights) if return_weights else x


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for each offset between two tokens.

    Swin Transformer (Liu et al. 2021), section 3.2, equation 4: softmax(q k^T / sqrt(d) + B) v.

    Args:
        dim: channels C of a token.
        window_size: side of a window in tokens; smaller windows are accepted too (see `forward`).
        num_heads: attention heads; must divide dim.
        qkv_bias: learn a bias for queries, keys and values.
        attn_drop: probability of dropping an attention weight, in training.
        proj_drop: probability of dropping an output channel, in training.
        fused: use torch's fused attention on a GPU. If False, or on a CPU, the formula runs: on a CPU torch has no
            fused kernel for a learned bias, and would take 1.2 to 1.7 times as long (docs/nn/attention.md in the
            repository has the measurement).

    Raises:
        ValueError: if num_heads does not divide dim.
    """

    def __init__(
        self,
        dim: int,
        window_size: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        fused: bool = True,
    ):
        super().__init__()
        check_counts("WindowAttention", dim=dim, window_size=window_size, num_heads=num_heads)
        if dim % num_heads:
            raise ValueError(
                f"WindowAttention: num_heads={num_heads} does not divide dim={dim}. "
                f"Choose a dim that is a multiple of num_heads."
            )
        self.window_size, self.num_heads, self.attn_drop, self.fused = window_size, num_heads, attn_drop, fused
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def relative_position_bias(self, side: int) -> Tensor:
        """B of equation 4 for a window of side x side tokens, side <= window_size: (num_heads, N, N).

        A smaller window is a corner of the full one, and the same offsets have the same bias.
        """
        ws, table = self.window_size, self.relative_position_bias_table
        # Computed here, in microseconds, and not kept as a buffer: a buffer outside the checkpoint would hold garbage
        # after `to_empty` or `load_state_dict(assign=True)` of a network that was built on the meta device.
        index = relative_position_index(ws, device=table.device).view(ws, ws, ws, ws)[:side, :side, :side, :side]
        index = index.reshape(side * side, side * side)  # (N, N)
        return table[index].permute(2, 0, 1)  # (num_heads, N, N)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, *, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Let the tokens of each window attend to each other.

        Args:
            x: windows, (B*nW, N, C), the nW windows of each image one after the other. N is the square of a
                side of at most window_size.
            attn_mask: bool, (nW, N, N), True = may attend (`shifted_window_mask`). None: all may.
            return_weights: also return the weights, (B*nW, num_heads, N, N).

        Returns:
            (B*nW, N, C).
        """
        BnW, N, C = x.shape
        side = isqrt(N)
        if side * side != N or side > self.window_size:
            raise ValueError(
                f"WindowAttention: {N} tokens are not a square window with a side of at most window_size="
                f"{self.window_size}. Cut the map with window_partition and flatten each window."
            )
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B*nW, heads, N, d)
        bias = self.relative_position_bias(side)  # (heads, N, N)
        drop = self.attn_drop if self.training else 0.0
        if attn_mask is not None:
            # -inf, not -100: blocked weights are then exactly zero, in every dtype.
            blocked = torch.zeros_like(attn_mask, dtype=bias.dtype).masked_fill_(~attn_mask, -torch.inf)
            bias = bias + blocked[:, None]  # (nW, heads, N, N)
            # One mask serves all images: let windows count as heads, (B*nW, heads, ...) -> (B, nW*heads, ...).
            q, k, v = (t.reshape(-1, len(attn_mask) * self.num_heads, N, C // self.num_heads) for t in (q, k, v))
            bias = bias.flatten(0, 1)  # (nW*heads, N, N)
        if self.fused and not return_weights and x.device.type != "cpu":
            x = fused_attention(q, k, v, bias=bias[None], drop=drop)
        else:
            x, weights = attention(q, k, v, bias=bias, drop=drop)
        x = x.reshape(BnW, self.num_heads, N, -1).transpose(1, 2).flatten(2)  # (B*nW, N, C): heads side by side
        x = self.proj_drop(self.proj(x))
        if return_weights:
            return x, weights.reshape(BnW, self.num_heads, N, N)
        return x
