"""Candidates in slices, as boxes: where a network thinks that a lesion could be, found without a person and the truth.

A threshold far below 0.5 finds more lesions than the network would draw, and more false ones: a second look at each box
sorts them. What is not proposed here is lost, so the recall of the proposals bounds all that follows.

A box is (x0, y0, x1, y1), columns and rows of the outermost pixels that belong to it, as SAM and MedSAM count. They
need not be whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from lungseg.evaluation.lesions import connected_components

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Proposal:
    """A candidate in one slice."""

    slice: int  # its number in the stack; 0 for a single slice
    box: Box  # with its margin
    score: float  # the largest probability of the component


def propose(probs: ArrayLike, *, threshold: float = 0.1, margin: float = 0.1, most: int = 8) -> list[Proposal]:
    """The connected components above a low threshold, each with the box around it; pixels touch at edges and corners.

    Args:
        probs: probabilities of lesion, (H, W), or (N, H, W) whose slices are looked at one by one.
        threshold: a component is what is above this.
        margin: the share of the box's width and height by which it grows on each side, but by 1 pixel at least; never
            out of the slice.
        most: keep so many of each slice.

    Returns:
        Slice after slice, in each the one with the highest score first; empty if nothing is above the threshold.
    """
    stack = np.asarray(probs)
    if stack.ndim not in (2, 3) or not 0 <= threshold < 1 or margin < 0 or most < 1:
        raise ValueError(
            f"propose: expected probabilities (H, W) or (N, H, W), a threshold in [0, 1), a margin of at least 0 and "
            f"most of at least 1, got shape {stack.shape}, {threshold}, {margin} and {most}."
        )
    proposals = []
    for number, prob in enumerate(stack.reshape(-1, *stack.shape[-2:])):
        labels, count = connected_components(prob > threshold)
        scores = ndimage.maximum(prob, labels, np.arange(1, count + 1))
        found = [
            Proposal(number, grow_box(box, prob.shape, margin), float(score))
            for box, score in zip(component_boxes(labels), scores, strict=True)
        ]
        proposals += sorted(found, key=lambda p: -p.score)[:most]  # of equal ones, the first in reading order
    return proposals


def component_boxes(labels: NDArray) -> list[Box]:
    """The box of each connected component, 1, 2, ... in labels (H, W)."""
    return [(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in ndimage.find_objects(labels)]


def grow_box(box: Sequence[float], shape: Sequence[int], share: float) -> Box:
    """Move each side out by a share of the box's width or height, by 1 pixel at least, but not out of (H, W)."""
    reach = np.maximum(share * sides(box), 1.0)
    return clip_box(np.asarray(box) + reach * (-1, -1, 1, 1), shape)


def jitter_box(box: Sequence[float], shape: Sequence[int], rng: np.random.Generator, *, share: float = 0.1) -> Box:
    """Move each side out or in, by at most a share of the box's width or height.

    In training: so that a network does not take a box drawn around the truth at its word. A fixed number of pixels
    would hide a small lesion's place and leave a large one's as it was. So would a least number: with 1 pixel, a box of
    5 pixels moves by a fifth whatever the share, and MedSAM then outlines such lesions less well than an ellipse.

    Args:
        box: of pixels of the slice.
        shape: (H, W) of the slice, which the box does not leave.
        rng: draws the four sides separately.
        share: of the box's own width and height, below 0.5 so that the sides keep their order. They do so in a box of
            1 or 2 pixels too: there, sides that would cross change places.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"jitter_box: share must be in [0, 0.5), got {share}.")
    x0, y0, x1, y1 = np.asarray(box) + rng.uniform(-1, 1, 4) * share * sides(box)
    return clip_box((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), shape)


def sides(box: Sequence[float]) -> NDArray[np.float64]:
    """Width and height, twice: (w, h, w, h), in pixels."""
    x0, y0, x1, y1 = box
    return np.tile([x1 - x0 + 1.0, y1 - y0 + 1.0], 2)


def clip_box(box: ArrayLike, shape: Sequence[int]) -> Box:
    """The part of a box inside a slice of (H, W) pixels."""
    x0, y0, x1, y1 = np.clip(box, 0, np.tile([shape[1] - 1, shape[0] - 1], 2)).tolist()
    return x0, y0, x1, y1
