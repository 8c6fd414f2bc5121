"""Random variations of an image and its target: rotate, flip, bend, crop, change brightness and contrast.

Everything that moves pixels is composed into one map and sampled once, because each resampling blurs. Image
and target share that map: bilinear for the image, nearest for the target, which therefore holds no label (0 and 1, or
classes 0..K) that it did not hold before.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lungseg.data.elastic import check_elastic_strength, elastic_displacement, sample


class Draw(NamedTuple):
    """What chance decided for one picture. `pixel` and `place` are uniform in [0, 1)."""

    angle: float  # degrees, counter-clockwise
    flip_rows: bool  # the vertical flip: top and bottom change places
    flip_cols: bool  # the horizontal flip: left and right change places
    elastic: bool
    crop_on_lesion: bool
    pixel: float  # which lesion pixel the crop window shall hold
    place: tuple[float, float]  # where in its range the window lies: rows, columns
    brightness: float  # added grey
    contrast: float  # factor
    noise_seed: int  # of the displacement field


@dataclass(frozen=True)
class Augmentation:
    """f(image, target, rng) -> (image, target), the same random geometry for both; 0 switches a part off.

    Every call draws the same numbers in the same order, whatever the settings: switching one part off, or
    making it stronger, leaves what chance decides about the others as it was.
    """

    rotation: float = 30.0  # degrees: the angle is uniform in [-rotation, rotation], about the image centre
    horizontal_flip: float = 0.5  # probability of exchanging left and right
    vertical_flip: float = 0.5  # probability of exchanging top and bottom
    elastic_probability: float = 0.5  # of an elastic deformation
    elastic_alpha: float = 3.0  # its root-mean-square displacement along each axis, in pixels
    elastic_sigma: float = 24.0  # its smoothness, in pixels (lungseg.data.elastic)
    brightness: float = 0.05  # added grey, uniform in [-brightness, brightness]; 0.05 of the window is 70 HU
    contrast: float = 0.15  # factor about the image's mean, uniform in [1 - contrast, 1 + contrast]
    crop_size: int | None = None  # side of a square window in pixels; None keeps the whole image
    crop_foreground: float = 0.0  # probability that the window must hold a lesion pixel, if there is one

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "elastic_probability", "crop_foreground"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Augmentation: {name}={getattr(self, name)} should be a probability, 0 to 1.")
        for name, most in (("rotation", 180), ("brightness", 1), ("contrast", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"Augmentation: {name}={getattr(self, name)} should lie in [0, {most}].")
        check_elastic_strength(self.elastic_alpha, self.elastic_sigma)
        if self.crop_size is not None and (not isinstance(self.crop_size, int) or self.crop_size < 1):
            raise ValueError(f"Augmentation: crop_size={self.crop_size} should be a whole number >= 1, or None.")
        if self.crop_foreground and self.crop_size is None:
            raise ValueError("Augmentation: crop_foreground places a crop window; give crop_size as well.")

    def __call__(
        self, image: NDArray[np.float32], target: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Vary one pair; the arrays given are left untouched.

        Args:
            image: (H, W) float32 in [0, 1].
            target: (H, W) uint8 in {0, 1}, or labels 0..K of lesion classes, K <= 254.
            rng: the only source of randomness; the same state gives the same pair.

        Returns:
            New contiguous arrays of the same types and, unless `crop_size` says otherwise, the same shape.
            What lies outside the original image is 0 in both: air, and no lesion. Without rotation and
            elastic deformation no pixel is resampled: flips and crops are exact.

        Raises:
            ValueError: if the pair is not as described, or smaller than the crop.
        """
        check_pair(image, target, self.crop_size)
        draw = self.draw(rng)
        size = image.shape if self.crop_size is None else (self.crop_size, self.crop_size)  # (h, w)
        displacement = None
        if draw.elastic:
            displacement = elastic_displacement(
                size,
                alpha=self.elastic_alpha,
                sigma=self.elastic_sigma,
                rng=np.random.default_rng(draw.noise_seed),
            )
        matrix = input_from_output(draw.angle, draw.flip_rows, draw.flip_cols)
        origin = crop_origin(target, size, matrix, displacement, draw)
        if draw.angle == 0 and displacement is None:
            image, target = (exact_crop(array, size, origin, draw) for array in (image, target))
        else:
            coordinates = sampling_coordinates(image.shape, size, matrix, origin, displacement)  # (2, h, w)
            image, target = sample(image, coordinates, order=1), sample(target, coordinates, order=0)
        return adjust(image, draw.brightness, draw.contrast), target

    def draw(self, rng: np.random.Generator) -> Draw:
        """Let chance decide: always eleven numbers, in this order."""
        u = rng.random(10)
        return Draw(
            angle=self.rotation * (2 * u[0] - 1),
            flip_rows=u[1] < self.vertical_flip,
            flip_cols=u[2] < self.horizontal_flip,
            elastic=self.elastic_alpha > 0 and u[3] < self.elastic_probability,
            crop_on_lesion=u[4] < self.crop_foreground,
            pixel=u[5],
            place=(u[6], u[7]),
            brightness=self.brightness * (2 * u[8] - 1),
            contrast=1 + self.contrast * (2 * u[9] - 1),
            noise_seed=int(rng.integers(2**63)),
        )


