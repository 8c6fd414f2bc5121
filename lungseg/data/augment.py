"""Random augmentation of an image and its target: rotate, flip, scale, deform, crop, change grey values.

All geometric changes are composed into one mapping and sampled once, because each resampling blurs. Image and target
share that mapping: sampling is bilinear for the image and nearest for the target, so the target never gains a label
(0 and 1, or classes 0..K) that it did not have before. Soft targets are shares, not labels, and are sampled as images.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungseg.data.elastic import check_elastic_strength, elastic_displacement, sample_at
from lungseg.data.grey_changes import add_noise, bend_grey, blur

MOST_SCALE = 4.0  # enlarged or shrunk by more, a slice shows nothing


class Draw(NamedTuple):
    """The random decisions for one image. `lesion_pixel` and `crop_position` are uniform in [0, 1)."""

    angle: float  # degrees, counter-clockwise
    flip_rows: bool  # vertical flip: exchange top and bottom
    flip_cols: bool  # horizontal flip: exchange left and right
    elastic: bool  # whether to deform the image
    crop_on_lesion: bool  # whether the crop must contain a lesion pixel
    lesion_pixel: float  # which one, as a fraction of their number
    crop_position: tuple[float, float]  # of the crop within its allowed range: rows, columns
    brightness: float  # added grey
    contrast: float  # factor
    noise_seed: int  # of the displacement field and of the noise
    scale: float = 1.0  # factor by which the image is enlarged
    blur: float = 0.0  # standard deviation in pixels
    gamma: float = 1.0  # exponent
    noise: float = 0.0  # standard deviation in grey


@dataclass(frozen=True)
class Augmentation:
    """f(image, target, rng) -> (image, target) with the same random geometry for both; 0 switches a part off.

    Every call draws the same numbers in the same order, whatever the settings. So switching one part off, or making it
    stronger, does not change the random decisions for the others.
    """

    rotation: float = 30.0  # degrees: the angle is uniform in [-rotation, rotation], about the image centre
    horizontal_flip: float = 0.5  # probability of exchanging left and right
    vertical_flip: float = 0.5  # probability of exchanging top and bottom
    elastic_probability: float = 0.5  # of an elastic deformation
    elastic_alpha: float = 3.0  # its root-mean-square displacement along each axis, in pixels
    elastic_sigma: float = 24.0  # its smoothness, in pixels (lungseg.data.elastic)
    brightness: float = 0.05  # added grey, uniform in [-brightness, brightness]; 0.05 of the HU window is 70 HU
    contrast: float = 0.15  # factor about the image's mean, uniform in [1 - contrast, 1 + contrast]
    crop_size: int | None = None  # side of a square crop in pixels; None keeps the whole image
    crop_foreground: float = 0.0  # probability that the crop must contain a lesion pixel, if there is one
    scale_probability: float = 0.0  # of enlarging or shrinking the image about its centre
    scale: float = 1.25  # largest factor; its logarithm is uniform, from 1 / scale to scale
    blur_probability: float = 0.0
    blur: float = 1.0  # standard deviation of the Gaussian in pixels, uniform in [0, blur]
    gamma_probability: float = 0.0
    gamma: float = 1.25  # largest exponent of the grey values; its logarithm is uniform, from 1 / gamma to gamma
    noise_probability: float = 0.0
    noise: float = 0.03  # standard deviation in grey, uniform in [0, noise]; 0.03 of the HU window is 42 HU

    def __post_init__(self) -> None:
        also = [f"{part}_probability" for part in ("elastic", "scale", "blur", "gamma", "noise")]
        for name in ("horizontal_flip", "vertical_flip", "crop_foreground", *also):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Augmentation: expected a probability, 0 to 1, got {name}={getattr(self, name)}.")
        ranges = {"rotation": (0, 180), "brightness": (0, 1), "contrast": (0, 1), "blur": (0, 100), "noise": (0, 1)}
        for name, (least, most) in (ranges | {"scale": (1, MOST_SCALE), "gamma": (1, 10)}).items():
            if not least <= getattr(self, name) <= most:
                value = getattr(self, name)
                raise ValueError(f"Augmentation: expected {name} in [{least}, {most:g}], got {name}={value}.")
        check_elastic_strength(self.elastic_alpha, self.elastic_sigma)
        if self.crop_size is not None and (not isinstance(self.crop_size, int) or self.crop_size < 1):
            raise ValueError(f"Augmentation: expected a whole number >= 1 or None, got crop_size={self.crop_size}.")
        if self.crop_foreground and self.crop_size is None:
            raise ValueError("Augmentation: crop_foreground needs a crop; give crop_size as well.")

    def __call__(
        self, image: NDArray[np.float32], target: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Augment one pair, without changing the arrays given.

        Args:
            image: (H, W) float32 in [0, 1]; or (C, H, W), neighbouring slices, which are all changed alike.
            target: (H, W) uint8 in {0, 1}, or labels 0..K of lesion classes, K <= 254; or soft, float32 in [0, 1].
            rng: the only source of randomness; the same state gives the same pair.

        Returns:
            New contiguous arrays of the same types and, unless `crop_size` is given, the same shape. Outside the
            original image both are 0: air, and no lesion. Without rotation, scale and elastic deformation no pixel
            is resampled: flips and crops are exact.

        Raises:
            ValueError: if the pair is not as described, or smaller than the crop.
        """
        check_pair(image, target, self.crop_size)
        draw = self.draw(rng)
        size = target.shape if self.crop_size is None else (self.crop_size, self.crop_size)  # (h, w)
        displacement = None
        if draw.elastic:
            displacement = elastic_displacement(
                size,
                alpha=self.elastic_alpha,
                sigma=self.elastic_sigma,
                rng=np.random.default_rng(draw.noise_seed),
            )
        matrix = input_from_output(draw.angle, draw.flip_rows, draw.flip_cols) / draw.scale
        origin = crop_origin(target, size, matrix, displacement, draw)
        if draw.angle == 0 and draw.scale == 1 and displacement is None:
            image, target = (flip_and_crop(array, size, origin, draw) for array in (image, target))
        else:
            coordinates = sampling_coordinates(target.shape, size, matrix, origin, displacement)  # (2, h, w)
            soft = target.dtype == np.float32  # shares, between which one may interpolate
            image, target = sample_image(image, coordinates), sample_at(target, coordinates, order=int(soft))
        return change_grey(image, draw), target

    def draw(self, rng: np.random.Generator) -> Draw:
        """Make the random decisions: always eleven numbers of `rng`, in this order.

        The last of them starts a generator of its own for scale, blur, gamma and noise. So their numbers are drawn
        whether or not they are switched on, and `rng` is left as it was before there were such changes.
        """
        u = rng.random(10)
        noise_seed = int(rng.integers(2**63))
        v = np.random.default_rng([noise_seed, 1]).random(8)
        return Draw(
            angle=self.rotation * (2 * u[0] - 1),
            flip_rows=u[1] < self.vertical_flip,
            flip_cols=u[2] < self.horizontal_flip,
            elastic=self.elastic_alpha > 0 and u[3] < self.elastic_probability,
            crop_on_lesion=u[4] < self.crop_foreground,
            lesion_pixel=u[5],
            crop_position=(u[6], u[7]),
            brightness=self.brightness * (2 * u[8] - 1),
            contrast=1 + self.contrast * (2 * u[9] - 1),
            noise_seed=noise_seed,
            scale=self.scale ** (2 * v[1] - 1) if v[0] < self.scale_probability else 1.0,
            blur=self.blur * v[3] if v[2] < self.blur_probability else 0.0,
            gamma=self.gamma ** (2 * v[5] - 1) if v[4] < self.gamma_probability else 1.0,
            noise=self.noise * v[7] if v[6] < self.noise_probability else 0.0,
        )


