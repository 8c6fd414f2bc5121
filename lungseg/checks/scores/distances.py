"""Check of the Hausdorff distance of two outlines, against the distances between all pairs of outline pixels."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, judge
from lungseg.checks.lessons import Lesson
from lungseg.checks.scores.scores import PAGE

HAUSDORFF = Lesson(
    "hausdorff95",
    "hausdorff95(pred, target, spacing_mm), (H, W) or (D, H, W) bool arrays -> mm, NaN if either is empty",
    "from every outline pixel of one map the distance to the nearest outline pixel of the other, in mm; the 95th "
    "percentile of these; the same in the other direction; the larger of the two. An outline pixel is a lesion pixel "
    "with background, or the edge of the image, directly next to it.",
    PAGE,
    {
        "spacing ignored": "the distances are in pixels: multiply each axis by its spacing.",
        "axes exchanged": "the spacings are taken in the reverse order: spacing_mm[0] belongs to the first axis.",
        "first spacing for all axes": "the spacing of the first axis is used for all.",
        "maximum": "the maximum is taken instead of the 95th percentile: a single stray pixel decides it.",
        "mean": "the mean distance is taken instead of the 95th percentile.",
        "from prediction to target only": "only one direction: what the prediction misses does not count.",
        "from target to prediction only": "only one direction: what the prediction invents does not count.",
        "mean of both directions": "the two directions are averaged: take the larger.",
        "one percentile of both directions": "one percentile of the distances of both directions together.",
        "all lesion pixels": "all lesion pixels are used, not the outline: distances inside the overlap are 0.",
        "diagonal neighbours": "a pixel with background at a corner only counts as outline too.",
        "no edge of the image": "a lesion pixel at the edge of the image must count as outline.",
        "empty is 0": "0 is given if a map is empty: the best value for a missed lesion. There is no distance: NaN.",
        "empty is infinite": "infinity is given if a map is empty; our rule: NaN, which a mean leaves out.",
    },
)


class Pair(NamedTuple):
    """Two maps, given by boxes of lesion pixels (one (start, stop) per axis), and the spacing."""

    shape: tuple[int, ...]
    pred: tuple[tuple[tuple[int, int], ...], ...]
    target: tuple[tuple[tuple[int, int], ...], ...]
    spacing: tuple[float, ...]

    def maps(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        made = []
        for boxes in (self.pred, self.target):
            lesion = np.zeros(self.shape, dtype=bool)
            for box in boxes:
                lesion[tuple(slice(*sides) for sides in box)] = True
            made.append(lesion)
        return made[0], made[1]

    def __str__(self) -> str:
        boxes = [
            "; ".join(" x ".join(f"{a}:{b}" for a, b in box) for box in m) or "nothing"
            for m in (self.pred, self.target)
        ]
        return (f"{' x '.join(map(str, self.shape))} pixels of {' x '.join(map(str, self.spacing))} mm, prediction "
                f"{boxes[0]}, target {boxes[1]}")  # fmt: skip


def box(*sides: int) -> tuple[tuple[int, int], ...]:
    """Rows from, to, columns from, to, ..."""
    return tuple(zip(sides[::2], sides[1::2], strict=True))


BOX, LARGE, STRAY = box(1, 7, 1, 7), box(1, 11, 1, 11), box(14, 15, 14, 15)
PAIRS = [
    Pair((1, 4), (box(0, 1, 0, 1),), (box(0, 1, 2, 3),), (1.0, 1.0)),
    Pair((1, 4), (box(0, 1, 0, 1),), (box(0, 1, 2, 3),), (1.0, 2.5)),
    Pair((4, 4), (box(0, 1, 0, 1),), (box(2, 3, 1, 2),), (0.5, 2.0)),
    Pair((8, 8), (BOX,), (BOX,), (1.0, 1.0)),
    Pair((8, 9), (BOX,), (box(2, 5, 2, 5),), (1.0, 1.0)), Pair((8, 9), (box(3, 5, 2, 5),), (BOX,), (1.0, 1.0)),
    Pair((16, 16), (LARGE, STRAY), (LARGE,), (1.0, 1.0)), Pair((16, 16), (LARGE,), (box(1, 11, 1, 14),), (2.0, 0.5)),
    Pair((6, 6), (box(0, 6, 0, 6),), (box(2, 3, 2, 3),), (1.0, 1.0)),
    Pair((7, 7), (box(0, 7, 2, 5), box(2, 5, 0, 7)), (box(3, 4, 3, 4),), (1.0, 1.0)),
    Pair((4, 5, 6), (box(0, 2, 1, 4, 1, 3),), (box(1, 4, 0, 3, 2, 6),), (2.5, 1.0, 0.5)),
    Pair((3, 3), (), (box(1, 2, 1, 2),), (1.0, 1.0)), Pair((3, 3), (box(1, 2, 1, 2),), (), (1.0, 1.0)),
    Pair((3, 3), (), (), (1.0, 1.0)),
]  # fmt: skip


def outline_pixels(lesion: NDArray, slip: str = "") -> list[tuple[int, ...]]:
    """The lesion pixels that have a background pixel, or the outside, as a direct neighbour."""
    inside = {tuple(int(i) for i in p) for p in np.argwhere(lesion)}
    if slip == "all lesion pixels":
        return sorted(inside)

    def neighbours(p: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for step in np.ndindex(*(3,) * len(p)):
            direct = sum(i != 1 for i in step) == 1
            n = tuple(a + i - 1 for a, i in zip(p, step, strict=True))
            outside = any(not 0 <= i < side for i, side in zip(n, lesion.shape, strict=True))
            if (direct or slip == "diagonal neighbours") and not (outside and slip == "no edge of the image"):
                yield n

    return [p for p in sorted(inside) if any(n not in inside for n in neighbours(p))]


def distance_by_pairs(case: Pair, slip: str = "") -> Tensor | None:
    """From the distances between all pairs of outline pixels."""
    maps = case.maps()
    if not (maps[0].any() and maps[1].any()):
        return torch.tensor({"empty is 0": 0.0, "empty is infinite": math.inf}.get(slip, math.nan), dtype=torch.float64)
    spacing = {
        "spacing ignored": (1.0,) * len(case.shape),
        "axes exchanged": case.spacing[::-1],
        "first spacing for all axes": case.spacing[:1] * len(case.shape),
    }.get(slip, case.spacing)
    outlines = [np.array(outline_pixels(m, slip)) for m in maps]
    if not all(map(len, outlines)):
        return None
    mm = [pixels * spacing for pixels in outlines]  # (pixels, axes) each
    pairs = np.linalg.norm(mm[0][:, None] - mm[1][None], axis=-1)  # (pixels of pred, pixels of target)
    there, back = pairs.min(1), pairs.min(0)
    if slip == "one percentile of both directions":
        return torch.tensor(np.percentile(np.hstack([there, back]), 95))
    a, b = (float(np.mean(d) if slip == "mean" else np.percentile(d, 100 if slip == "maximum" else 95))
            for d in (there, back))  # fmt: skip
    return torch.tensor({
        "from prediction to target only": a,
        "from target to prediction only": b,
        "mean of both directions": (a + b) / 2,
    }.get(slip, max(a, b)), dtype=torch.float64)  # fmt: skip


def check_hausdorff95(hausdorff95: Callable) -> None:
    """Fail unless `hausdorff95(pred, target, spacing_mm)` is the larger of the two directed 95th percentiles, in mm."""

    def student(case: Pair) -> Tensor:
        return as_tensor(HAUSDORFF, call(HAUSDORFF, hausdorff95, *case.maps(), case.spacing))

    def describe(case: Pair, got: Tensor, want: Tensor) -> str:
        why = ", as a map is empty" if want.isnan() else ": all pairs of outline pixels give that"
        return f"{case} (start:stop per axis): the distance is {got.item():.4g} mm, expected {want.item():.4g} mm{why}."

    def numbers(case: Pair, got: Tensor, want: Tensor) -> str:
        maps = [[" ".join("01"[int(v)] for v in r) for r in m] for m in case.maps()] if len(case.shape) == 2 else []
        return "\n".join(f"{a}    {b}" for a, b in zip(*maps, strict=True)) if maps and case.shape[0] <= 9 else ""

    judge(HAUSDORFF, student, PAIRS, distance_by_pairs, describe, numbers=numbers)
