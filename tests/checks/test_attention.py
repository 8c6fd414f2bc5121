"""The attention checks accept ours and reject the mistakes people make."""

import pytest
import torch

from lungseg.checks.attention import check_attention, check_window_attention
from lungseg.nn.attention import WindowAttention, attention, fused_attention


def test_the_check_accepts_the_formula():
    check_attention(attention)


def test_the_check_accepts_the_fused_function():
    check_attention(lambda q, k, v, bias: fused_attention(q[None], k[None], v[None], bias=bias[None])[0])


@pytest.mark.parametrize(
    "broken",
    [
        lambda q, k, v, bias: attention(q, k, v, bias=bias, scale=1.0),
        lambda q, k, v, bias: attention(q, k, v, bias=bias, scale=1 / q.shape[-1]),
        lambda q, k, v, bias: attention(q, k, v, bias=bias.clamp(min=-10)),
        lambda q, k, v, bias: attention(k, q, v, bias=bias),
        lambda q, k, v, bias: (q @ k.T * q.shape[-1] ** -0.5 + bias).softmax(0) @ v,
        lambda q, k, v, bias: attention(q, k, v),
    ],
    ids=["no scale", "scale K_h, not its root", "-10 for -inf", "q and k swapped", "softmax over queries", "no bias"],
)
def test_the_check_rejects(broken):
    with pytest.raises(AssertionError, match="values|weights"):
        check_attention(broken, max_examples=200)


def test_the_check_accepts_our_window_attention():
    check_window_attention(WindowAttention)


class SharesOneMask(WindowAttention):
    def forward(self, x, attn_mask=None):
        return super().forward(x, None if attn_mask is None else attn_mask[:1])


class IgnoresTheMask(WindowAttention):
    def forward(self, x, attn_mask=None):
        return super().forward(x)


class TransposesTheBias(WindowAttention):
    def relative_position_bias(self, side):
        return super().relative_position_bias(side).mT


class MixesHeads(WindowAttention):
    def forward(self, x, attn_mask=None):
        x, weights = super().forward(x, attn_mask, return_weights=True)
        qkv = self.qkv(x)
        v = qkv[..., -x.shape[2] :].unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return self.proj((weights @ v).flatten(2).view_as(x))


@pytest.mark.parametrize("broken", [SharesOneMask, IgnoresTheMask, TransposesTheBias, MixesHeads])
def test_the_check_rejects_a_wrong_window_attention(broken):
    with pytest.raises(AssertionError, match="window"):
        check_window_attention(broken, max_examples=100)


def test_minus_hundred_is_not_exclusion_in_double_precision():
    q = torch.zeros(2, 1, dtype=torch.double)
    v = torch.tensor([[0.0], [1.0]], dtype=torch.double)
    for blocked, leak in [(-100.0, True), (-torch.inf, False)]:
        bias = torch.tensor([[0.0, blocked], [0.0, 0.0]], dtype=torch.double)
        values, _ = attention(q, q, v, bias=bias)
        assert (values[0].item() > 0) is leak
