"""Volumes resampled along the slice axis, so that neighbouring slices are equally far apart in every scan.

Scans have slices 0.5 to 5 mm apart, and a network learns the shape of lesions in voxels: a ball of 10 mm is 20 slices
high in one scan and 2 in another. Only this axis is resampled; rows and columns stay as they are.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lungseg.data.ct import overlap, resize_image


def resampled_depth(depth: int, spacing_mm: float, slice_mm: float) -> int:
    """The number of slices of a volume once they are `slice_mm` apart; at least 1.

    Raises:
        ValueError: if the spacing is unknown (NaN) or no positive number.
    """
    if not 0 < spacing_mm < math.inf:
        raise ValueError(f"expected the distance between slices in mm, a positive number, got {spacing_mm}.")
    return max(1, round(depth * (spacing_mm / slice_mm)))


def resample_slices(image: NDArray[np.float32], depth: int) -> NDArray[np.float32]:
    """Resize an image (D, H, W) to (depth, H, W): linear between slices, averaging where there become fewer."""
    D, H, W = image.shape
    return resize_image(image.reshape(D, H * W), (depth, H * W)).reshape(depth, H, W)  # a row for each slice


class SliceGrid:
    """The slices of a volume after resampling, of which a few can be computed alone.

    Args:
        slices: of the file.
        spacing_mm: between them.
        slice_mm: between the resampled slices; None leaves the slices as they are.

    Attributes:
        depth: slices after resampling.
    """

    def __init__(self, slices: int, spacing_mm: float, slice_mm: float | None):
        self.slices = slices
        self.depth = slices if slice_mm is None else resampled_depth(slices, spacing_mm, slice_mm)

    def needed(self, box: slice) -> slice:
        """The slices of the file that the resampled slices in a box are computed from."""
        if self.depth == self.slices:
            return box
        image, target = resampling_weights(self.slices, self.depth)
        used = np.flatnonzero((image[box] != 0).any(axis=0) | (target[box] != 0).any(axis=0))
        return slice(int(used[0]), int(used[-1]) + 1)

    def image(self, read: NDArray[np.float32], box: slice) -> NDArray[np.float32]:
        """The `needed` slices (d, h, w) of an image -> the resampled slices of the box: those of `resample_slices`."""
        if self.depth == self.slices:
            return read
        weights = resampling_weights(self.slices, self.depth)[0][box, self.needed(box)]
        return np.tensordot(weights, read, axes=1).clip(0, 1)  # rounding may leave [0, 1]

    def target(self, read: NDArray[np.float32], box: slice, *, soft: bool = False) -> NDArray[np.float32]:
        """The `needed` slices (K, d, h, w) of a target in {0, 1} -> the resampled slices of the box.

        A voxel is lesion where half of it is, of the class with the largest part (the first in a tie): the rule of
        `lungseg.data.ct.resize_target`. Of a soft target, in [0, 1], the mean over the voxel.
        """
        if self.depth == self.slices:
            return read
        weights = resampling_weights(self.slices, self.depth)[1][box, self.needed(box)]
        parts = np.stack([np.tensordot(weights, of_class, axes=1) for of_class in read]).round(6)  # (K, d, h, w)
        if soft:
            return parts.clip(0, 1)
        lesion = parts.sum(axis=0) >= 0.5 - 1e-5  # float32 sums of thirds may be a little less than one half
        largest = parts.argmax(axis=0) == np.arange(len(parts))[:, None, None, None]
        return (largest & lesion).astype(np.float32)


@lru_cache(maxsize=256)  # the scans of a data set have a few hundred numbers of slices
def resampling_weights(slices: int, depth: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How much each slice counts in each resampled slice, (depth, slices): for images, and for targets.

    Resizing is linear, so resizing the unit matrix gives the weights of `resample_slices`.
    """
    image = resize_image(np.eye(slices, dtype=np.float32), (depth, slices))
    target = overlap(slices, depth).astype(np.float32)
    for weights in (image, target):
        weights.setflags(write=False)  # the cache returns the same arrays to every caller
    return image, target
