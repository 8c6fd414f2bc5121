"""Checks of splitting channels into heads and joining them again."""

from collections.abc import Callable

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, row
from lungseg.checks.lessons import Lesson
from lungseg.checks.networks.attention import PAGE

SPLIT = Lesson(
    "split_heads",
    "split_heads(x (B, N, C), num_heads) -> (B, num_heads, N, C / num_heads)",
    "head h gets the channels h * d to (h + 1) * d - 1 of every token, with d = C / num_heads.",
    PAGE,
    {
        "heads interleaved": "the channels are dealt out in turn: head h got channels h, h + heads, ... instead of a "
        "block.",
        "only reshaped": "reshaped without moving an axis: a head then gets pieces of other tokens. First split C "
        "into (heads, d), then move the axis of heads before that of tokens.",
        "tokens and heads not exchanged": "the axis of heads comes after that of tokens; the formula needs (..., N, "
        "d).",
    },
)
MERGE = Lesson(
    "merge_heads",
    "merge_heads(x (B, num_heads, N, d)) -> (B, N, num_heads * d)",
    "merge_heads undoes split_heads: the heads of a token are put side by side.",
    PAGE,
    {
        "only reshaped": "reshaped without moving the axis of heads behind that of tokens: tokens are mixed.",
        "heads interleaved": "the channels of the heads alternate; each head keeps a block of channels.",
    },
)
HEADS = [(1, 2, 1, 2), (1, 1, 2, 2), (1, 2, 2, 1), (1, 2, 2, 2), (1, 3, 2, 2), (2, 3, 2, 3), (2, 4, 3, 2)]  # B, N, h, d


def split_by_loops(case: tuple[int, int, int, int], slip: str = "") -> Tensor:
    """The channels 1, 2, 3, ... of all tokens, cut into heads: (B, heads, N, d)."""
    B, N, heads, d = case
    x = torch.arange(1.0, 1 + B * N * heads * d).reshape(B, N, heads * d)
    if slip == "only reshaped":
        return x.reshape(B, heads, N, d)
    parts = [x[..., h::heads] if slip == "heads interleaved" else x[..., h * d : (h + 1) * d] for h in range(heads)]
    return torch.stack(parts, 2 if slip == "tokens and heads not exchanged" else 1)


def merge_by_loops(case: tuple[int, int, int, int], slip: str = "") -> Tensor:
    """The heads of `split_by_loops`, put side by side: (B, N, heads * d)."""
    split, (B, N, heads, d) = split_by_loops(case), case
    if slip == "only reshaped":
        return split.reshape(B, N, heads * d)
    merged = torch.zeros(B, N, heads * d)
    for h in range(heads):
        merged[..., slice(h, None, heads) if slip == "heads interleaved" else slice(h * d, (h + 1) * d)] = split[:, h]
    return merged


def title(case: tuple[int, int, int, int]) -> str:
    return f"(B, N, heads, d) = {case}"


def check_split_heads(split_heads: Callable) -> None:
    """Fail unless each head gets its block of channels of every token."""

    def student(case: tuple[int, int, int, int]) -> Tensor:
        B, N, heads, d = case
        x = torch.arange(1.0, 1 + B * N * heads * d).reshape(B, N, heads * d)
        return as_tensor(SPLIT, call(SPLIT, split_heads, x, heads), like=x)

    def describe(case: tuple[int, int, int, int], got: Tensor, want: Tensor) -> str:
        b, h, n, _ = first_difference(got, want)
        return (
            f"x (1, N, C) = 1, 2, 3, ... with (B, N, heads, d) = {case}: head {h} of token {n} of image {b} is "
            f"{row(got[b, h, n])}, expected {row(want[b, h, n])}."
        )

    judge(SPLIT, student, HEADS, split_by_loops, describe, title=title)


def check_merge_heads(merge_heads: Callable) -> None:
    """Fail unless the heads of a token are put side by side."""

    def describe(case: tuple[int, int, int, int], got: Tensor, want: Tensor) -> str:
        b, n, _ = first_difference(got, want)
        return f"(B, N, heads, d) = {case}: token {n} of image {b} is {row(got[b, n])}, expected {row(want[b, n])}."

    def student(case: tuple[int, int, int, int]) -> Tensor:
        x = split_by_loops(case)
        return as_tensor(MERGE, call(MERGE, merge_heads, x), like=x)

    judge(MERGE, student, HEADS, merge_by_loops, describe, title=title)
