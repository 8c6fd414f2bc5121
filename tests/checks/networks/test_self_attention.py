"""The checks of multi-head attention accept every right way; mutants_networks.py holds the wrong ones."""

import pytest
import torch
from torch import nn

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.self_attention import check_self_attention, check_window_attention
from lungseg.nn.attention import SelfAttention, WindowAttention
from lungseg.nn.windows import relative_position_index


class ThreeLayers(nn.Module):
    """q, k and v as layers of their own, in another order, and a table on the second axis."""

    def __init__(self, dim, window_size, num_heads):
        super().__init__()
        self.to_v, self.to_k, self.to_q = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.Linear(dim, dim)
        self.num_heads = num_heads
        self.table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.register_buffer("index", relative_position_index(window_size))

    def forward(self, x, mask=None):
        q, k, v = (f(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for f in (self.to_q, self.to_k, self.to_v))
        logits = q @ k.mT / q.shape[-1] ** 0.5 + self.table[self.index].permute(2, 0, 1)
        if mask is not None:
            logits = logits.masked_fill(~mask.repeat(len(x) // len(mask), 1, 1)[:, None], -100.0)
        return self.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Published(ThreeLayers):
    """The window as a pair of sides."""

    def __init__(self, dim, window_size, num_heads):
        super().__init__(dim, window_size[0], num_heads)


def test_ours_pass():
    check_self_attention(SelfAttention)
    check_self_attention(lambda dim, num_heads: SelfAttention(dim, num_heads, qkv_bias=True, fused=False))
    check_window_attention(WindowAttention)


@pytest.mark.parametrize("layers", [ThreeLayers, Published])
def test_separate_layers_and_a_window_as_a_pair_are_taken(layers):
    check_window_attention(layers)


class OfTorch(nn.Module):
    """PyTorch's own layer."""

    def __init__(self, dim, num_heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


class Head(nn.Module):
    """One head with layers of its own."""

    def __init__(self, dim, d):
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(dim, d, bias=False) for _ in range(3))

    def forward(self, x):
        logits = self.query(x) @ self.key(x).mT / self.key.out_features**0.5
        return logits.softmax(-1) @ self.value(x)


class ListOfHeads(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.heads = nn.ModuleList(Head(dim, dim // num_heads) for _ in range(num_heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(torch.cat([head(x) for head in self.heads], -1))


@pytest.mark.parametrize("cls", [OfTorch, ListOfHeads])
def test_torchs_attention_and_a_layer_for_each_head_are_taken(cls):
    check_self_attention(cls)


def test_missing_layers_are_named():
    with pytest.raises(Wrong, match=r"qkv = Linear\(dim, 3 \* dim\)"):
        check_self_attention(lambda dim, num_heads: nn.Sequential(nn.Linear(dim, dim)))
