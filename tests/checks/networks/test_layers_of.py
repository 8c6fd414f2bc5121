"""The layers of a module are found by their shapes, whatever their names and order."""

import pytest
import torch
from torch import nn

from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.layers_of import (
    apply,
    find_mlp,
    find_norms,
    find_projections,
    layer_norm,
    letter_of,
    weights,
)

LESSON = Lesson("f", "f(x)", "the rule.", "docs/x.md")


@pytest.mark.parametrize(
    ("name", "letter"),
    [("q", "q"), ("to_k", "k"), ("v_proj", "v"), ("attn.query", "q"), ("w_v", "v"), ("W_q", "q"), ("wk", "k"),
     ("keys", "k"), ("values", "v"), ("proj", "o"), ("out", "o"), ("to_out.0", "o")],
)  # fmt: skip
def test_names_say_which_projection_it_is(name, letter):
    assert letter_of(name) == letter


def test_fused_and_separate_projections_are_the_same():
    fused = nn.ModuleDict({"qkv": nn.Linear(2, 6), "proj": nn.Linear(2, 2, bias=False)})
    q, k, v = fused["qkv"].weight.chunk(3)
    separate = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("v", "out", "k", "q")})
    with torch.no_grad():
        for name, weight in (("q", q), ("k", k), ("v", v)):
            separate[name].weight.copy_(weight)
    one, other = find_projections(LESSON, fused, 2), find_projections(LESSON, separate, 2)
    for letter in "qkv":
        assert torch.equal(getattr(one, letter)[0], getattr(other, letter)[0])
    assert one.out[1].tolist() == [0, 0]  # no bias


def test_layer_norm_and_linear_are_those_of_torch():
    norm, linear, x = nn.LayerNorm(5), nn.Linear(5, 3).double(), torch.randn(2, 5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    assert torch.allclose(layer_norm(norm, x), norm.double()(x))
    assert torch.allclose(apply(weights(linear), x), linear(x))


def test_what_is_missing_is_named():
    with pytest.raises(Wrong, match=r"expected an MLP with Linear\(2, 8\)"):
        find_mlp(LESSON, nn.Linear(2, 7), 2, 8)
    with pytest.raises(Wrong, match=r"0 LayerNorm\(4\), expected 2"):
        find_norms(LESSON, nn.LayerNorm(3), 4, 2)
