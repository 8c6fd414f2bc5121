"""Checks of UNETR's way from the tokens of its blocks to the maps of its decoder."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, row
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.gradients import CUT_OFF

TO_MAP = Lesson(
    "tokens_to_map",
    "tokens_to_map(z (B, N, K), grid) -> (B, K, *grid), grid = (H, W) in tokens",
    "tokens are in reading order: token r * W + c becomes row r, column c, with its channels moved to the front.",
    "docs/nn/unetr.md",
    {
        "only reshaped": "reshaped without moving the channels first: channels and tokens are mixed.",
        "rows and columns swapped": "tokens are laid out column by column; they are in reading order.",
        "channels last": "the channels stayed last; a convolution wants them after the batch axis.",
    },
)
SKIPS = Lesson(
    "hidden_states",
    "hidden_states(blocks, z (B, N, K), layers) -> list of (B, N, K): the tokens after each of these blocks",
    "blocks are counted from 1: z3 is what comes out of the third block, and every block reads what the one before it "
    "returned.",
    "docs/nn/unetr.md",
    {
        "counted from 0": "blocks are counted from 0: yours are one block too late.",
        "before the block": "the tokens are taken before the block instead of after it.",
        "blocks in parallel": "every block reads the first tokens instead of those of the block before it.",
        "only the last": "every entry is what the last block returned.",
        "order": "the entries are in another order than `layers`.",
        **CUT_OFF,
    },
)


class Grid(NamedTuple):
    """Tokens of B images on a grid of H x W, K channels each."""

    B: int
    H: int
    W: int
    K: int

    def __str__(self) -> str:
        return f"{self.B} image(s) of {self.H} x {self.W} tokens, {self.K} channel(s)"

    def tokens(self) -> Tensor:
        sides = (self.B, self.H * self.W, self.K)
        return torch.arange(1.0, 1 + math.prod(sides)).reshape(sides)


GRIDS = [Grid(*c) for c in [(1, 1, 2, 2), (1, 2, 1, 2), (1, 2, 2, 1), (1, 2, 3, 2), (2, 3, 2, 3)]]


def map_by_loops(case: Grid, slip: str = "") -> Tensor:
    """The map (B, K, H, W), one token after the other."""
    z, (B, H, W, K) = case.tokens(), case
    if slip == "only reshaped":
        return z.reshape(B, K, H, W)
    swapped = slip == "rows and columns swapped"
    rows = [[z[:, c * H + r if swapped else r * W + c] for c in range(W)] for r in range(H)]
    map_ = torch.stack([torch.stack(line, 1) for line in rows], 1)  # (B, H, W, K)
    return map_ if slip == "channels last" else map_.movedim(3, 1)


def check_tokens_to_map(tokens_to_map: Callable) -> None:
    """Fail unless tokens in reading order become a map of channels. UNETR, Figure 2, before each skip."""

    def describe(case: Grid, got: Tensor, want: Tensor) -> str:
        b, _, r, c = first_difference(got, want)
        return (
            f"{case.H} x {case.W} tokens: row {r}, column {c} of image {b} has the channels {row(got[b, :, r, c])}, "
            f"expected those of token {r * case.W + c}, {row(want[b, :, r, c])}."
        )

    def student(case: Grid) -> Tensor:
        z = case.tokens()
        return as_tensor(TO_MAP, call(TO_MAP, tokens_to_map, z, (case.H, case.W)), like=z)

    judge(TO_MAP, student, GRIDS, map_by_loops, describe)


class Scale(nn.Module):
    """A block that can be followed by hand: z -> factor * z + 1."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z + 1


def states_by_loops(case: tuple[int, Sequence[int]], slip: str = "") -> Tensor:
    """The states after the named blocks, in one row of numbers."""
    depth, layers = case
    states = [torch.ones(1, 1, 1)]
    for i in range(depth):
        states.append(Scale(i + 2)(states[0 if slip == "blocks in parallel" else -1]))
    move = {"counted from 0": 1, "before the block": -1}.get(slip, 0)
    numbers = [depth if slip == "only the last" else k + move for k in layers]
    chosen = [states[k] for k in numbers if k <= depth]  # counted from 0, the last block is never reached
    return torch.cat([torch.zeros(0), *(c.flatten() for c in (chosen[::-1] if slip == "order" else chosen))])


def check_hidden_states(hidden_states: Callable) -> None:
    """Fail unless the tokens after the named blocks are returned, blocks counted from 1. UNETR, equations 2 and 3."""

    def student(case: tuple[int, Sequence[int]]) -> Tensor:
        depth, layers = case
        blocks = nn.ModuleList(Scale(i + 2) for i in range(depth))
        states = call(SKIPS, hidden_states, blocks, torch.ones(1, 1, 1), tuple(layers))
        if not isinstance(states, (list, tuple)):
            raise Wrong(SKIPS, f"the result is a {type(states).__name__}, expected a list of {len(layers)} tensors.")
        return torch.cat([torch.zeros(0), *(as_tensor(SKIPS, s).flatten() for s in states)])

    def describe(case: tuple[int, Sequence[int]], got: Tensor, want: Tensor) -> str:
        (i,) = first_difference(got, want)
        return (
            f"blocks z -> 2z + 1, 3z + 1, ... from z = 1: the state after block {case[1][i]} is {want[i]:g}, "
            f"yours is {got[i]:g}."
        )

    judge(
        SKIPS,
        student,
        [(1, (1,)), (2, (1,)), (2, (1, 2)), (4, (2, 4)), (6, (2, 4, 5)), (12, (3, 6, 9, 12))],
        states_by_loops,
        describe,
        title=lambda case: f"{case[0]} block(s), layers {case[1]}",
    )
    check_states_learn(hidden_states)


def check_states_learn(hidden_states: Callable) -> None:
    """The gradient of a skip reaches the blocks before it."""
    z = torch.ones(1, 1, 1, requires_grad=True)
    states = call(SKIPS, hidden_states, nn.ModuleList(Scale(2) for _ in range(2)), z, (1, 2))
    if not all(isinstance(s, Tensor) and s.requires_grad for s in states):
        raise Wrong(SKIPS, "the states have no gradient, so the blocks do not learn.", slip="gradient cut off")
