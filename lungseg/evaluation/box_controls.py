"""What a box gives away: controls that never look at the image, for networks that are prompted with a box.

A box drawn around the true lesion holds its place, its size and its proportions. The ellipse inscribed in it is what
can be had from that alone, so a network prompted with such boxes has shown nothing until it beats the ellipse.

A box is (x0, y0, x1, y1), columns and rows of the outermost pixels that belong to it, as SAM and MedSAM count.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bounding_box(target: ArrayLike) -> NDArray[np.int64]:
    """The box around everything that is lesion: (H, W) -> (4,).

    Raises:
        ValueError: if nothing is lesion, or the target is not (H, W).
    """
    lesion = np.asarray(target) != 0
    if lesion.ndim != 2 or not lesion.any():
        raise ValueError(
            f"bounding_box: expected a target (H, W) with a lesion, got shape {lesion.shape} with {lesion.sum()} "
            f"lesion pixels. Leave out slices without a lesion."
        )
    y, x = np.nonzero(lesion)
    return np.array([x.min(), y.min(), x.max(), y.max()])


def inscribed_ellipse(box: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose middle lies in the ellipse that touches the four sides of a box.

    The sides are the outer edges of the outermost pixels: a box of one pixel is that pixel.

    Args:
        box: (4,), numbers need not be whole.
        shape: (H, W) of the mask. What lies outside is cut off.
    """
    x0, y0, x1, y1 = np.asarray(box, float)
    if not (x1 > x0 - 1 and y1 > y0 - 1):
        raise ValueError(f"inscribed_ellipse: expected a box (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got {box!r}.")
    y, x = np.ogrid[: shape[0], : shape[1]]
    across = (x - (x0 + x1) / 2) / ((x1 - x0 + 1) / 2)  # -1 and 1 at the sides
    down = (y - (y0 + y1) / 2) / ((y1 - y0 + 1) / 2)
    return across**2 + down**2 <= 1


def move_sides_out(box: ArrayLike, most: int, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Move each side of a box outwards by 0 to `most` pixels, drawn separately, but not out of the image.

    MedSAM draws its boxes like this in training, with 20 pixels of an image of 1024.
    """
    x0, y0, x1, y1 = np.asarray(box) + rng.integers(0, most + 1, 4) * (-1, -1, 1, 1)
    return np.array([max(x0, 0), max(y0, 0), min(x1, shape[1] - 1), min(y1, shape[0] - 1)])
