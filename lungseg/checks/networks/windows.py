"""Checks of cutting a map into windows and putting them back. Swin Transformer, section 3.2."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, row
from lungseg.checks.lessons import Lesson

PAGE = "docs/nn/windows.md"


class Map(NamedTuple):
    """A map of tokens and how it is cut: sides in tokens."""

    height: int
    width: int
    window_size: int
    shift_size: int = 0

    def __str__(self) -> str:
        shift = f", shift_size {self.shift_size}" if self.shift_size else ""
        return f"{self.height} x {self.width} map, window_size {self.window_size}{shift}"


class Batch(NamedTuple):
    """A batch of maps (B, H, W, C) in which every number is different."""

    images: int
    height: int
    width: int
    channels: int
    size: int  # of a window, a shift or a multiple

    def __str__(self) -> str:
        sides = f"{self.images} map(s) of {self.height} x {self.width} tokens"
        return f"{sides} with {self.channels} channel(s), size {self.size}"

    def numbers(self) -> Tensor:
        """(B, H, W, C) float32: 1, 2, 3, ... (no zero, which is what padding holds)."""
        sides = (self.images, self.height, self.width, self.channels)
        return 1.0 + torch.arange(sides[0] * sides[1] * sides[2] * sides[3]).reshape(sides)


PARTITION = Lesson(
    "window_partition",
    "window_partition(x (B, H, W, C), window_size) -> (B*nW, window_size, window_size, C)",
    "windows are cut in reading order, row by row, image by image, and keep the order of their tokens.",
    PAGE,
    {
        "no transpose": "only reshaped, without moving the axis of window columns before that of rows in a window: a "
        "window then holds a strip of the map.",
        "windows column by column": "windows are numbered column by column instead of row by row.",
        "rows and columns swapped": "each window is transposed: its rows became columns.",
        "height and width swapped": "the sides are taken as (B, W, H, C) from the shape; they are (B, H, W, C).",
        "images mixed": "the windows of different images alternate: the batch axis must stay first.",
    },
)
REVERSE = Lesson(
    "window_reverse",
    "window_reverse(windows (B*nW, ws, ws, C), height, width) -> (B, height, width, C)",
    "window_reverse undoes window_partition: window 0 is at the top left, window 1 to the right of it.",
    PAGE,
    {
        "no transpose": "only reshaped, without moving the axis of window columns back behind that of rows in a "
        "window.",
        "height and width swapped": "the numbers of window rows and columns are exchanged.",
        "windows column by column": "windows are put back column by column instead of row by row.",
    },
)
BATCHES = [Batch(b, r * ws, c * ws, ch, ws) for b, r, c, ws, ch in [
    (1, 1, 1, 1, 1), (1, 1, 2, 2, 1), (1, 2, 1, 2, 1), (1, 2, 2, 2, 1), (1, 2, 3, 2, 1), (1, 3, 2, 2, 2),
    (2, 1, 2, 2, 1), (2, 2, 3, 2, 3), (3, 3, 2, 1, 2), (1, 2, 3, 4, 2), (2, 3, 2, 3, 1),
]]  # fmt: skip


def partition_by_loops(case: Batch, slip: str = "") -> Tensor | None:
    """The windows of a map, cut one after the other."""
    x, ws = case.numbers(), case.size
    if slip == "no transpose":
        return x.reshape(-1, ws, ws, case.channels)
    rows, cols = case.height // ws, case.width // ws
    if slip == "height and width swapped":
        turned = x.reshape(case.images, cols, ws, rows, ws, case.channels)
        return turned.transpose(2, 3).reshape(-1, ws, ws, case.channels)
    cells = [(r, c) for r in range(rows) for c in range(cols)]
    if slip == "windows column by column":
        cells.sort(key=lambda cell: cell[1])
    pairs = [(b, cell) for b in range(case.images) for cell in cells]
    if slip == "images mixed":
        pairs.sort(key=lambda pair: cells.index(pair[1]))
    windows = [x[b, r * ws : (r + 1) * ws, c * ws : (c + 1) * ws] for b, (r, c) in pairs]
    windows = [w.transpose(0, 1) for w in windows] if slip == "rows and columns swapped" else windows
    return torch.stack(windows)


def reverse_by_loops(case: Batch, slip: str = "") -> Tensor | None:
    """The map that the right windows of `case` come from, put together as the slip would."""
    ws, (rows, cols) = case.size, (case.height // case.size, case.width // case.size)
    windows = partition_by_loops(case)
    assert windows is not None
    if slip == "no transpose":
        return windows.reshape(-1, case.height, case.width, case.channels)
    if slip == "height and width swapped":
        if rows == cols:
            return case.numbers()
        swapped = Batch(case.images, case.width, case.height, case.channels, ws)
        return place(swapped, windows, False).reshape(-1, case.height, case.width, case.channels)
    return place(case, windows, slip == "windows column by column")


def place(case: Batch, windows: Tensor, by_columns: bool) -> Tensor:
    """Put windows back into their maps one after the other."""
    ws, rows, cols = case.size, case.height // case.size, case.width // case.size
    x = torch.zeros(case.images, case.height, case.width, case.channels)
    for w, window in enumerate(windows):
        b, i = divmod(w, rows * cols)
        r, c = (i % rows, i // rows) if by_columns else divmod(i, cols)
        x[b, r * ws : (r + 1) * ws, c * ws : (c + 1) * ws] = window
    return x


def check_window_round_trip(partition: Callable, reverse: Callable) -> None:
    """Fail unless windows are cut in reading order, image by image, and `reverse` undoes `partition`.

    Args:
        partition: (x (B, H, W, C), window_size) -> (B*nW, ws, ws, C).
        reverse: (windows, height, width) -> (B, H, W, C).
    """
    check_window_partition(partition)
    check_window_reverse(reverse)


def check_window_partition(partition: Callable) -> None:
    """The first half of `check_window_round_trip`. (B*nW, N, C), flattened windows, are taken too."""

    def student(case: Batch) -> Tensor:
        x = case.numbers()
        windows = as_tensor(PARTITION, call(PARTITION, partition, x, case.size), like=x)
        flat = windows.ndim == 3 and windows.shape[1] == case.size**2
        return windows.unflatten(1, (case.size, case.size)) if flat else windows

    def describe(case: Batch, got: Tensor, want: Tensor) -> str:
        w, *_ = first_difference(got, want)
        nW = case.height * case.width // case.size**2
        b, i = divmod(w, nW)
        r, c = (n * case.size for n in divmod(i, case.width // case.size))
        return (
            f"{case}: window {w} must be rows {r}:{r + case.size}, columns {c}:{c + case.size} of image {b}, "
            f"but holds other tokens."
        )

    def numbers(case: Batch, got: Tensor, want: Tensor) -> str:
        w, *_ = first_difference(got, want)
        return f"window {w}, expected {row(want[w, ..., 0])}\nwindow {w}, yours    {row(got[w, ..., 0])}"

    judge(PARTITION, student, BATCHES, partition_by_loops, describe, numbers=numbers)


def check_window_reverse(reverse: Callable) -> None:
    """The second half of `check_window_round_trip`; `(windows, window_size, height, width)` is taken too."""
    from inspect import signature

    takes_size = len([p for p in signature(reverse).parameters.values() if p.default is p.empty]) == 4

    def student(case: Batch) -> Tensor:
        windows = partition_by_loops(case)
        assert windows is not None
        sizes = (case.size, case.height, case.width) if takes_size else (case.height, case.width)
        return as_tensor(REVERSE, call(REVERSE, reverse, windows, *sizes), like=windows)

    def describe(case: Batch, got: Tensor, want: Tensor) -> str:
        b, r, c, _ = first_difference(got, want)
        return f"{case}: window_reverse(window_partition(x)) is not x: first at image {b}, row {r}, column {c}."

    def numbers(case: Batch, got: Tensor, want: Tensor) -> str:
        b, r, *_ = first_difference(got, want)
        return f"row {r}, expected {row(want[b, r, :, 0])}\nrow {r}, yours    {row(got[b, r, :, 0])}"

    judge(REVERSE, student, BATCHES, reverse_by_loops, describe, numbers=numbers)
