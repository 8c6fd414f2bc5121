"""Zoom in on a box, and put the map that a network draws there back into the slice.

Crop pixel (u, v) is a point of the slice, and pixel (x, y) of the slice a point of the crop:

    u = (x - left) * scale,   v = (y - top) * scale

with whole numbers `left` and `top`. So a crop magnified by a whole number holds every pixel of the slice unchanged, at
(0, 0), (scale, 0), ... with interpolated pixels in between, and putting it back is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungseg.refiner.proposals import Box

SMALLEST = 12  # pixels of the slice along a side of a crop: a dot needs its surroundings, not magnification without end


@dataclass(frozen=True, eq=False)
class Crop:
    """A square region of a slice, resampled to another size."""

    pixels: NDArray[np.float32]  # (size, size) or (C, size, size)
    box: Box  # the box it was made for, in pixels of the crop
    left: int  # pixel of the slice at the crop's first column, and
    top: int  # at its first row; both may lie outside the slice
    scale: float  # crop pixels per pixel of the slice

    @property
    def size(self) -> int:
        return self.pixels.shape[-1]

    def to_crop(self, box: Sequence[float]) -> Box:
        """A box in pixels of the slice -> the same in pixels of the crop.

        The outer edges of its outermost pixels are mapped: a box of one pixel becomes one of `scale` pixels.
        """
        return _map_box(box, (self.left, self.top), self.scale, (0, 0))

    def to_image(self, box: Sequence[float]) -> Box:
        """The inverse of `to_crop`."""
        return _map_box(box, (0, 0), 1 / self.scale, (self.left, self.top))

    def cut(self, image: ArrayLike) -> NDArray[np.float32]:
        """The same region of another map of the slice: (H, W) -> (size, size), (C, H, W) -> (C, size, size).

        Linear between the pixels of the slice; where several fall into one pixel of the crop, their average. Beyond the
        slice there is 0. Of a target, what is at least 0.5 is lesion.
        """
        image = np.asarray(image)
        weights = _reading_weights(self.size, self.scale)  # (size, n)
        first, count = -ceil(max(1.0, 1 / self.scale)), weights.shape[1]
        window = _window(image, self.top + first, self.left + first, count).astype(np.float64)  # (..., n, n)
        return (weights @ window @ weights.T).astype(np.float32)

    def paste(self, maps: ArrayLike, shape: Sequence[int]) -> NDArray[np.float32]:
        """Put a map of the crop back into a slice of `shape`: (size, size) -> (H, W), (n, size, size) -> (n, H, W).

        Linear between the pixels of the crop, whose values must be finite; 0 outside the crop.
        """
        rows, columns = (
            _writing_weights(start, side, self.size, self.scale)
            for start, side in zip((self.top, self.left), shape, strict=True)
        )
        return (rows @ np.asarray(maps, np.float64) @ columns.T).astype(np.float32)


def crop_at(
    image: ArrayLike, box: Sequence[float], size: int, *, context: float = 2.0, smallest: int = SMALLEST
) -> Crop:
    """Cut the square around a box, and resample it to size x size.

    Its side is a whole number of pixels. Moving image and box together by whole pixels gives the same crop.

    Args:
        image: (H, W) or (C, H, W), with 0 for air.
        box: in pixels of the image, (x0, y0, x1, y1).
        size: side of the crop in pixels.
        context: the side of the region as a multiple of the box's longer side.
        smallest: the least side of the region, in pixels of the image.
    """
    x0, y0, x1, y1 = box
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not (x1 > x0 - 1 and y1 > y0 - 1) or size < 2 or context < 1 or smallest < 1:
        raise ValueError(
            f"crop_at: expected an image (H, W) or (C, H, W), a box (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, a "
            f"size of at least 2, and context and smallest of at least 1, got shape {image.shape}, {tuple(box)}, "
            f"{size}, {context} and {smallest}."
        )
    side = max(smallest, ceil(context * (max(x1 - x0, y1 - y0) + 1)))
    scale = size / side
    half = (size - 1) / (2 * scale)  # from the first pixel of the crop to its middle, in pixels of the image
    left, top = (
        floor((low + high) / 2 - half + 0.5) for low, high in ((x0, x1), (y0, y1))
    )  # round would round to even
    empty = Crop(np.zeros((size, size), np.float32), (0, 0, 0, 0), left, top, scale)
    return Crop(empty.cut(image), empty.to_crop(box), left, top, scale)


def _map_box(box: Sequence[float], start: Sequence[float], scale: float, stop: Sequence[float]) -> Box:
    """(edge - start) * scale + stop for the four outer edges; an edge is half a pixel beyond a pixel's middle."""
    half = np.array([-0.5, -0.5, 0.5, 0.5])
    edges = (np.asarray(box, float) - np.tile(start, 2)) * scale + half * (scale - 1) + np.tile(stop, 2)
    x0, y0, x1, y1 = edges.tolist()
    return x0, y0, x1, y1


def _reading_weights(size: int, scale: float) -> NDArray[np.float64]:
    """(size, n): how much of each of n pixels along an axis of the slice goes into each pixel of the crop.

    A triangle as wide as a pixel of the slice or of the crop, whichever is wider. The n pixels begin so many before the
    crop that the first triangle has room.
    """
    reach = max(1.0, 1 / scale)
    places = np.arange(-ceil(reach), ceil((size - 1) / scale + reach) + 1)
    weights = np.maximum(0, 1 - np.abs(places - np.arange(size)[:, None] / scale) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def _window(image: NDArray, top: int, left: int, count: int) -> NDArray:
    """The count x count pixels of (..., H, W) from (top, left) on, which may lie outside; there 0."""
    window = np.zeros((*image.shape[:-2], count, count), image.dtype)
    (y0, y1), (x0, x1) = (
        (max(0, -start), max(0, min(count, side - start)))
        for start, side in zip((top, left), image.shape[-2:], strict=True)
    )
    window[..., y0:y1, x0:x1] = image[..., max(0, top) : top + y1, max(0, left) : left + x1]
    return window


def _writing_weights(start: int, side: int, size: int, scale: float) -> NDArray[np.float64]:
    """(side, size): how much of each pixel of the crop goes into each pixel along an axis of the slice."""
    places = (np.arange(side) - start) * scale  # in pixels of the crop
    inside = (places >= -0.5) & (places <= size - 0.5)
    nearest = np.clip(places, 0, size - 1)[:, None]
    return np.maximum(0, 1 - np.abs(np.arange(size) - nearest)) * inside[:, None]
