"""Checks of attention and window attention, against sums written out with Python loops."""

import math
from collections.abc import Callable

import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from lungseg.checks.running import learner_settings


def attention_by_loops(q: list, k: list, v: list, bias: list) -> tuple[list, list]:
    """(values, weights) of one head for lists of N vectors: exp(q.k/sqrt(d) + bias), normalised per query."""
    values, all_weights = [], []
    for i, query in enumerate(q):
        logits = [sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(len(query)) for key in k]
        weights = [math.exp(z + bias[i][j]) for j, z in enumerate(logits)]
        weights = [w / sum(weights) for w in weights]
        all_weights.append(weights)
        values.append([sum(w * v[j][c] for j, w in enumerate(weights)) for c in range(len(v[0]))])
    return values, all_weights


def check_attention(attention: Callable, *, max_examples: int = 30) -> None:
    """Fail unless `attention(q, k, v, bias=bias)` is softmax(q k^T / sqrt(head_dim) + bias) v.

    Args:
        attention: q, k, v (N, head_dim), bias (N, N) with -inf where blocked -> values (N, head_dim), or a
            pair (values, weights (N, N)).
    """

    @learner_settings(max_examples)
    @given(N=st.integers(1, 5), d=st.integers(1, 4), seed=st.integers(0, 99))
    def property_holds(N, d, seed):
        rng = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(N, d, generator=rng, dtype=torch.double) for _ in range(3))
        bias = torch.randn(N, N, generator=rng, dtype=torch.double)
        blocked = torch.rand(N, N, generator=rng) < 0.4
        bias = bias.masked_fill(blocked & ~torch.eye(N, dtype=torch.bool), -torch.inf)
        result = attention(q, k, v, bias=bias)
        values, weights = result if isinstance(result, tuple) else (result, None)
        expected, expected_weights = attention_by_loops(q.tolist(), k.tolist(), v.tolist(), bias.tolist())
        assert_equal("values", values, expected)
        if weights is not None:
            assert_equal("weights", weights, expected_weights)

    property_holds()


def check_window_attention(build: Callable[[int, int, int], nn.Module], *, max_examples: int = 15) -> None:
    """Fail unless a window attention is the paper's equation 4, token by token, and honours its mask.

    Args:
        build: (dim, window_size, num_heads) -> a module with the field's names `qkv`, `proj` and
            `relative_position_bias_table` ((2 ws - 1)^2, num_heads), called as
            module(x (B*nW, N, C), attn_mask (nW, N, N) bool or None) -> (B*nW, N, C).
    """

    @learner_settings(max_examples)
    @given(
        ws=st.integers(1, 3),
        heads=st.integers(1, 2),
        d=st.integers(1, 2),
        B=st.integers(1, 2),
        nW=st.integers(1, 2),
        masked=st.booleans(),
        seed=st.integers(0, 99),
    )
    def property_holds(ws, heads, d, B, nW, masked, seed):
        N, C, rng = ws * ws, heads * d, torch.Generator().manual_seed(seed)
        module = build(C, ws, heads).double().eval()
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.randn(p.shape, generator=rng, dtype=torch.double))
        x = torch.randn(B * nW, N, C, generator=rng, dtype=torch.double)
        mask = (torch.rand(nW, N, N, generator=rng) < 0.6) | torch.eye(N, dtype=torch.bool)
        mask = mask if masked else torch.ones_like(mask)
        with torch.no_grad():
            result = module(x, mask if masked else None)
        assert result.shape == x.shape, f"shape is {tuple(result.shape)}, not {tuple(x.shape)}"
        for w in range(B * nW):
            expected = window_by_loops(module, x[w], mask[w % nW], ws, heads)
            assert_equal(f"window {w} (window {w % nW} of image {w // nW})", result[w], expected)

    property_holds()


def window_by_loops(module: nn.Module, x: Tensor, mask: Tensor, ws: int, heads: int) -> Tensor:
    """Equation 4 for one window (N, C), head by head, with the module's weights."""
    N, C = x.shape
    qkv = x @ module.qkv.weight.T + (
        module.qkv.bias if module.qkv.bias is not None else 0
    )  # (N, 3C): all q, all k, all v
    d, outputs = C // heads, []
    table = module.relative_position_bias_table.tolist()
    for h in range(heads):
        q, k, v = (qkv[:, part * C + h * d : part * C + (h + 1) * d].tolist() for part in range(3))
        bias = [
            [
                table[(i // ws - j // ws + ws - 1) * (2 * ws - 1) + i % ws - j % ws + ws - 1][h]
                if mask[i, j]
                else -math.inf
                for j in range(N)
            ]
            for i in range(N)
        ]
        values, _ = attention_by_loops(q, k, v, bias)
        outputs.append(torch.tensor(values, dtype=x.dtype))
    return torch.cat(outputs, dim=1) @ module.proj.weight.T + module.proj.bias


def assert_equal(what: str, got: Tensor, expected: Tensor | list) -> None:
    """Fail with the first token and channel that differ by more than 1e-9."""
    expected = torch.as_tensor(expected, dtype=got.dtype)
    assert got.shape == expected.shape, f"{what}: shape is {tuple(got.shape)}, not {tuple(expected.shape)}"
    wrong = ((got - expected).abs() > 1e-9).nonzero().tolist()
    assert not wrong, (
        f"{what}: at [token, channel] = {wrong[0]} the result is {got[tuple(wrong[0])].item():.6g}, "
        f"the sum written out gives {expected[tuple(wrong[0])].item():.6g}"
    )