def check_pair(image: NDArray, target: NDArray, crop_size: int | None) -> None:
    """Raise ValueError where the pair is not an image in [0, 1] with its target in {0, 1} or in 0..K."""
    if np.ndim(image) != 2 or np.shape(image) != np.shape(target) or 0 in np.shape(image):
        raise ValueError(
            f"Augmentation: image of shape {np.shape(image)}, target of shape {np.shape(target)}; both "
            f"should be one slice, (H, W), without a channel axis."
        )
    if image.dtype != np.float32 or target.dtype != np.uint8:
        raise ValueError(
            f"Augmentation: image is {image.dtype}, target {target.dtype}; they should be float32 and uint8, "
            f"so convert them with .astype."
        )
    if not (image.min() >= 0 and image.max() <= 1):  # also true of NaN
        raise ValueError(
            f"Augmentation: image runs from {image.min()} to {image.max()}; it should lie in [0, 1], so "
            f"divide 8-bit grey by 255 first."
        )
    if target.max() == 255:  # no class: lesion in a mask as it lies on the disk
        raise ValueError(
            "Augmentation: target holds 255; it should be 0 or 1, as (target > 0) is, or hold classes 1 to 254."
        )
    if crop_size is not None and crop_size > min(image.shape):
        raise ValueError(
            f"Augmentation: crop_size={crop_size} does not fit into the {image.shape[0]} x {image.shape[1]} "
            f"image; choose a smaller crop, or pad the image first."
        )


def input_from_output(angle: float, flip_rows: bool, flip_cols: bool) -> NDArray[np.float64]:
    """The (2, 2) matrix from an output pixel's offset from the centre (row, column) to its input's.

    The output is the input flipped, then turned by `angle` degrees counter-clockwise as seen on the screen,
    where rows count downwards. We need the way back, since each output pixel asks where it comes from.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    flip = np.diag([-1.0 if flip_rows else 1.0, -1.0 if flip_cols else 1.0])
    return flip @ np.array([[cos, sin], [-sin, cos]])


def sampling_coordinates(
    shape: tuple[int, int],
    size: tuple[int, int],
    matrix: NDArray,
    origin: tuple[float, float],
    displacement: NDArray | None,
) -> NDArray[np.float32]:
    """Where in the input each output pixel is read: centre + matrix @ (pixel + displacement - centre).

    Args:
        shape: (H, W) of the input. Its centre stays where it is.
        size: (h, w) of the output, a window of the transformed picture.
        matrix: (2, 2), of `input_from_output`.
        origin: row and column of the window's first pixel.
        displacement: (2, h, w) in pixels, or None.

    Returns:
        (2, h, w): rows, then columns, in pixels of the input.
    """
    centre = [(n - 1) / 2 for n in shape]
    rows = np.arange(size[0], dtype=np.float32)[:, None] + float(origin[0] - centre[0])  # (h, 1)
    cols = np.arange(size[1], dtype=np.float32)[None, :] + float(origin[1] - centre[1])  # (1, w)
    if displacement is not None:
        rows, cols = rows + displacement[0], cols + displacement[1]  # (h, w) each
    coordinates = np.empty((2, *size), np.float32)
    for axis, (from_rows, from_cols) in enumerate(matrix.tolist()):
        np.add(from_rows * rows, from_cols * cols, out=coordinates[axis])
        coordinates[axis] += centre[axis]
    return coordinates


def crop_origin(
    target: NDArray, size: tuple[int, int], matrix: NDArray, displacement: NDArray | None, draw: Draw
) -> tuple[float, float]:
    """First row and column of the crop window of `size`, in the flipped and turned picture.

    A window on a lesion puts one lesion pixel, drawn among those still in the picture, exactly on a pixel of
    the window, so that not even a lesion of one pixel is lost in resampling. For that the origin may lie
    between pixels and, by the displacement, a few pixels outside.
    """
    room = np.array(target.shape) - size  # rows and columns that the window can move
    if not room.any():
        return 0.0, 0.0
    if draw.crop_on_lesion:
        last = np.array(target.shape) - 1
        lesion = np.argwhere(target) - last / 2  # (n, 2), offsets from the centre
        lesion = lesion @ matrix + last / 2  # forward: a rotation's inverse is its transpose
        lesion = lesion[((lesion >= 0) & (lesion <= last)).all(axis=1)]
        if len(lesion):
            pixel = lesion[int(draw.pixel * len(lesion))]  # (2,)
            low = np.maximum(0, np.floor(pixel) - room)  # from here to `high` it may fall in the window
            high = np.minimum(np.array(size) - 1, np.floor(pixel))
            row, col = (low + np.floor(np.multiply(draw.place, high - low + 1))).astype(int)
            shift = 0 if displacement is None else displacement[:, row, col]
            return tuple(pixel - (row, col) - shift)
    return tuple(np.floor(np.multiply(draw.place, room + 1)))


def exact_crop(array: NDArray, size: tuple[int, int], origin: tuple[float, float], draw: Draw) -> NDArray:
    """Flip (H, W), then cut out (h, w): whole pixels, moved but never mixed."""
    flipped = array[:: -1 if draw.flip_rows else 1, :: -1 if draw.flip_cols else 1]
    top, left = (int(first) for first in origin)
    return flipped[top : top + size[0], left : left + size[1]].copy()


def adjust(image: NDArray[np.float32], brightness: float, contrast: float) -> NDArray[np.float32]:
    """Spread grey values about their mean by `contrast`, add `brightness`, clip to [0, 1]; in place."""
    offset = brightness + (1 - contrast) * float(image.mean())
    image *= np.float32(contrast)
    image += np.float32(offset)
    return np.clip(image, 0, 1, out=image)
