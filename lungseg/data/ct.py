"""CT intensities: Hounsfield units (HU) to grey levels and back, and resizing that keeps lesions in register.

A CT value is a physical quantity: air is -1000 HU, water 0, soft tissue about 40, bone above 300. One fixed HU window
keeps that meaning in the grey levels; stretching each image from its own minimum to its own maximum destroys it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

HU_WINDOW = (-1000.0, 400.0)  # lung and soft tissue; with 8 bits one grey level is 1400 / 255 = 5.5 HU


def hu_to_grey(hu: ArrayLike, hu_window: tuple[float, float] = HU_WINDOW, bits: int = 8) -> NDArray:
    """Clip HU to an HU window and map it linearly to 0 .. 2**bits - 1, rounded to the nearest level.

    Args:
        hu: HU values of any shape and real dtype; NaN is refused.
        hu_window: (low, high) in HU; low becomes 0 (black), high becomes 2**bits - 1 (white).
        bits: 8 gives uint8, 16 gives uint16.

    Raises:
        ValueError: for NaN, an empty HU window, or another number of bits.
    """
    low, high, levels = checked_hu_window(hu_window, bits)
    hu = np.asarray(hu, dtype=np.float64)
    if np.isnan(hu).any():
        raise ValueError(f"hu_to_grey: {np.isnan(hu).sum()} of {hu.size} values are NaN. Fill or drop them first.")
    grey = (np.clip(hu, low, high) - low) * (levels / (high - low))
    return np.rint(grey).astype(np.uint8 if bits == 8 else np.uint16)


def hu_to_unit(hu: ArrayLike, hu_window: tuple[float, float] = HU_WINDOW) -> NDArray[np.float32]:
    """Clip HU to an HU window and map it linearly to [0, 1], the input of a network, without rounding to grey levels.

    Raises:
        ValueError: for NaN or an empty HU window.
    """
    low, high, _ = checked_hu_window(hu_window, bits=8)
    hu = np.asarray(hu)
    if hu.dtype.kind == "f" and np.isnan(hu).any():
        raise ValueError(f"hu_to_unit: {np.isnan(hu).sum()} of {hu.size} values are NaN. Fill or drop them first.")
    unit = (hu.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(unit, 0, 1)  # last: HU that were clipped first could still become 1.0000001


def grey_to_hu(grey: ArrayLike, hu_window: tuple[float, float] = HU_WINDOW, bits: int = 8) -> NDArray[np.float32]:
    """Undo `hu_to_grey`, up to its clipping and to half a grey level (2.7 HU at 8 bits)."""
    low, high, levels = checked_hu_window(hu_window, bits)
    return (low + np.asarray(grey, dtype=np.float64) * ((high - low) / levels)).astype(np.float32)


def round_hu(hu: ArrayLike) -> NDArray[np.int16]:
    """Round HU to int16 (a cast would truncate towards 0) and clip them to -1024 .. 32767.

    Nothing in a body is below air: scanners write -2000 or -3024 outside their circle of reconstruction. Clipping above
    32767 (dense metal, on an extended scale) makes no difference in an HU window of lung or soft tissue.

    Raises:
        ValueError: for NaN and infinite values.
    """
    hu = np.asarray(hu)
    if hu.dtype.kind == "f" and (bad := hu.size - np.count_nonzero(np.isfinite(hu))):
        raise ValueError(f"round_hu: {bad} of {hu.size} values are NaN or infinite. Fill them with -1000, for air.")
    if hu.dtype.itemsize < 4:
        hu = hu.astype(np.float32)  # exact, and holds both limits, which 8-bit types cannot
    return np.clip(np.rint(hu), -1024, 32767).astype(np.int16)


def checked_hu_window(hu_window: tuple[float, float], bits: int) -> tuple[float, float, int]:
    """Return (low, high, largest grey level); raise a ValueError if the HU window or the number of bits is wrong."""
    low, high = hu_window
    if not low < high:
        raise ValueError(f"expected an HU window from low to high, got {hu_window}. Swap or widen it.")
    if bits not in (8, 16):
        raise ValueError(f"expected 8 or 16 bits, the depths of a grey PNG, got {bits}.")
    return low, high, 2**bits - 1


def resize_image(image: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize intensities (H, W) to `size` = (height, width) in pixels; the dtype stays.

    Bilinear, with antialiasing when shrinking: the triangle filter widens with the ratio, so that no pixel of the input
    is skipped. (Plain bilinear sampling at a quarter of the side would use only one pixel in four.)
    """
    if image.shape == tuple(size):
        return image.copy()
    height, width = size
    picture = Image.fromarray(image.astype(np.float32))  # float32 (mode F), so that all dtypes are resized in one way
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))  # Pillow names the width first
    return (np.rint(resized) if np.issubdtype(image.dtype, np.integer) else resized).astype(image.dtype)


