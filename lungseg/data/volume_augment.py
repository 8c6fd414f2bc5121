"""Random variation of a crop of a volume: rotated about the slice axis, scaled and deformed in the plane of its slices.

Every slice of a crop is read at the same places, so that a vessel that runs through them stays one vessel. The slices
are thicker than a pixel is wide, and rotating about another axis would blur them into each other.
"""

import numpy as np
from numpy.typing import NDArray

from lungseg.data.augment import Augmentation, Draw, input_from_output
from lungseg.data.elastic import elastic_displacement, sample_at


def plane_coordinates(
    augment: Augmentation, draw: Draw, start: NDArray, size: tuple[int, int], voxel: NDArray | None
) -> NDArray[np.float32]:
    """The position in a slice of each pixel of a crop: centre + matrix @ (pixel + displacement - middle of the crop).

    Args:
        augment, draw: the settings of the elastic deformation, and the decisions; flips and crops are not used.
        start: (2,) row and column of the first pixel of the crop, if it were not turned.
        size: (h, w) of the crop.
        voxel: (3,) of a lesion, which is then read exactly, at the place in the crop where it would be without
            variation: so that a crop which is to hold a lesion does, even if that is a single voxel. None: anywhere.

    Returns:
        (2, h, w): rows, then columns, in pixels of the slice.
    """
    middle = (np.array(size) - 1) / 2  # (2,)
    offsets = np.indices(size) - middle[:, None, None]  # (2, h, w)
    if draw.elastic:
        offsets += elastic_displacement(
            size, alpha=augment.elastic_alpha, sigma=augment.elastic_sigma, rng=np.random.default_rng(draw.noise_seed)
        )
    matrix = input_from_output(draw.angle, flip_rows=False, flip_cols=False) / draw.scale
    turned = np.tensordot(matrix, offsets, axes=1)  # (2, h, w)
    centre = start + middle
    if voxel is not None:
        row, col = (voxel[1:] - start).astype(int)
        centre = voxel[1:] - turned[:, row, col]
    return (turned + centre[:, None, None]).astype(np.float32)


def box_around(coordinates: NDArray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """The rows and columns of a slice (H, W) that bilinear sampling at the coordinates reads: at least one of each."""
    first = np.floor(coordinates.min(axis=(1, 2))).astype(int)  # (2,)
    last = np.floor(coordinates.max(axis=(1, 2))).astype(int) + 1
    last_pixel = np.array(shape) - 1
    low, high = np.clip(first, 0, last_pixel), np.clip(last, 0, last_pixel)
    return slice(int(low[0]), int(high[0]) + 1), slice(int(low[1]), int(high[1]) + 1)


def sample_slices(slices: NDArray, coordinates: NDArray, *, order: int) -> NDArray:
    """Sample each of the slices (d, H, W) at the same coordinates: (d, h, w); `order` as of `sample_at`."""
    return np.stack([sample_at(slice_, coordinates, order=order) for slice_ in slices])
