"""Checks of losses that look at where lesions are: distances over all pairs of pixels, lesions by walking."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import TOLERANCE, as_tensor, judge, row, same
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.scores.cross_entropy import PAGE, gradient

BOUNDARY = Lesson(
    "boundary_loss",
    "boundary_loss(logits, target), both (B, K, H, W) -> scalar",
    "the mean over all pixels of p times the signed distance to the border: positive outside the lesion, negative "
    "inside, in pixels, with the border half a pixel from a pixel's centre. Anything that does not depend on p may be "
    "added. A map without a lesion, or all lesion, has no border: distances of 0.",
    PAGE,
    {
        "outside only": "inside the lesion the distance is 0: missed pixels cost nothing.",
        "unsigned": "the distance is positive inside the lesion too, so it pays to predict nothing.",
        "sign": "the distance is negative outside and positive inside: it is the wrong way round.",
        "squared": "the distance is squared.",
        "steps along the axes": "the distance is counted in steps along rows and columns: the Euclidean one is meant.",
        "distance to the middle": "the distance is that to the middle of the lesion, not to its border.",
        "sigmoid forgotten": "the logits are used as if they were probabilities: apply the sigmoid first.",
        "sum instead of mean": "the pixels are summed: take the mean.",
        "no border": "a map without a lesion, or all lesion, has no pixel of the other kind to measure to: take 0.",
        "no gradient": "the result does not depend on the logits as far as autograd can see.",
    },
)
WEIGHTS = Lesson(
    "lesion_weights",
    "lesion_weights(target, size), (B, K, H, W) in {0, 1} -> weights of the same shape",
    "size / n on each pixel of a lesion of n pixels and 1 on the background, so that the weights of each lesion sum to "
    "`size`. Pixels that touch, also at a corner, are one lesion.",
    PAGE,
    {
        "all lesions together": "n is the number of all lesion pixels of the map: each lesion has an n of its own.",
        "corners do not touch": "pixels that touch at a corner only are two lesions: connect them too (structure).",
        "n for 1/n": "the weight grows with the lesion: divide by n.",
        "size ignored": "the weight is 1 / n: multiply by size.",
        "background 0": "the background has weight 0: false positives would cost nothing. It is 1.",
        "lesions of several maps": "lesions in different images or channels are joined: label each map on its own.",
        "number for n": "divided by the number of lesions, not of the lesion's pixels.",
    },
)
MAPS = {  # drawings of targets; "/" ends a row
    "one pixel": ".../.#./...", "a lesion": "...../.##../.##../.....", "two": "#...../...##./...##.",
    "at a corner": "#..../.#.../...##", "large and small": "###..#/###.../###...",
    "empty": "..../....", "full": "##/##",
}  # fmt: skip


class Case(NamedTuple):
    """A batch of maps (B, K, H, W) with random logits, or a size."""

    names: tuple[str, ...]
    size: float = 1.0
    shape: tuple[int, int] = (1, 1)  # (B, K)

    def target(self) -> Tensor:
        drawn = [[[float(c == "#") for c in line] for line in MAPS[name].split("/")] for name in self.names]
        return torch.tensor(drawn).reshape(*self.shape, len(drawn[0]), len(drawn[0][0]))

    def logits(self) -> Tensor:
        target = self.target()
        return torch.randn(target.shape, generator=torch.Generator().manual_seed(0)).mul(10).round().div(10)

    def __str__(self) -> str:
        return ", ".join(f"{name} ({MAPS[name]})" for name in self.names)


BORDERED = [Case((name,)) for name in MAPS if name not in ("empty", "full")] + [Case(("two", "two"), shape=(2, 1))]
SIZED = [Case((name,), size) for name in MAPS for size in (1.0, 12.0)]
SIZED += [Case(("two", "two"), 12.0, (2, 1)), Case(("large and small", "two"), 12.0, (1, 2))]


def pixels_of(drawing: Tensor) -> dict[tuple[int, ...], bool]:
    """Position -> whether it is lesion."""
    return {place: bool(drawing[place]) for place in product(*map(range, drawing.shape))}


# ---- the boundary loss -------------------------------------------------------------------------------------------


def boundary_by_loops(case: Case, slip: str = "", half: float = 0.5) -> Tensor:
    """The loss less that of the target itself. `half`: 0 puts the border on the outermost lesion pixels."""
    total, target, logits = [], case.target(), case.logits()
    for drawing, outputs in zip(target.flatten(0, 1), logits.flatten(0, 1), strict=True):
        for place, d in distances(pixels_of(drawing), slip, half).items():
            x = float(outputs[place])
            p = x if slip == "sigmoid forgotten" else 1 / (1 + math.exp(-x))
            g = 100 * float(drawing[place]) - 50 if slip == "sigmoid forgotten" else float(drawing[place])
            total.append((p - g) * d)
    return torch.tensor(sum(total) / (1 if slip == "sum instead of mean" else len(total)))


def distances(pixels: dict[tuple[int, ...], bool], slip: str, half: float) -> dict[tuple[int, ...], float]:
    """Position -> signed distance to the border."""
    lesion = [place for place, kind in pixels.items() if kind]
    if len(lesion) in (0, len(pixels)):
        return dict.fromkeys(pixels, 0.0)
    middle = [sum(axis) / len(lesion) for axis in zip(*lesion, strict=True)]
    found = {}
    for here, kind in pixels.items():
        others = [there for there, other in pixels.items() if other != kind]
        d = min(math.dist(here, there) for there in others)
        if slip == "steps along the axes":
            d = min(sum(abs(a - b) for a, b in zip(here, there, strict=True)) for there in others)
        d = -(d - 1 + half) if kind else d - half
        if slip == "distance to the middle":
            d = math.dist(here, middle)
        found[here] = {
            "outside only": max(d, 0.0), "unsigned": abs(d), "sign": -d, "squared": d * abs(d),
        }.get(slip, d)  # fmt: skip
    return found


def check_boundary_loss(boundary_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Fail unless `boundary_loss(logits, target)` is the mean probability times signed distance, up to a constant.

    Both tensors are (B, K, *spatial). The border may lie half-way between pixels or, as in the authors' code, on the
    outermost lesion pixels.
    """

    def student(case: Case) -> Tensor:
        target = case.target()
        mine, best = (call(BOUNDARY, boundary_loss, x, target) for x in (case.logits(), 100 * target - 50))
        return as_tensor(BOUNDARY, mine) - as_tensor(BOUNDARY, best)

    def describe(case: Case, got: Tensor, want: Tensor) -> str:
        return (f"{case}, logits {row(case.logits())}: the loss is {got.item():.5f} above that of the target itself, "
                f"expected {want.item():.5f}.")  # fmt: skip

    one_pixel, borderless = BORDERED[0], [Case(("empty",)), Case(("full",))]
    published = same(student(one_pixel), torch.as_tensor(boundary_by_loops(one_pixel, half=0.0)), TOLERANCE)
    judge(BOUNDARY, student, BORDERED, partial(boundary_by_loops, half=0.0 if published else 0.5), describe)
    for case in borderless:
        if not abs(got := student(case).item()) <= TOLERANCE:
            what = f"{case}: the loss is {got:.5f} above that of the target itself, but there is no border."
            raise Wrong(BOUNDARY, what, slip="no border")
    for case in [*BORDERED, *borderless]:
        grad = gradient(BOUNDARY, boundary_loss, case.logits(), case.target())
        if not grad.isfinite().all() or (case in BORDERED and not grad.any()):
            raise Wrong(BOUNDARY, f"{case}: the gradient is {row(grad)}.")


