"""Finding the layers of a student's module by their shape, so that an oracle can compute with the same weights.

Names are not prescribed: q, k and v may be one layer or three, and a `Sequential` may hold the MLP.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lungseg.checks.lessons import Lesson, Wrong

Linear = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,), float64


@dataclass(frozen=True)
class Projections:
    """The linear layers of an attention: each (C, C) weight and (C,) bias, in float64."""

    q: Linear
    k: Linear
    v: Linear
    out: Linear


def weights(layer: nn.Linear) -> Linear:
    """Weight and bias of a linear layer in float64; a missing bias is 0."""
    weight = layer.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.double) if layer.bias is None else layer.bias.detach().double()
    return weight, bias


def apply(layer: Linear, x: Tensor) -> Tensor:
    return x @ layer[0].T + layer[1]


def linears(module: nn.Module) -> list[tuple[str, nn.Linear]]:
    """All linear layers, in the order of their definition."""
    return [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]


def find_projections(lesson: Lesson, module: nn.Module, dim: int) -> Projections:
    """q, k, v and the output projection among the linear layers of a module, or Wrong with what was expected."""
    multi = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention) and m.embed_dim == dim]
    if len(multi) == 1 and multi[0].in_proj_weight is not None:
        return projections_of_torch(multi[0])
    found = linears(module)
    fused = [m for _, m in found if (m.in_features, m.out_features) == (dim, 3 * dim)]
    square = [(name, m) for name, m in found if (m.in_features, m.out_features) == (dim, dim)]
    if len(fused) == 1 and len(square) == 1:
        weight, bias = weights(fused[0])
        q, k, v = ((weight[i * dim : (i + 1) * dim], bias[i * dim : (i + 1) * dim]) for i in range(3))
        return Projections(q, k, v, weights(square[0][1]))
    if not fused and len(square) == 4:
        order = sorted(range(4), key=lambda i: "qkv".find(letter_of(square[i][0])) % 4)  # others (-1) come last
        named = [square[i] for i in order] if {letter_of(n) for n, _ in square} > set("qkv") else square
        return Projections(*(weights(m) for _, m in named))
    heads = join_heads(found, dim)
    if len(square) == 1 and heads:
        q, k, v = heads
        return Projections(q, k, v, weights(square[0][1]))
    shapes = ", ".join(f"{name}: Linear({m.in_features}, {m.out_features})" for name, m in found) or "no linear layer"
    raise Wrong(
        lesson,
        f"{type(module).__name__} holds {shapes}. Expected qkv = Linear(dim, 3 * dim), or three layers "
        f"q, k, v = Linear(dim, dim), and proj = Linear(dim, dim), here with dim = {dim}.",
    )


def projections_of_torch(module: nn.MultiheadAttention) -> Projections:
    """Those of PyTorch's own multi-head attention."""
    weight, dim = module.in_proj_weight.detach().double(), module.embed_dim
    bias = torch.zeros(3 * dim).double() if module.in_proj_bias is None else module.in_proj_bias.detach().double()
    q, k, v = ((weight[i * dim : (i + 1) * dim], bias[i * dim : (i + 1) * dim]) for i in range(3))
    return Projections(q, k, v, weights(module.out_proj))


def join_heads(found: list[tuple[str, nn.Linear]], dim: int) -> list[Linear]:
    """q, k and v from layers of each head, Linear(dim, dim / heads), side by side; [] if there are none."""
    parts = [(letter_of(name), weights(m)) for name, m in found if m.in_features == dim and m.out_features < dim]
    groups = [[layer for letter, layer in parts if letter == wanted] for wanted in "qkv"]
    joined = [(torch.cat([w for w, _ in group]), torch.cat([b for _, b in group])) for group in groups if group]
    return joined if len(joined) == 3 and all(len(w) == dim for w, _ in joined) else []


def letter_of(name: str) -> str:
    """ "q" for q, to_q, q_proj, query, W_q; "k" and "v" likewise; "o" for any other name."""
    last = name.rsplit(".", 1)[-1].lower()
    parts = set(last.split("_")) | {last[-1:]} if last[:1] == "w" else set(last.split("_"))
    for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
        if parts & {letter, word, letter + "s"} or last.startswith(word):
            return letter
    return "o"


def find_bias_table(lesson: Lesson, module: nn.Module, window_size: int, num_heads: int) -> Tensor:
    """The learned bias table ((2 ws - 1)^2, heads) of a window attention, in float64."""
    rows = (2 * window_size - 1) ** 2
    named = [p for name, p in module.named_parameters() if "relative_position" in name or name.endswith("table")]
    candidates = [p for p in named or module.parameters() if tuple(p.shape) == (rows, num_heads)]
    if len(candidates) == 1:
        return candidates[0].detach().double()
    raise Wrong(
        lesson,
        f"expected a parameter relative_position_bias_table of shape ((2 ws - 1)^2, num_heads) = "
        f"{(rows, num_heads)} for window_size {window_size}; "
        f"{len(candidates)} parameters have this shape.",
    )


def find_norms(lesson: Lesson, module: nn.Module, dim: int, count: int) -> list[nn.LayerNorm]:
    """The `count` LayerNorms over `dim` channels, in the order of their definition."""
    norms = [m for m in module.modules() if isinstance(m, nn.LayerNorm) and tuple(m.normalized_shape) == (dim,)]
    if len(norms) != count:
        raise Wrong(lesson, f"{type(module).__name__} holds {len(norms)} LayerNorm({dim}), expected {count}.")
    return norms


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis, in float64."""
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / ((centred**2).mean(-1, keepdim=True) + norm.eps).sqrt()
    weight = 1.0 if norm.weight is None else norm.weight.detach().double()
    return unit * weight + (0.0 if norm.bias is None else norm.bias.detach().double())


def find_mlp(lesson: Lesson, module: nn.Module, dim: int, hidden: int) -> tuple[Linear, Linear]:
    """The two layers dim -> hidden -> dim of an MLP."""
    found = [m for _, m in linears(module)]
    first = [m for m in found if (m.in_features, m.out_features) == (dim, hidden)]
    second = [m for m in found if (m.in_features, m.out_features) == (hidden, dim)]
    if len(first) != 1 or len(second) != 1:
        shapes = ", ".join(f"Linear({m.in_features}, {m.out_features})" for m in found) or "no linear layer"
        raise Wrong(
            lesson,
            f"{type(module).__name__} holds {shapes}; expected an MLP with Linear({dim}, {hidden}) and "
            f"Linear({hidden}, {dim}).",
        )
    return weights(first[0]), weights(second[0])
