"""Checks of the cyclic shift and of padding. Swin Transformer, section 3.2, Figure 4."""

from collections.abc import Callable

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, row
from lungseg.checks.lessons import Lesson
from lungseg.checks.networks.windows import PAGE, Batch

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
        "negative shift ignored": "a negative shift_size changes nothing; it must undo the shift.",
        "sign lost": "a negative shift_size rolls the same way as a positive one; it must undo the shift.",
        "wrong axes": "rolled along the axes of columns and channels (or batch and rows) instead of rows and columns.",
        "zeros instead of wrapping": "what leaves on one side must enter on the other; yours is replaced by zeros.",
    },
)
SHIFTS = [Batch(b, h, w, c, s) for b, h, w, c, s in [
    (1, 2, 2, 1, 1), (1, 3, 3, 1, 1), (1, 3, 4, 1, 1), (1, 4, 3, 2, 2), (2, 4, 4, 3, 1), (1, 4, 4, 1, -1),
    (2, 5, 4, 2, 3), (1, 3, 3, 1, 0),
]]  # fmt: skip


def shift_by_loops(case: Batch, slip: str = "") -> Tensor:
    """The rolled map, one token after the other."""
    x, s = case.numbers(), case.size
    if slip == "wrong axes":
        return torch.roll(x, (-s, -s), (2, 3))
    s = -s if slip == "roll the other way" else abs(s) if slip == "sign lost" else s
    s = max(s, 0) if slip == "negative shift ignored" else s
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
        x = case.numbers()
        return as_tensor(SHIFT, call(SHIFT, cyclic_shift, x, case.size), like=x)

    judge(SHIFT, student, SHIFTS, shift_by_loops, describe, numbers=numbers)


PAD = Lesson(
    "pad_to_multiple",
    "pad_to_multiple(x (B, H, W, C), multiple) -> (B, H', W', C)",
    "zeros are added at the bottom and right, as few as make both sides multiples; so x[:, :H, :W] undoes it.",
    PAGE,
    {
        "a whole multiple too many": "a side that already fits gets `multiple` more: use -H % multiple, which is then "
        "0.",
        "the remainder": "a side gets the remainder H % multiple more; what is missing is -H % multiple.",
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
    (1, 4, 7, 2, 7), (1, 3, 3, 1, 1),
]]  # fmt: skip


def pad_by_loops(case: Batch, slip: str = "") -> Tensor | None:
    """The map, written into one of zeros that is large enough."""
    x, m = case.numbers(), case.size
    more = [m - n % m if slip == "a whole multiple too many" else -n % m for n in (case.height, case.width)]
    more = [case.height % m, case.width % m] if slip == "the remainder" else more
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
        x = case.numbers()
        return as_tensor(PAD, call(PAD, pad_to_multiple, x, case.size), like=x)

    judge(PAD, student, PADS, pad_by_loops, describe, numbers=numbers)


def rows_of(x: Tensor) -> str:
    """A small map as text, row by row."""
    return " / ".join(row(r) for r in x[:6])
