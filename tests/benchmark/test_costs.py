"""Arithmetic and bytes against formulas worked out by hand; the least time against a machine with known rates."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lungseg.benchmark.costs import Costs, Operation, count_costs
from lungseg.benchmark.limits import Limits
from lungseg.nn.attention import SelfAttention

SIDES = st.integers(1, 9)


@settings(max_examples=10)
@given(SIDES, SIDES, SIDES)
def test_a_linear_layer_costs_what_its_formula_says(batch, inputs, outputs):
    layer, x = nn.Linear(inputs, outputs, bias=False), torch.rand(batch, inputs)
    with torch.no_grad():
        costs = count_costs(lambda: layer(x))
    assert costs.flops == 2 * batch * inputs * outputs
    assert costs.bytes == 4 * (batch * inputs + inputs * outputs + batch * outputs)  # the transposition is a view


@settings(max_examples=10)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(3, 7))
def test_a_convolution_costs_what_its_formula_says(batch, inputs, outputs, kernel, side):
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    x = torch.rand(batch, inputs, side, side)
    with torch.no_grad():
        costs = count_costs(lambda: layer(x))
    pixels = batch * side * side
    assert costs.flops == 2 * kernel**2 * inputs * outputs * pixels
    assert costs.bytes == 4 * (inputs * pixels + kernel**2 * inputs * outputs + outputs * pixels)
    assert list(costs.least(Limits(1e9, 1.0, 1e30)))[0] == "convolution"


def test_the_backward_pass_of_a_linear_layer_is_counted_too():
    layer, x = nn.Linear(5, 7, bias=False), torch.rand(3, 5, requires_grad=True)
    forward = count_costs(lambda: layer(x)).flops
    assert count_costs(lambda: layer(x).sum().backward()).flops == 3 * forward  # gradients of the input and the weight


@pytest.mark.parametrize("fused", [True, False])
def test_attention_costs_the_same_written_out_and_fused(fused):
    tokens, dim = 6, 8
    layer, x = SelfAttention(dim, 2, fused=fused).eval(), torch.rand(1, tokens, dim)
    projections, products = 4 * tokens * dim**2, 2 * tokens**2 * dim
    with torch.no_grad():
        assert count_costs(lambda: layer(x)).flops == 2 * (projections + products)


def test_the_gradient_of_fused_attention_is_counted():
    q, k, v = (torch.rand(1, 2, n, 4, requires_grad=True) for n in (5, 7, 7))
    costs = count_costs(lambda: nn.functional.scaled_dot_product_attention(q, k, v).sum().backward())
    product = 2 * 2 * 5 * 7 * 4  # 2 heads
    assert costs.flops == (2 + 5) * product


A, B = torch.rand(4, 6), torch.rand(4, 6)
SIZE = 4 * 24


@pytest.mark.parametrize(
    ("work", "moved"),
    [
        (lambda: A + B, 3 * SIZE),
        (lambda: A.relu(), 2 * SIZE),
        (lambda: A.view(6, 4), 0),
        (lambda: A.t(), 0),
        (lambda: A.detach()[1:], 0),
        (lambda: torch.empty(1000), 0),
        (lambda: A.t().contiguous(), 2 * SIZE),
        (lambda: B.add_(A), 3 * SIZE),  # reads both, writes one
        (lambda: B.copy_(A), 2 * SIZE),  # what is overwritten is not read
        (lambda: B.zero_(), SIZE),
        (lambda: torch._foreach_add_([B], [A]), 3 * SIZE),
        (lambda: A[:1].expand(4, 6) + B, 2 * SIZE + SIZE // 4 * 4),
    ],
)
def test_bytes_that_an_operation_moves(work, moved):
    assert count_costs(work).bytes == moved


def test_each_operation_takes_the_longer_of_its_arithmetic_and_its_bytes():
    costs = Costs((
        Operation("aten.mm.default", flops=100, bytes=10),  # 10 s of arithmetic, 1 s of copying
        Operation("aten.convolution.default", flops=100, bytes=10),  # 5 s, 1 s
        Operation("aten.mm.default", flops=10, bytes=40),  # 1 s, 4 s
        Operation("aten.add.Tensor", flops=0, bytes=20),  # 2 s
    ))  # fmt: skip
    least = costs.least(Limits(matmul=10, convolution=20, copy=10))
    assert list(least.items()) == [("matmul", 10), ("copy", 6), ("convolution", 5)]
    assert (costs.flops, costs.bytes) == (210, 80)
