"""Checks of the windows, the shifted-window mask and the relative position index of Swin Transformer, section 3.2.

The oracles use plain integers and the grid of the un-rolled map. Tokens of a map are numbered row by row, from 0.
"""

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
        return (
            f"{self.images} map(s) of {self.height} x {self.width} tokens with {self.channels} channel(s), {self.size}"
        )

    def numbers(self) -> Tensor:
        """(B, H, W, C) float32: 1, 2, 3, ... (no zero, which is what padding holds)."""
        sides = (self.images, self.height, self.width, self.channels)
        return 1.0 + torch.arange(sides[0] * sides[1] * sides[2] * sides[3]).reshape(sides)


# ---- partition and reverse ------------------------------------------------------------------------------------

PARTITION = Lesson(
    "window_partition",
    "window_partition(x (B, H, W, C), window_size) -> (B*nW, window_size, window_size, C)",
    "windows are cut in reading order, row by row, image by image, and keep the order of their tokens.",
    PAGE,
    {
        "no transpose": "only reshaped, without moving the axis of window columns before that of rows in a window: "
        "a window then holds a strip of the map.",
        "windows column by column": "windows are numbered column by column instead of row by row.",
        "rows and columns swapped": "each window is transposed: its rows became columns.",
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
        windows = as_tensor(PARTITION, call(PARTITION, partition, case.numbers(), case.size))
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
        sizes = (case.size, case.height, case.width) if takes_size else (case.height, case.width)
        return as_tensor(REVERSE, call(REVERSE, reverse, windows, *sizes))

    def describe(case: Batch, got: Tensor, want: Tensor) -> str:
        b, r, c, _ = first_difference(got, want)
        return f"{case}: window_reverse(window_partition(x)) is not x: first at image {b}, row {r}, column {c}."

    def numbers(case: Batch, got: Tensor, want: Tensor) -> str:
        b, r, *_ = first_difference(got, want)
        return f"row {r}, expected {row(want[b, r, :, 0])}\nrow {r}, yours    {row(got[b, r, :, 0])}"

    judge(REVERSE, student, BATCHES, reverse_by_loops, describe, numbers=numbers)


# ---- roll and pad ---------------------------------------------------------------------------------------------

SHIFT = Lesson(
    "cyclic_shift",
    "cyclic_shift(x (B, H, W, C), shift_size) -> (B, H, W, C)",
    "row and column `shift_size` come first, and what leaves at the top and left enters at the bottom and right; a "
    "negative shift undoes it.",
    PAGE,
    {
        "roll the other way": "rolled by +shift_size; the first rows must leave: torch.roll takes -shift_size.",
        "rows only": "only the rows are rolled, not the columns.",
        "columns only": "only the columns are rolled, not the rows.",
        "wrong axes": "rolled along the axes of columns and channels (or batch and rows) instead of rows and columns.",
        "zeros instead of wrapping": "what leaves on one side must enter on the other; yours is replaced by zeros.",
    },
)
SHIFTS = [Batch(b, h, w, c, s) for b, h, w, c, s in [
    (1, 2, 2, 1, 1), (1, 3, 3, 1, 1), (1, 3, 4, 1, 1), (1, 4, 3, 2, 2), (2, 4, 4, 3, 1), (1, 4, 4, 1, -1),
    (2, 5, 4, 2, 3),
    (1, 3, 3, 1, 0),
]]  # fmt: skip


def shift_by_loops(case: Batch, slip: str = "") -> Tensor:
    x, s = case.numbers(), case.size
    if slip == "wrong axes":
        return torch.roll(x, (-s, -s), (2, 3))
    s = -s if slip == "roll the other way" else s
    H, W, result = case.height, case.width, torch.zeros_like(x)
    for r in range(H):
        for c in range(W):
            row_, col = (r if slip == "columns only" else r + s), (c if slip == "rows only" else c + s)
            inside = 0 <= row_ < H and 0 <= col < W
            if inside or slip != "zeros instead of wrapping":
                result[:, r, c] = x[:, row_ % H, col % W]
    return result


def check_cyclic_shift(cyclic_shift: Callable) -> None:
    """Fail unless `cyclic_shift(x, s)` moves row and column s to the front and wraps the rest around.

    Swin Transformer, Figure 4.
    """

    def describe(case: Batch, got: Tensor, want: Tensor) -> str:
        _, r, c, _ = first_difference(got, want)
        was = (r + case.size) % case.height, (c + case.size) % case.width
        return (
            f"{case.height} x {case.width} map, shift_size {case.size}: row {r}, column {c} of the result must be "
            f"the token of row {was[0]}, column {was[1]}."
        )

    def numbers(case: Batch, got: Tensor, want: Tensor) -> str:
        return f"expected {rows_of(want[0, ..., 0])}\nyours    {rows_of(got[0, ..., 0])}"

    def student(case: Batch) -> Tensor:
        return as_tensor(SHIFT, call(SHIFT, cyclic_shift, case.numbers(), case.size))

    judge(SHIFT, student, SHIFTS, shift_by_loops, describe, numbers=numbers)


PAD = Lesson(
    "pad_to_multiple",
    "pad_to_multiple(x (B, H, W, C), multiple) -> (B, H', W', C)",
    "zeros are added at the bottom and right, as few as make both sides multiples; so x[:, :H, :W] undoes it.",
    PAGE,
    {
        "a whole multiple too many": "a side that already fits gets `multiple` more: use -H % multiple, which is then "
        "0.",
        "top and left": "the zeros are at the top and left: F.pad takes (left, right, top, bottom) per axis, from the "
        "last.",
        "both ends": "the zeros are spread over both ends: the crop x[:, :H, :W] would lose tokens.",
        "height and width swapped": "the padding of rows and columns is exchanged: F.pad counts from the last axis.",
        "rows only": "only the rows are padded.",
        "columns only": "only the columns are padded.",
        "repeats the border": "the border is repeated: padding must be zeros.",
        "smaller": "the map is cropped to a multiple instead of padded.",
    },
)
PADS = [Batch(b, h, w, c, m) for b, h, w, c, m in [
    (1, 1, 2, 1, 2), (1, 2, 1, 1, 2), (1, 2, 2, 1, 2), (1, 3, 4, 1, 2), (1, 3, 2, 1, 4), (2, 5, 4, 3, 3),
    (1, 4, 7, 2, 7),
    (1, 3, 3, 1, 1),
]]  # fmt: skip


def pad_by_loops(case: Batch, slip: str = "") -> Tensor | None:
    x, m = case.numbers(), case.size
    more = [m - n % m if slip == "a whole multiple too many" else -n % m for n in (case.height, case.width)]
    if slip == "height and width swapped":
        more.reverse()
    more[1] *= slip != "rows only"
    more[0] *= slip != "columns only"
    if slip == "smaller":
        return x[:, : case.height // m * m, : case.width // m * m]
    result = torch.zeros(case.images, case.height + more[0], case.width + more[1], case.channels)
    top, left = more if slip == "top and left" else [n // 2 for n in more] if slip == "both ends" else (0, 0)
    result[:, top : top + case.height, left : left + case.width] = x
    if slip == "repeats the border":
        result[:, case.height :] = result[:, case.height - 1 : case.height]
        result[:, :, case.width :] = result[:, :, case.width - 1 : case.width]
    return result


def check_pad_to_multiple(pad_to_multiple: Callable) -> None:
    """Fail unless both sides become multiples by the fewest zeros at the bottom and right."""

    def describe(case: Batch, got: Tensor, want: Tensor) -> str:
        _, r, c, _ = first_difference(got, want)
        return f"{case.height} x {case.width} map, multiple {case.size}: wrong first at row {r}, column {c}."

    def numbers(case: Batch, got: Tensor, want: Tensor) -> str:
        return f"expected {rows_of(want[0, ..., 0])}\nyours    {rows_of(got[0, ..., 0])}"

    def student(case: Batch) -> Tensor:
        return as_tensor(PAD, call(PAD, pad_to_multiple, case.numbers(), case.size))

    judge(PAD, student, PADS, pad_by_loops, describe, numbers=numbers)


def rows_of(x: Tensor) -> str:
    """A small map as text, row by row."""
    return " / ".join(row(r) for r in x[:6])
