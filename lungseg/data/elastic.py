"""Elastic deformation: displace every pixel a little, neighbours by nearly the same amount, so tissue never folds.

Simard, Steinkraus, Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis", ICDAR 2003, section 2. Lengths are in pixels throughout.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_STRETCH = 0.9  # of a step between neighbouring pixels; at 1 they would change places
SERIAL_PRODUCT = 2**18  # multiply-adds of a matrix product up to which OpenBLAS uses a single thread


def elastic_displacement(
    shape: tuple[int, int], *, alpha: float, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a smooth random displacement field that never folds.

    The paper smooths white noise with a Gaussian. Smoothing removes all detail finer than sigma, so we draw one number
    per sigma x sigma pixels instead of one per pixel, and smooth it with the same Gaussian. That takes two small matrix
    products and gives a field of the same statistics (its covariance differs by 1e-4, see `gaussian_weights`).

    If one axis of the field would stretch the image too much, it is scaled down below `alpha`, until its largest step
    between neighbours down a column plus its largest step along a row is MAX_STRETCH. Then the Jacobian determinant of
    p -> p + displacement[p] is at least (1 - MAX_STRETCH)^2 > 0 (Ostrowski's bound for a diagonally dominant matrix),
    and no two points are moved to the same position. This is rare for alpha <= sigma / 8.

    Args:
        shape: (H, W) of the slice, in pixels.
        alpha: root-mean-square displacement along each axis, in pixels; at most sigma / 4.
        sigma: standard deviation of the Gaussian in pixels, at least 1; larger is smoother.
        rng: the only source of randomness; the same state gives the same field.

    Returns:
        (2, H, W): row displacement, then column displacement, in pixels.

    Raises:
        ValueError: if a size is not positive, sigma < 1, or alpha is negative or greater than sigma / 4.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"elastic_displacement: expected shape (H, W), two sizes of at least 1 pixel, got {shape}.")
    check_elastic_strength(alpha, sigma)
    field = smooth_noise(shape, sigma, rng)  # (2, H, W)
    for axis in field:  # (H, W) each, scaled in place
        rms = np.sqrt(np.mean(np.square(axis)))
        axis *= min(alpha / rms, MAX_STRETCH / max(largest_stretch(axis), 1e-9))
    return field


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw white noise smoothed by a Gaussian of `sigma` pixels, up to a constant factor: (2, H, W)."""
    rows, cols = gaussian_weights(shape[0], sigma), gaussian_weights(shape[1], sigma)  # (H, nodes), (W, nodes)
    noise = rng.standard_normal((2, rows.shape[1], cols.shape[1]), dtype=np.float32)
    field = np.empty((2, *shape), np.float32)
    # This computes rows @ noise @ cols.T, as many rows at a time as BLAS multiplies on a single thread: several
    # threads wait for each other, which took 30 ms instead of 0.1 ms while data-loading workers were busy.
    block = max(1, SERIAL_PRODUCT // cols.size)
    for top in range(0, shape[0], block):
        field[:, top : top + block] = rows[top : top + block] @ noise @ cols.T  # (2, block, W)
    return field


def check_elastic_strength(alpha: float, sigma: float) -> None:
    """Raise a ValueError if `elastic_displacement` could not keep its promises."""
    if not 1 <= sigma < np.inf:
        raise ValueError(f"elastic deformation: expected sigma, the smoothing, of at least 1 pixel, got {sigma}.")
    if not 0 <= alpha <= sigma / 4:
        raise ValueError(
            f"elastic deformation: alpha={alpha} pixels is negative, or would fold the image with sigma={sigma} "
            f"pixels; choose 0 <= alpha <= sigma / 4 = {sigma / 4:g}, or a larger sigma."
        )


@lru_cache(maxsize=64)  # all images of a training set share a few pairs (length, sigma)
def gaussian_weights(length: int, sigma: float) -> NDArray[np.float32]:
    """The weight of each noise node at each pixel of one axis: (length, nodes), a Gaussian per node.

    Nodes are sigma pixels apart and extend 4 sigma beyond both ends, so the border moves like the middle. Independent
    numbers on the nodes, each weighted by exp(-x^2 / 2 sigma^2), add up to a variance that is constant within
    2 exp(-pi^2) = 1e-4 (Poisson summation) and to the correlation exp(-d^2 / 4 sigma^2) at distance d: exactly that of
    white noise on every pixel after the Gaussian filter.
    """
    nodes = sigma * np.arange(-4, np.ceil((length - 1) / sigma) + 5)  # positions in pixels
    weights = np.exp(-0.5 * ((np.arange(length)[:, None] - nodes) / sigma) ** 2).astype(np.float32)
    weights.setflags(write=False)  # the cache returns the same array to every caller
    return weights


def largest_stretch(axis: NDArray) -> float:
    """The largest step between neighbours down any column plus the largest along any row, of one axis (H, W)."""
    steps = (np.diff(axis, axis=0), np.diff(axis, axis=1))  # (H-1, W), (H, W-1)
    return float(sum(max(s.max(initial=0), -s.min(initial=0)) for s in steps))


def warp(image: NDArray, displacement: NDArray, *, order: int) -> NDArray:
    """Sample `image` (H, W) at the displaced position of each pixel: out[p] = image[p + displacement[p]].

    Args:
        image: (H, W), intensities or labels.
        displacement: (2, H, W), rows then columns, in pixels.
        order: 1 (bilinear) for intensities, which should be floats; 0 (nearest) for labels, so that no label
            absent from the input can appear in the output.

    Returns:
        (H, W), a new array with the dtype of `image`; 0 where the sample is outside the image.

    Raises:
        ValueError: if the shapes do not match, or order is neither 0 nor 1.
    """
    if np.ndim(image) != 2 or np.shape(displacement) != (2, *np.shape(image)):
        raise ValueError(
            f"warp: expected an image (H, W) and a displacement (2, H, W), got shape {np.shape(image)} with a "
            f"displacement of shape {np.shape(displacement)}."
        )
    positions = np.indices(image.shape)  # (2, H, W)
    return sample_at(image, positions + displacement, order=order)


def sample_at(image: NDArray, coordinates: NDArray, *, order: int) -> NDArray:
    """Sample `image` (H, W) at real-valued coordinates (2, h, w) in pixels: (h, w).

    Outside the image it is 0: air (-1000 HU is grey 0) in an image, background in a target. Repeating or mirroring the
    border would invent tissue there, and lesions with it.
    """
    if order not in (0, 1):
        raise ValueError(f"sample_at: expected order 0 (nearest, for labels) or 1 (bilinear), got {order}.")
    H, W = image.shape
    # A ring of air, into which the border fades, and one more row and column at the end, for the last neighbours.
    padded = np.zeros((H + 3, W + 3), image.dtype)
    padded[1:-2, 1:-2] = image
    to_ring = 1 if order == 1 else 1.5  # + 1 for the ring; and + 0.5 for the nearest, because astype rounds down
    row = np.clip(coordinates[0] + to_ring, 0, H + 1)  # (h, w), in `padded`
    col = np.clip(coordinates[1] + to_ring, 0, W + 1)
    top, left = row.astype(np.intp), col.astype(np.intp)
    index = top * (W + 3) + left  # of `padded`, row after row
    if order == 0:
        return padded.take(index)
    return bilinear(padded, index, row - top, col - left)


def bilinear(image: NDArray, index: NDArray[np.intp], down: NDArray, across: NDArray) -> NDArray:
    """Interpolate between a pixel of the image, its right neighbour, and the two below: (h, w).

    The values of `scipy.ndimage.map_coordinates(order=1)` up to rounding in the last digit, in a third of its time: it
    handles any number of axes and computes in float64.

    Args:
        image: (H, W). The pixels must not be in its last row or column.
        index: (h, w), of the pixels, counted row after row.
        down, across: (h, w) in [0, 1], how far below and to the right of it the value is looked up.
    """
    kind = np.result_type(image.dtype, np.float32)
    down, across = down.astype(kind), across.astype(kind, copy=False)

    def between(offset: int) -> NDArray:
        """Between the neighbours in one row, `offset` numbers after the pixel."""
        left = image.ravel()[offset:].take(index).astype(kind, copy=False)
        right = image.ravel()[offset + 1 :].take(index).astype(kind, copy=False)
        right -= left
        right *= across
        right += left
        return right

    upper, lower = between(0), between(image.shape[1])
    lower -= upper
    lower *= down
    lower += upper
    return lower.astype(image.dtype, copy=False)