def check_pair(image: NDArray, target: NDArray, crop_size: int | None) -> None:
    """Raise a ValueError unless the pair is an image in [0, 1] and its target in {0, 1} or in 0..K."""
    if np.ndim(target) != 2 or np.shape(image)[-2:] != np.shape(target) or np.ndim(image) > 3 or 0 in np.shape(image):
        raise ValueError(
            f"Augmentation: expected one slice, (H, W) without a channel axis, or (C, H, W) with its neighbours, and a "
            f"target (H, W), got an image of shape {np.shape(image)} and a target of shape {np.shape(target)}."
        )
    if image.dtype != np.float32 or target.dtype not in (np.uint8, np.float32):
        raise ValueError(
            f"Augmentation: expected float32 and uint8 (or a soft target, float32), got an image of {image.dtype} and "
            f"a target of {target.dtype}. Convert them with .astype."
        )
    if not (image.min() >= 0 and image.max() <= 1):  # also true of NaN
        raise ValueError(
            f"Augmentation: expected an image in [0, 1], got {image.min()} to {image.max()}. Divide 8-bit grey by 255 "
            f"first."
        )
    if target.dtype == np.float32 and not (target.min() >= 0 and target.max() <= 1):  # also true of NaN
        raise ValueError(f"Augmentation: expected a soft target in [0, 1], got {target.min()} to {target.max()}.")
    if target.max() == 255:  # not a class: this is how a mask file stores a lesion
        raise ValueError(
            "Augmentation: expected a target of 0 and 1, or of classes 0 to 254, got one with 255. Use (target > 0)."
        )
    if crop_size is not None and crop_size > min(target.shape):
        raise ValueError(
            f"Augmentation: crop_size={crop_size} does not fit into the {target.shape[0]} x {target.shape[1]} image. "
            f"Choose a smaller crop, or pad the image first."
        )


