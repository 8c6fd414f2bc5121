"""Counting lesions, where metrics.py counts pixels: which lesions were found, and how many finds are none.

A lesion is a connected piece of the target, a find a connected piece of the prediction. Pixels that touch at an
edge or a corner are connected: 8 neighbours in a slice, 26 in a volume.

One rule decides: a lesion is found if at least one predicted pixel lies on it; a find is a false positive if it
lies on no lesion. So one find may cover two lesions (both are found), and a lesion may be found in several pieces
(it counts once, and none of the pieces is a false positive).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage


class Lesion(NamedTuple):
    diameter_mm: float  # of a disc of equal area, or a ball of equal volume; nan if the spacing is unknown
    found: bool


def match_lesions(
    pred: ArrayLike, target: ArrayLike, spacing_mm: float | tuple[float, ...]
) -> tuple[tuple[Lesion, ...], int]:
    """The lesions of a target, each with the answer whether it was found, and the number of false positives.

    Args:
        pred, target: (H, W) or (D, H, W), bool or values in {0, 1}.
        spacing_mm: distance between neighbouring pixels, one number or one per axis; nan = unknown.

    Returns:
        The lesions in the order of their first pixels, row by row; and how many finds lie on no lesion.

    Raises:
        ValueError: for maps of two shapes.
    """
    pred, target = np.asarray(pred) != 0, np.asarray(target) != 0
    if pred.shape != target.shape:
        raise ValueError(f"match_lesions: prediction {pred.shape} and target {target.shape} must have one shape")
    lesions, num_lesions = connected_pieces(target)
    finds, num_finds = connected_pieces(pred)
    pixels = np.bincount(lesions.ravel(), minlength=num_lesions + 1)[1:]  # (num_lesions,); piece 0 is background
    both = pred & target
    found = np.isin(np.arange(1, num_lesions + 1), lesions[both])  # (num_lesions,)
    true_finds = len(np.unique(finds[both]))
    diameters = [equal_diameter(n, spacing_mm, target.ndim) for n in pixels.tolist()]
    return tuple(map(Lesion, diameters, found.tolist())), num_finds - true_finds


def connected_pieces(region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the connected pieces 1, 2, ...: an array of the same shape with 0 outside, and how many there are."""
    return ndimage.label(region, structure=np.ones((3,) * region.ndim))


def equal_diameter(pixels: int, spacing_mm: float | tuple[float, ...], ndim: int) -> float:
    """Diameter in mm of the disc (ndim 2) or ball (ndim 3) with the area or volume of that many pixels."""
    size = pixels * math.prod(np.broadcast_to(spacing_mm, ndim).tolist())  # mm^2 or mm^3
    return 2 * math.sqrt(size / math.pi) if ndim == 2 else (6 * size / math.pi) ** (1 / 3)
