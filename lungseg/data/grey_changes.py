"""Changes of grey values that imitate other scanners: blur, gamma, noise. Images are in [0, 1] before and after.

Brightness and contrast are in `lungseg.data.augment`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


def blur(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Smooth each slice with a Gaussian, as a softer reconstruction kernel does. No value leaves [0, 1].

    Args:
        image: (..., H, W). Leading axes, such as neighbouring slices, are not mixed.
        sigma: standard deviation of the Gaussian in pixels; 0 changes nothing.
    """
    if sigma == 0:
        return image
    sides = (0.0,) * (image.ndim - 2) + (sigma, sigma)
    return gaussian_filter(image, sides, mode="nearest")  # at the border, as if the last pixel went on


def bend_grey(image: NDArray[np.float32], gamma: float) -> NDArray[np.float32]:
    """image ** gamma: 0 and 1 stay, greys between become darker (gamma > 1) or brighter (gamma < 1)."""
    return image if gamma == 1 else np.power(image, np.float32(gamma))


def add_noise(image: NDArray[np.float32], sigma: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add an independent Gaussian number to each pixel, and clip to [0, 1].

    Args:
        sigma: standard deviation in grey; 0.01 of the HU window [-1000, 400] is 14 HU. 0 changes nothing.
        rng: the only source of randomness.
    """
    if sigma == 0:
        return image
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(sigma) * noise, 0, 1)