def input_from_output(angle: float, flip_rows: bool, flip_cols: bool) -> NDArray[np.float64]:
    """The (2, 2) matrix that maps the offset (row, column) of an output pixel from the centre to that of its input.

    The output is the input flipped, then rotated by `angle` degrees counter-clockwise as seen on the screen, where rows
    count downwards. Sampling needs the inverse, because it looks up where each output pixel comes from.
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
    """The position in the input of each output pixel: centre + matrix @ (pixel + displacement - centre).

    Args:
        shape: (H, W) of the input. Its centre is the fixed point.
        size: (h, w) of the output, a crop of the transformed image.
        matrix: (2, 2), from `input_from_output`, divided by the scale.
        origin: row and column of the first pixel of the crop.
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
    """Find the first row and column of a crop of `size`, in the flipped, rotated and scaled image.

    A crop on a lesion puts one lesion pixel, drawn by `choose_pixel` from those still in the image, exactly on a pixel
    of the crop, so that even a lesion of a single pixel survives the resampling. The origin may therefore be between
    pixels and, due to the displacement, a few pixels outside.
    """
    room = np.array(target.shape) - size  # rows and columns by which the crop can move
    if not room.any():
        return 0.0, 0.0
    if draw.crop_on_lesion:
        last = np.array(target.shape) - 1
        pixels = np.argwhere(target)  # (n, 2)
        # To the output: the inverse of a rotation is its transpose, and the scale is undone.
        moved = (pixels - last / 2) @ (matrix * draw.scale**2) + last / 2
        inside = ((moved >= 0) & (moved <= last)).all(axis=1)
        if inside.any():
            pixel = moved[inside][choose_pixel(target, pixels[inside], draw.lesion_pixel)]  # (2,)
            low = np.maximum(0, np.floor(pixel) - room)  # the pixel may be at `low` to `high` within the crop
            high = np.minimum(np.array(size) - 1, np.floor(pixel))
            row, col = (low + np.floor(np.multiply(draw.crop_position, high - low + 1))).astype(int)
            shift = 0 if displacement is None else displacement[:, row, col]
            return tuple(pixel - (row, col) - shift)
    return tuple(np.floor(np.multiply(draw.crop_position, room + 1)))


def choose_pixel(target: NDArray, pixels: NDArray, number: float) -> int:
    """Which of the pixels (n, 2) of the target to choose: first a class, then one of its lesions, then a pixel of it.

    So a small lesion is seen as often as a large one, and a rare class as often as a common one. `number`, uniform in
    [0, 1), makes all three decisions.
    """
    classes = target[tuple(pixels.T)]  # (n,)
    k, number = draw_one(np.unique(classes), number)
    components, _ = ndimage.label(target == k, np.ones((3, 3)))  # (H, W): a lesion is connected also at corners
    lesions = components[tuple(pixels.T)]  # (n,), 0 in the other classes
    lesion, number = draw_one(np.unique(lesions[lesions > 0]), number)
    return draw_one(np.flatnonzero(lesions == lesion), number)[0]


def draw_one(options: NDArray, number: float) -> tuple[int, float]:
    """One of the options (n,) by a number uniform in [0, 1); and what is left of it, again uniform in [0, 1)."""
    place = number * len(options)
    return int(options[int(place)]), place - int(place)


def sample_image(image: NDArray[np.float32], coordinates: NDArray) -> NDArray[np.float32]:
    """(H, W) or (C, H, W) at the coordinates (2, h, w), bilinear: each channel at the same ones."""
    if image.ndim == 2:
        return sample_at(image, coordinates, order=1)
    return np.stack([sample_at(channel, coordinates, order=1) for channel in image])


def flip_and_crop(array: NDArray, size: tuple[int, int], origin: tuple[float, float], draw: Draw) -> NDArray:
    """Flip (..., H, W), then crop (..., h, w), without any resampling."""
    flipped = array[..., :: -1 if draw.flip_rows else 1, :: -1 if draw.flip_cols else 1]
    top, left = (int(first) for first in origin)
    return flipped[..., top : top + size[0], left : left + size[1]].copy()


def change_grey(image: NDArray[np.float32], draw: Draw) -> NDArray[np.float32]:
    """All changes of the grey values of an image (..., H, W); the array given may be changed.

    Blur comes first and noise last, so that noise has the strength that was drawn.
    """
    image = adjust_grey(blur(image, draw.blur), draw.brightness, draw.contrast)
    noise_rng = np.random.default_rng([draw.noise_seed, 2])
    return add_noise(bend_grey(image, draw.gamma), draw.noise, noise_rng)


def adjust_grey(image: NDArray[np.float32], brightness: float, contrast: float) -> NDArray[np.float32]:
    """Scale grey values about their mean by `contrast`, add `brightness`, and clip to [0, 1], in place."""
    offset = brightness + (1 - contrast) * float(image.mean())
    image *= np.float32(contrast)
    image += np.float32(offset)
    return np.clip(image, 0, 1, out=image)
