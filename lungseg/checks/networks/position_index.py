"""Checks of the relative position index of Swin Transformer, section 3.2, equation 4."""

from collections.abc import Callable

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, judge
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.windows import PAGE

INDEX = Lesson(
    "relative_position_index",
    "relative_position_index(window_size) -> int64 (N, N), N = window_size**2",
    "the row of the bias table for query i and key j is (dr + ws - 1)(2 ws - 1) + dc + ws - 1, with (dr, dc) = "
    "position of i - position of j: equal offsets, and only those, share a row.",
    PAGE,
    {
        "sign of the rows": "the offset of rows is that of key - query: both are those of query - key.",
        "sign of the columns": "the offset of columns is that of key - query: both are those of query - key.",
        "key minus query": "the offsets are those of key - query: the matrix is transposed.",
        "offsets not shifted": "the offsets start at -(ws - 1): add ws - 1 to both, so that the index starts at 0.",
        "only one offset shifted": "only one of the two offsets was shifted by ws - 1.",
        "stride of one window": "the row offset is multiplied by ws; an offset has 2 ws - 1 values, so multiply by 2 "
        "ws - 1.",
        "stride of 2 ws": "the row offset is multiplied by 2 ws; an offset has 2 ws - 1 values.",
        "columns first": "columns count as rows: the row offset is the one that is multiplied.",
        "sum of offsets": "the two offsets are added without multiplying the first: different offsets share a row.",
        "absolute offsets": "offsets lost their sign: left and right must have rows of their own.",
        "one row per pair": "each pair of tokens has a row of its own: the bias would depend on positions, not on "
        "offsets.",
        "zero": "every pair uses the same row.",
    },
)


def index_by_loops(ws: int, slip: str = "") -> Tensor:
    """(N, N): the row of the table for each pair of a window."""
    size = 2 * ws - 1
    index = torch.zeros(ws * ws, ws * ws, dtype=torch.long)
    for i in range(ws * ws):
        for j in range(ws * ws):
            dr, dc = i // ws - j // ws, i % ws - j % ws
            dr, dc = {
                "sign of the rows": (-dr, dc),
                "sign of the columns": (dr, -dc),
                "key minus query": (-dr, -dc),
                "columns first": (dc, dr),
                "absolute offsets": (abs(dr), abs(dc)),
            }.get(slip, (dr, dc))
            up, left = dr + ws - 1, dc + ws - 1
            index[i, j] = {
                "offsets not shifted": dr * size + dc,
                "only one offset shifted": up * size + dc,
                "stride of one window": up * ws + left,
                "stride of 2 ws": up * 2 * ws + left,
                "sum of offsets": up + left,
                "absolute offsets": dr * size + dc,
                "one row per pair": i * ws * ws + j,
                "zero": 0,
            }.get(slip, up * size + left)
    return index


def check_relative_position_index(make_index: Callable[[int], Tensor]) -> None:
    """Fail unless pairs with the same offset, and only those, share a row of the bias table.

    The row is also the published one, (dr + ws - 1)(2 ws - 1) + dc + ws - 1, so that published weights fit.

    Args:
        make_index: window_size -> int64 (N, N) with N = window_size**2.
    """

    def student(ws: int) -> Tensor:
        index = as_tensor(INDEX, call(INDEX, make_index, ws))
        if index.dtype not in (torch.int32, torch.int64):  # a table is read with these; uint8 would be a mask
            raise Wrong(INDEX, f"dtype is {index.dtype}, expected torch.int64: it selects rows of a table.")
        return index

    def describe(ws: int, got: Tensor, want: Tensor) -> str:
        i, j = (got != want).nonzero()[0].tolist()
        dr, dc = i // ws - j // ws, i % ws - j % ws
        return (
            f"window_size {ws}: query {i} is {dr} rows and {dc} columns from key {j}, which is row "
            f"{want[i, j].item()} of the table; yours is {got[i, j].item()}."
        )

    def numbers(ws: int, got: Tensor, want: Tensor) -> str:
        i, _ = (got != want).nonzero()[0].tolist()
        return f"query {i}, expected {want[i].tolist()}\nquery {i}, yours    {got[i].tolist()}"

    judge(INDEX, student, [1, 2, 3, 4, 5, 7], index_by_loops, describe, numbers=numbers,
          title=lambda ws: f"window_size {ws}")  # fmt: skip
