"""Choosing the threshold and the smallest component on validation images.

The criterion is the score that is reported: the mean Dice per image, with the same rule for 0/0
(`lungseg.evaluation.metrics`). All pairs of a small grid are tried. Of pairs that score the same, the threshold nearest
1/2 wins, then the smaller component: without a reason, nothing is changed.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lungseg.decision import PLAIN, ROUNDING, Decision, components

THRESHOLDS = tuple(i / 20 for i in range(1, 20))  # 0.05, 0.1, ..., 0.95
MIN_PIXELS = (0, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
EQUAL = 1e-12  # means of the same numbers, added in another order, differ by less


class Choice(NamedTuple):
    """The best decision, and the mean Dice of the validation images with it and with the plain one, above 1/2."""

    decision: Decision
    dice: float
    plain_dice: float


class DiceGrid(NamedTuple):
    """What one image says about every decision."""

    id: str
    dice: NDArray[np.float64]  # (K, thresholds, sizes); NaN where target and prediction are empty
    has_lesion: NDArray[np.bool_]  # (K,)


def dice_grid(id: str, probs: NDArray, target: NDArray, dims: int, *, pixel: float = 1.0) -> DiceGrid:
    """The Dice of one image for every threshold and every smallest component; each class by itself.

    Args:
        probs: (K, *spatial) floating point.
        target: the same shape, in {0, 1}.
        dims: as in `lungseg.decision.components`.
        pixel: training pixels per pixel of the image: `Decision.min_pixels` counts those of the training.
    """
    lesions = target != 0
    dice = [_dice_of_class(p, lesion, dims, pixel) for p, lesion in zip(probs, lesions, strict=True)]
    return DiceGrid(id, np.stack(dice), lesions.reshape(len(lesions), -1).any(axis=1))


def _dice_of_class(probs: NDArray, lesion: NDArray[np.bool_], dims: int, pixel: float) -> NDArray[np.float64]:
    """(thresholds, sizes) from maps (*spatial)."""
    of_lesion = np.count_nonzero(lesion)
    box = bounding_box(probs > THRESHOLDS[0])  # outside it nothing is predicted with any threshold
    probs, lesion = probs[box], lesion[box]
    tp, predicted = np.zeros((2, len(THRESHOLDS), len(MIN_PIXELS)))
    for t, threshold in enumerate(THRESHOLDS):
        region = probs > threshold
        numbered, num = components(region, dims)
        pixels = np.bincount(numbered[region], minlength=num + 1)[1:]  # (num,) of each component
        hits = np.bincount(numbered[region & lesion], minlength=num + 1)[1:]  # (num,) of them on a lesion
        for s, smallest in enumerate(MIN_PIXELS):
            kept = pixels * pixel >= smallest - ROUNDING
            tp[t, s], predicted[t, s] = hits[kept].sum(), pixels[kept].sum()
    with np.errstate(invalid="ignore"):  # 0/0: rightly silent
        return 2 * tp / (predicted + of_lesion)


def bounding_box(region: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds all of a map; an empty one if there is nothing to hold."""
    box = []
    for axis in range(region.ndim):
        held = np.flatnonzero(region.any(axis=tuple(a for a in range(region.ndim) if a != axis)))
        box.append(slice(held[0], held[-1] + 1) if held.size else slice(0, 0))
    return tuple(box)


def choose(grids: Iterable[DiceGrid]) -> Choice | None:
    """The decision with the highest mean Dice over the images; None if no image has a Dice.

    With several classes it is the mean over those that occur, as in `lungseg.evaluation.metrics.summarise_classes`, and
    one decision for all of them.
    """
    grids = sorted(grids, key=lambda grid: grid.id)  # one order of the sum, however many processes there were
    if not grids:
        return None
    of_classes = known_mean(np.stack([grid.dice for grid in grids]))  # (K, thresholds, sizes)
    occurs = np.any([grid.has_lesion for grid in grids], axis=0)  # (K,)
    mean = known_mean(of_classes[occurs]) if occurs.any() else np.full(of_classes.shape[1:], np.nan)
    if np.isnan(mean).all():
        return None
    best = np.nanmax(mean)
    ties = [(THRESHOLDS[t], MIN_PIXELS[s]) for t, s in np.argwhere(mean >= best - EQUAL)]
    threshold, min_pixels = min(ties, key=lambda pair: (round(abs(pair[0] - PLAIN.threshold), 9), pair[1], pair[0]))
    plain = mean[THRESHOLDS.index(PLAIN.threshold), MIN_PIXELS.index(PLAIN.min_pixels)]
    return Choice(Decision(threshold, min_pixels), float(best), float(plain))


def known_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the first axis of the values that are not NaN; NaN where there are none."""
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return np.where(count, np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1), math.nan)
