"""Counting lesions instead of pixels: how many lesions were detected, and how many detections are false positives.

A lesion is a connected component of the target, a detection one of the prediction. Pixels that touch at an edge or a
corner are connected: 8 neighbours in a slice, 26 in a volume.

One rule decides: a lesion is found if at least one predicted pixel is on it; a detection is a false positive if it
touches no lesion. So one detection may cover two lesions (both are found), and a lesion may be found by several
detections (it counts once, and none of them is a false positive).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

SIZES_MM = {"<5 mm": (0.0, 5.0), "5-10 mm": (5.0, 10.0), "10-20 mm": (10.0, 20.0), ">=20 mm": (20.0, math.inf)}
SIZES_PX = {"<7 px": (0.0, 7.0), "7-14 px": (7.0, 14.0), "14-28 px": (14.0, 28.0), ">=28 px": (28.0, math.inf)}
# At 0.7 mm per pixel, typical of chest CT, the limits in pixels are 4.9, 9.8 and 19.6 mm.


class Lesion(NamedTuple):
    """One lesion of a target."""

    diameter: float  # of a disc of equal area or a ball of equal volume, in the unit of the spacing; NaN if unknown
    found: bool  # at least one predicted pixel is on it


def match_lesions(
    pred: ArrayLike, target: ArrayLike, spacing: float | tuple[float, ...]
) -> tuple[tuple[Lesion, ...], int]:
    """The lesions of a target, each with whether it was found, and the number of false positives.

    Args:
        pred, target: (H, W) or (D, H, W), bool or values in {0, 1}.
        spacing: distance between neighbouring pixels, in mm or any other unit, one number or one per axis.

    Returns:
        The lesions in the order of their first pixels, row by row; and the number of detections that touch no lesion.

    Raises:
        ValueError: if the shapes differ.
    """
    predicted, lesion = np.asarray(pred) != 0, np.asarray(target) != 0
    if predicted.shape != lesion.shape:
        raise ValueError(
            f"match_lesions: prediction {predicted.shape} and target {lesion.shape} must have the same shape"
        )
    both = predicted & lesion
    lesions, num_lesions = connected_components(lesion)
    pixels = np.bincount(lesions[lesion], minlength=num_lesions + 1)[1:]  # (num_lesions,); component 0 is background
    found = np.isin(np.arange(1, num_lesions + 1), lesions[both])  # (num_lesions,)
    del lesions  # four bytes per voxel
    detections, num_detections = connected_components(predicted)
    true_positives = len(np.unique(detections[both]))
    diameters = [equal_diameter(n, spacing, lesion.ndim) for n in pixels.tolist()]
    return tuple(map(Lesion, diameters, found.tolist())), num_detections - true_positives


def count_calls(pred: ArrayLike, target: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """How the lesions of each class were classified.

    A lesion counts as the class with the most predicted pixels on it (in a tie, the lowest of these classes).

    Args:
        pred, target: label maps 0..K of the same shape; a lesion of class k is a connected component of target == k.

    Returns:
        (K, K + 1): row k - 1 counts the lesions of class k that were missed (column 0) and those called 1..K.
    """
    predicted, labels = np.asarray(pred), np.asarray(target)
    table = np.zeros((num_classes, num_classes + 1), np.int64)
    for k in range(1, num_classes + 1):
        lesions, num = connected_components(labels == k)
        pixels = np.zeros((num + 1, num_classes + 1), np.int64)  # of each lesion, predicted as each class
        inside = lesions > 0
        np.add.at(pixels, (lesions[inside], predicted[inside]), 1)
        pixels[:, 0] = 0  # pixels that were not predicted do not count; without others argmax gives 0, missed
        table[k - 1] = np.bincount(pixels[1:].argmax(axis=1), minlength=num_classes + 1)
    return table


def connected_components(region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number the connected components 1, 2, ...: an array of the same shape with 0 outside, and their number."""
    return ndimage.label(region, structure=np.ones((3,) * region.ndim))


def size_class(diameter: float, unit: str) -> str:
    """The name of the size class of a diameter in "mm" or "px"; 0 is "no lesion"."""
    if diameter == 0:
        return "no lesion"
    sizes = {"mm": SIZES_MM, "px": SIZES_PX}[unit]
    return next(name for name, (low, high) in sizes.items() if low <= diameter < high)


def equal_diameter(pixels: int, spacing: float | tuple[float, ...], ndim: int) -> float:
    """Diameter of the disc (ndim 2) or ball (ndim 3) with the area or volume of that many pixels."""
    size = pixels * math.prod(np.broadcast_to(spacing, ndim).tolist())  # mm^2 or mm^3
    return 2 * math.sqrt(size / math.pi) if ndim == 2 else (6 * size / math.pi) ** (1 / 3)