def resize_target(target: NDArray, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a lesion map (H, W) of labels 0..K to `size` = (height, width): lesion where half the area is lesion.

    Two small matrices hold how much of each input row (column) each output row (column) covers. Their product with the
    map is the exact lesion area of each output pixel, also where the ratio is not a whole number. A lesion smaller than
    half an output pixel can vanish, so count the lesions before and after. An output pixel with several classes gets
    the one with the largest area (the lowest label in a tie). So the lesion outline does not depend on the classes.
    """
    rows = overlap(target.shape[0], size[0])  # (height, H)
    columns = overlap(target.shape[1], size[1])  # (width, W)

    def covered(region: NDArray) -> NDArray[np.float64]:
        """(height, width): the fraction of each output pixel that is inside the region (H, W)."""
        return rows @ region.astype(np.float64) @ columns.T

    lesion = covered(target > 0) >= 0.5 - 1e-9  # 1e-9: rounding may make a sum of thirds slightly less than one half
    labels = np.unique(target[target > 0])
    if len(labels) < 2:
        return (lesion * labels.max(initial=0)).astype(np.uint8)
    areas = np.stack([covered(target == label) for label in labels]).round(9)  # (labels, height, width)
    return np.where(lesion, labels[areas.argmax(axis=0)], 0).astype(np.uint8)


def overlap(size_in: int, size_out: int) -> NDArray[np.float64]:
    """(size_out, size_in): the fraction of each output pixel that each input pixel covers; rows sum to 1."""
    edges = np.arange(size_out + 1) * (size_in / size_out)  # output pixel edges, in input pixels
    left = np.maximum(edges[:-1, None], np.arange(size_in))  # (size_out, size_in)
    right = np.minimum(edges[1:, None], np.arange(1, size_in + 1))  # (size_out, size_in)
    return np.maximum(right - left, 0) * (size_out / size_in)


# ---- back onto the grid of a scan that was cut or resized before prediction ---------------------------------------


def resize_volume_target(target: NDArray, size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """`resize_target` for volumes: (D, H, W) in {0, 1}, or labels 0..K, to `size` = (depth, height, width).

    An output voxel is lesion where half of its volume is, of the label with the largest part (the lowest in a tie).
    """
    depth, rows, columns = (overlap(*sides) for sides in zip(target.shape, size, strict=True))
    labels = np.unique(target[target > 0])  # (L,)
    resized = np.zeros(size, np.uint8)
    for z in range(size[0] if len(labels) else 0):  # slice by slice: a whole float64 volume could need gigabytes
        fractions = np.zeros((len(labels), *size[1:]))
        for source in np.flatnonzero(depth[z]):
            regions = (target[source] == labels[:, None, None]).astype(np.float64)  # (L, H, W)
            fractions += depth[z, source] * (rows @ regions @ columns.T)
        lesion = fractions.sum(axis=0) >= 0.5 - 1e-9
        resized[z] = np.where(lesion, labels[fractions.round(9).argmax(axis=0)], 0)
    return resized


def uncrop(cut: NDArray, start: tuple[int, ...], shape: tuple[int, ...]) -> NDArray:
    """Put a map that was cut out of a larger one back into place, with zeros (no lesion) around it.

    Args:
        cut: the part array[start[0] : ..., start[1] : ..., ...] of an array of this `shape`.
        start: the first index of the part along each axis.
        shape: of the whole.

    Raises:
        ValueError: if the part does not fit there.
    """
    ends = [first + side for first, side in zip(start, cut.shape, strict=True)]
    if min(start) < 0 or any(end > side for end, side in zip(ends, shape, strict=True)):
        raise ValueError(
            f"a cut of shape {cut.shape} that begins at {tuple(start)} does not fit into {tuple(shape)}. If it was "
            f"resized, bring it back to its original size first (resize_volume_target)."
        )
    whole = np.zeros(shape, cut.dtype)
    whole[tuple(map(slice, start, ends))] = cut
    return whole