# ---- the weights -------------------------------------------------------------------------------------------------


def weights_by_loops(case: Case, slip: str = "") -> Tensor:
    """(B, K, H, W): size / n, with n found by walking from pixel to pixel."""
    target = case.target()
    maps = target.flatten(0, 1)
    if slip == "lesions of several maps":  # the maps are layers of one volume
        joined = {place: bool(maps[place]) for place in product(*map(range, maps.shape))}
        return torch.tensor([weight(joined, place, case, "") for place in joined]).reshape(target.shape)
    each = [pixels_of(drawing) for drawing in maps]
    return torch.tensor([weight(pixels, place, case, slip) for pixels in each for place in pixels]).reshape(
        target.shape
    )


def weight(pixels: dict[tuple[int, ...], bool], place: tuple[int, ...], case: Case, slip: str) -> float:
    """The weight of one pixel."""
    if not pixels[place]:
        return 0.0 if slip == "background 0" else 1.0
    n = len(walk(pixels, place, corners=slip != "corners do not touch"))
    if slip == "all lesions together":
        n = sum(pixels.values())
    if slip == "number for n":
        n = len({frozenset(walk(pixels, p)) for p, kind in pixels.items() if kind})
    return n * case.size if slip == "n for 1/n" else 1 / n if slip == "size ignored" else case.size / n


def walk(pixels: dict[tuple[int, ...], bool], start: tuple[int, ...], corners: bool = True) -> set[tuple[int, ...]]:
    """The lesion that holds a pixel: from neighbour to neighbour."""
    lesion, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for step in product((-1, 0, 1), repeat=len(here)):
            there = tuple(a + b for a, b in zip(here, step, strict=True))
            if pixels.get(there) and there not in lesion and (corners or sum(map(abs, step)) == 1):
                lesion.add(there)
                waiting.append(there)
    return lesion


def check_lesion_weights(lesion_weights: Callable[..., Tensor]) -> None:
    """Fail unless `lesion_weights(target, size=)` gives each lesion the same total weight, and the background 1."""

    def student(case: Case) -> Tensor:
        return as_tensor(WEIGHTS, call(WEIGHTS, lesion_weights, case.target(), size=case.size))

    def describe(case: Case, got: Tensor, want: Tensor) -> str:
        return f"{case}, size {case.size:g}: the weights are not size / n on lesions and 1 elsewhere."

    def numbers(case: Case, got: Tensor, want: Tensor) -> str:
        return f"expected {row(want)}\nyours    {row(got)}"

    judge(WEIGHTS, student, SIZED, weights_by_loops, describe, numbers=numbers)
