"""Checks of a transformer block: norms, branches and residuals, computed with the student's own weights."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, fill, first_difference, judge, random, versus
from lungseg.checks.lessons import Lesson
from lungseg.checks.networks.attention import SCORES
from lungseg.checks.networks.gradients import CUT_OFF, check_gradients
from lungseg.checks.networks.layers_of import (
    Linear,
    Projections,
    find_mlp,
    find_norms,
    find_projections,
    layer_norm,
)
from lungseg.checks.networks.self_attention import HEADS, Heads, heads_by_loops
from lungseg.checks.networks.small_layers import mlp_by_formula

RESIDUALS = {
    "norm after": "LayerNorm comes after each branch; it comes before (pre-norm).",
    "norm after the sum": "LayerNorm is applied to the sum x + branch (post-norm, as in the first transformer); here "
    "it comes before each branch.",
    "no norm": "the branches read x itself; each reads its LayerNorm.",
    "first residual missing": "x is not added to the result of the attention.",
    "second residual missing": "x is not added to the result of the MLP.",
    "normalised x added": "the normalised x is added instead of x itself: keep x before the norm for the sum.",
    "norms exchanged": "the two LayerNorms have changed places.",
    "first norm used twice": "the first LayerNorm is used before the MLP too.",
    "MLP first": "the MLP comes before the attention.",
    "branches in parallel": "the MLP reads the input of the block; it reads the result of the attention.",
    "MLP missing": "the MLP is not applied.",
    "attention missing": "the attention is not applied.",
    **CUT_OFF,
}
PROJECTED = {k: v for k, v in HEADS.items() if k in ("heads interleaved", "heads not joined", "1/sqrt(dim)")}
WEIGHED = {k: v for k, v in SCORES.items() if k in ("softmax over queries", "no scale", "1/d")}
TRANSFORMER = Lesson(
    "TransformerBlock",
    "TransformerBlock(dim, num_heads): module(z (B, N, dim)) -> (B, N, dim), with two LayerNorm, the attention's "
    "layers (qkv, proj) and an MLP dim -> 4 dim -> dim",
    "z' = attention(norm1(z)) + z, and then mlp(norm2(z')) + z' (UNETR, equations 2 and 3).",
    "docs/nn/unetr.md",
    {**RESIDUALS, **PROJECTED, **WEIGHED},
)


@dataclass(frozen=True)
class Layers:
    """The layers of a block, in float64."""

    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    attention: Projections
    mlp: tuple[Linear, Linear]


def find_layers(lesson: Lesson, module: nn.Module, dim: int) -> Layers:
    """All layers of a transformer block by their shapes, or Wrong."""
    norm1, norm2 = find_norms(lesson, module, dim, 2)
    return Layers(norm1, norm2, find_projections(lesson, module, dim), find_mlp(lesson, module, dim, 4 * dim))


def block_by_formula(x: Tensor, layers: Layers, attend: Callable[[Tensor], Tensor | None], slip: str) -> Tensor | None:
    """Both branches with their norms and sums, or with a slip among them; `attend` is the attention of a whole map."""
    mixed = None

    def attention(y: Tensor) -> Tensor:
        nonlocal mixed
        mixed = attend(y)
        return torch.zeros_like(y) if mixed is None else mixed

    def mlp(y: Tensor) -> Tensor:
        return mlp_by_formula(layers.mlp, y)

    def norm1(y: Tensor) -> Tensor:
        return layer_norm(layers.norm2 if slip == "norms exchanged" else layers.norm1, y)

    def norm2(y: Tensor) -> Tensor:
        return layer_norm(layers.norm1 if slip in ("norms exchanged", "first norm used twice") else layers.norm2, y)

    match slip:
        case "norm after":
            x = x + norm1(attention(x))
            result = x + norm2(mlp(x))
        case "norm after the sum":
            x = norm1(x + attention(x))
            result = norm2(x + mlp(x))
        case "no norm":
            x = x + attention(x)
            result = x + mlp(x)
        case "first residual missing":
            x = attention(norm1(x))
            result = x + mlp(norm2(x))
        case "second residual missing":
            result = mlp(norm2(x + attention(norm1(x))))
        case "normalised x added":
            x = norm1(x) + attention(norm1(x))
            result = norm2(x) + mlp(norm2(x))
        case "MLP first":
            x = x + mlp(norm2(x))
            result = x + attention(norm1(x))
        case "branches in parallel":
            result = x + attention(norm1(x)) + mlp(norm2(x))
        case "MLP missing":
            result = x + attention(norm1(x))
        case "attention missing":
            return x + mlp(norm2(x))
        case _:
            x = x + attention(norm1(x))
            result = x + mlp(norm2(x))
    return None if mixed is None else result


# ---- UNETR's block ----------------------------------------------------------------------------------------------


SEQUENCES = [Heads(*c) for c in [(1, 1, 1, 3), (1, 2, 1, 3), (1, 3, 2, 2), (2, 3, 2, 2), (2, 4, 3, 2), (3, 2, 2, 3)]]


def check_transformer_block(build_: Callable[[int, int], nn.Module]) -> None:
    """Fail unless a pre-norm transformer block computes equations 2 and 3 of UNETR with its own weights.

    Args:
        build_: (dim, num_heads) -> a module (B, N, dim) -> (B, N, dim).
    """

    def forward(module: nn.Module, case: Heads, slip: str) -> Tensor | None:
        dim = case.heads * case.d
        layers, x = find_layers(TRANSFORMER, module, dim), random((case.B, case.N, dim)).double()
        free = torch.zeros(case.heads, case.N, case.N, dtype=torch.double)

        def attend(y: Tensor) -> Tensor | None:
            each = [heads_by_loops(image, layers.attention, case.heads, free, slip) for image in y]
            return None if any(e is None for e in each) else torch.stack([e for e in each if e is not None])

        return block_by_formula(x, layers, attend, slip)

    def make(case: Heads) -> nn.Module:
        return build(TRANSFORMER, build_, case.heads * case.d, case.heads)

    judge_block(TRANSFORMER, make, SEQUENCES, lambda c: random((c.B, c.N, c.heads * c.d)), forward)


# ---- common -----------------------------------------------------------------------------------------------------


def judge_block(lesson: Lesson, make: Callable, cases: list, inputs: Callable, oracle: Callable) -> None:
    """`judge` a block in eval mode, with random weights and norms that are not the identity."""

    @cache
    def module(case: NamedTuple) -> nn.Module:
        return fill(make(case)).eval()

    def student(case: NamedTuple) -> Tensor:
        with torch.no_grad():
            return as_tensor(lesson, call(lesson, module(case), inputs(case)))

    def describe(case: NamedTuple, got: Tensor, want: Tensor) -> str:
        *where, _ = first_difference(got, want)
        at = f"token {where[1]}" if len(where) == 2 else f"token (row {where[1]}, column {where[2]})"
        return f"{case}: {at} of image {where[0]} is {versus(got[tuple(where)], want[tuple(where)])}."

    judge(lesson, student, cases, lambda case, slip: oracle(module(case), case, slip), describe)
    check_gradients(lesson, module(cases[2]), inputs(cases[2]))
