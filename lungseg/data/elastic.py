"""Elastic deformation: push every pixel a little, neighbours together, so that tissue bends but never folds.

Simard, Steinkraus, Platt, "Best Practices for Convolutional Neural Networks Applied to Visual Document
Analysis", ICDAR 2003, section 2. Lengths are in pixels throughout.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

MAX_STRETCH = 0.9  # between two neighbouring pixels, and so below the 1 at which they would change places
SERIAL_PRODUCT = 2**18  # multiply-adds of a matrix product up to which OpenBLAS stays on one thread


def elastic_displacement(
    shape: tuple[int, int], *, alpha: float, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Draw a smooth random displacement field that never folds.

    The paper smooths white noise with a Gaussian. Smoothing destroys all detail finer than sigma, so we draw
    one number per sigma x sigma pixels instead of one per pixel, and spread it with the same Gaussian: two
    small matrix products for a field of the same statistics (its covariance differs by 1e-4, see `spread`).

    An axis of the field that would stretch the image too much is shrunk below `alpha`, until its largest
    step between neighbours down a column plus its largest along a row is MAX_STRETCH. Then the Jacobian
    determinant of p -> p + displacement[p] is at least (1 - MAX_STRETCH)^2 > 0 (Ostrowski's bound for a
    matrix with a dominant diagonal), and no two points land on the same spot. Rare for alpha <= sigma / 8.

    Args:
        shape: (H, W) of the slice, in pixels.
        alpha: root-mean-square displacement along each axis, in pixels; at most sigma / 4.
        sigma: standard deviation of the smoothing, in pixels, at least 1; larger is smoother.
        rng: the only source of randomness; the same state gives the same field.

    Returns:
        (2, H, W): row displacement, then column displacement, in pixels.

    Raises:
        ValueError: if a size is not positive, sigma < 1, or alpha is negative or greater than sigma / 4.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"elastic_displacement: shape={shape} should be (H, W), two sizes of at least 1 pixel.")
    check_elastic_strength(alpha, sigma)
    field = smooth_noise(shape, sigma, rng)  # (2, H, W)
    for axis in field:  # (H, W) each, scaled in place
        rms = np.sqrt(np.mean(np.square(axis)))
        axis *= min(alpha / rms, MAX_STRETCH / max(largest_stretch(axis), 1e-9))
    return field


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """White noise as a Gaussian of `sigma` pixels would smooth it, at some constant strength: (2, H, W)."""
    rows, cols = spread(shape[0], sigma), spread(shape[1], sigma)  # (H, nodes down), (W, nodes along)
    noise = rng.standard_normal((2, rows.shape[1], cols.shape[1]), dtype=np.float32)
    field = np.empty((2, *shape), np.float32)
    # The whole is rows @ noise @ cols.T. We take as many rows at a time as BLAS multiplies on one thread:
    # several threads wait for each other, and beside busy data-loading workers that took 30 ms, not 0.1 ms.
    block = max(1, SERIAL_PRODUCT // cols.size)
    for top in range(0, shape[0], block):
        field[:, top : top + block] = rows[top : top + block] @ noise @ cols.T  # (2, block, W)
    return field


def check_elastic_strength(alpha: float, sigma: float) -> None:
    """Raise ValueError where `elastic_displacement` could not keep its promises."""
    if not 1 <= sigma < np.inf:
        raise ValueError(f"elastic deformation: sigma={sigma} should be a smoothing of at least 1 pixel.")
    if not 0 <= alpha <= sigma / 4:
        raise ValueError(
            f"elastic deformation: alpha={alpha} pixels with sigma={sigma} pixels would fold the image or is "
            f"negative; choose 0 <= alpha <= sigma / 4 = {sigma / 4:g}, or a larger sigma."
        )


@lru_cache(maxsize=64)  # the same few (size, sigma) come back for every picture of a training set
def spread(length: int, sigma: float) -> NDArray[np.float32]:
    """The weight of each noise node at each pixel of one axis: (length, nodes), a Gaussian per node.

    Nodes lie sigma pixels apart and reach 4 sigma beyond both ends, so that the border moves like the middle.
    Independent numbers on them, each spread as exp(-x^2 / 2 sigma^2), add up to a variance that is constant
    within 2 exp(-pi^2) = 1e-4 (Poisson summation) and to the correlation exp(-d^2 / 4 sigma^2) at distance d:
    just what white noise on every pixel has after the Gaussian filter.
    """
    nodes = sigma * np.arange(-4, np.ceil((length - 1) / sigma) + 5)  # positions in pixels
    weights = np.exp(-0.5 * ((np.arange(length)[:, None] - nodes) / sigma) ** 2).astype(np.float32)
    weights.setflags(write=False)  # the cache hands the same array to everyone
    return weights


def largest_stretch(axis: NDArray) -> float:
    """Largest step between neighbours down any column plus largest along any row, of one axis (H, W)."""
    steps = (np.diff(axis, axis=0), np.diff(axis, axis=1))  # (H-1, W), (H, W-1)
    return float(sum(max(s.max(initial=0), -s.min(initial=0)) for s in steps))


def warp(image: NDArray, displacement: NDArray, *, order: int) -> NDArray:
    """Sample `image` (H, W) where each pixel was displaced to: out[p] = image[p + displacement[p]].

    Args:
        image: (H, W), intensities or labels.
        displacement: (2, H, W), rows then columns, in pixels.
        order: 1 (bilinear) for intensities, which should be floats; 0 (nearest) for labels, so that no label
            absent from the input can appear in the output.

    Returns:
        (H, W), a new array with the dtype of `image`; 0 where the sample lies outside the image.

    Raises:
        ValueError: if the shapes do not belong together, or order is neither 0 nor 1.
    """
    if np.ndim(image) != 2 or np.shape(displacement) != (2, *np.shape(image)):
        raise ValueError(
            f"warp: an image of shape {np.shape(image)} with a displacement of shape "
            f"{np.shape(displacement)}; they should be (H, W) and (2, H, W)."
        )
    here = np.indices(image.shape)  # (2, H, W)
    return sample(image, here + displacement, order=order)


def sample(image: NDArray, coordinates: NDArray, *, order: int) -> NDArray:
    """Read `image` (H, W) at real-valued coordinates: (2, h, w), in pixels -> (h, w).

    Beyond the outermost pixels lies 0: air (-1000 HU is grey 0) for an image, background for a target.
    Repeating or mirroring the border would invent tissue there, and lesions with it.
    """
    if order not in (0, 1):
        raise ValueError(f"sample: order={order} should be 0 (nearest, for labels) or 1 (bilinear).")
    H, W = image.shape
    padded = np.zeros((H + 2, W + 2), image.dtype)  # a ring of air, into which the border fades
    padded[1:-1, 1:-1] = image
    if order == 1:
        return map_coordinates(padded, coordinates + 1, order=1, mode="nearest")  # beyond the ring: the ring
    # + 1 for the ring, + 0.5 because astype rounds down: the nearest row of `padded`, then the pixel's number
    index = np.clip(coordinates[0] + 1.5, 0, H + 1).astype(np.intp)  # (h, w)
    index *= W + 2
    index += np.clip(coordinates[1] + 1.5, 0, W + 1).astype(np.intp)
    return padded.take(index)  # much cheaper than map_coordinates(order=0), and the same
