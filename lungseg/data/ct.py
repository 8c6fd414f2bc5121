"""CT intensities: Hounsfield units (HU) to grey levels and back, and honest changes of size.

A CT value is a physical number: air is -1000 HU, water 0, soft tissue about 40, bone above 300. One fixed
window keeps that meaning in the grey levels; stretching each image from its own minimum to its own maximum
destroys it.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

HU_WINDOW = (-1000.0, 400.0)  # lung and soft tissue; with 8 bits one grey level is 1400 / 255 = 5.5 HU


def hu_to_grey(hu: ArrayLike, window: tuple[float, float] = HU_WINDOW, bits: int = 8) -> NDArray:
    """Clip HU to a window and map it linearly to 0 .. 2**bits - 1, rounded to the nearest level.

    Args:
        hu: HU values, any shape and real dtype; NaN is refused.
        window: (low, high) in HU; low becomes 0 (black), high becomes 2**bits - 1 (white).
        bits: 8 gives uint8, 16 gives uint16.

    Raises:
        ValueError: for NaN, an empty window, or another number of bits.
    """
    low, high, levels = checked_window(window, bits)
    hu = np.asarray(hu, dtype=np.float64)
    if np.isnan(hu).any():
        raise ValueError(f"hu_to_grey: {np.isnan(hu).sum()} of {hu.size} values are NaN. Fill or drop them first.")
    grey = (np.clip(hu, low, high) - low) * (levels / (high - low))
    return np.rint(grey).astype(np.uint8 if bits == 8 else np.uint16)


def hu_to_unit(hu: ArrayLike, window: tuple[float, float] = HU_WINDOW) -> NDArray[np.float32]:
    """Clip HU to a window and map it linearly to [0, 1]: what a network takes. A volume needs no steps of grey.

    Raises:
        ValueError: for NaN or an empty window.
    """
    low, high, _ = checked_window(window, bits=8)
    hu = np.asarray(hu)
    if hu.dtype.kind == "f" and np.isnan(hu).any():
        raise ValueError(f"hu_to_unit: {np.isnan(hu).sum()} of {hu.size} values are NaN. Fill or drop them first.")
    unit = (hu.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.clip(unit, 0, 1)  # last of all: clipped HU could still become 1.0000001


def grey_to_hu(grey: ArrayLike, window: tuple[float, float] = HU_WINDOW, bits: int = 8) -> NDArray[np.float32]:
    """Undo `hu_to_grey` up to half a grey level (2.7 HU at 8 bits), and up to the clipping."""
    low, high, levels = checked_window(window, bits)
    return (low + np.asarray(grey, dtype=np.float64) * ((high - low) / levels)).astype(np.float32)


def round_hu(hu: ArrayLike) -> NDArray[np.int16]:
    """HU as int16: rounded to the nearest whole number (a cast would cut off towards 0), clipped to -1024 .. 32767.

    Nothing in a body is below air: scanners write -2000 or -3024 outside of the circle they looked at. Above 32767
    (dense metal, on an extended scale) nothing changes for a window of lung or soft tissue.

    Raises:
        ValueError: for NaN and infinite values.
    """
    hu = np.asarray(hu)
    if hu.dtype.kind == "f" and (bad := hu.size - np.count_nonzero(np.isfinite(hu))):
        raise ValueError(f"round_hu: {bad} of {hu.size} values are NaN or infinite. Fill them with -1000, for air.")
    if hu.dtype.itemsize < 4:
        hu = hu.astype(np.float32)  # exact, and holds both limits, which 8 bits do not
    return np.clip(np.rint(hu), -1024, 32767).astype(np.int16)


def checked_window(window: tuple[float, float], bits: int) -> tuple[float, float, int]:
    """(low, high, largest grey level), or a ValueError that says what is wrong."""
    low, high = window
    if not low < high:
        raise ValueError(f"the HU window must go from low to high, got {window}. Swap or widen it.")
    if bits not in (8, 16):
        raise ValueError(f"bits must be 8 or 16, the depths of a grey PNG, got {bits}.")
    return low, high, 2**bits - 1


def resize_image(image: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize intensities (H, W) to `size` = (height, width) in pixels; the dtype stays.

    Bilinear, and antialiased when shrinking: the triangle filter grows with the ratio, so that no pixel of
    the input is skipped. (Plain bilinear sampling at a quarter of the side would look at one pixel in four.)
    """
    if image.shape == tuple(size):
        return image.copy()
    height, width = size
    # Pillow names the width first. Mode F (float32) treats every dtype alike.
    resized = Image.fromarray(image.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    resized = np.asarray(resized)  # (height, width)
    return (np.rint(resized) if np.issubdtype(image.dtype, np.integer) else resized).astype(image.dtype)


def resize_target(target: NDArray, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a lesion map (H, W) of labels 0..K to `size` = (height, width): lesion where half the area is lesion.

    Two small matrices hold how much of each input row (column) each output row (column) covers; their product
    with the map is the exact lesion area of each output pixel, also where the ratio is no whole number.
    A lesion smaller than half an output pixel can vanish: count them (examples/prepare_data.py does).
    Where several classes share an output pixel, it is of the one with the most area (of equals, the lowest label). So
    where there is lesion does not depend on its classes.
    """
    rows = overlap(target.shape[0], size[0])  # (height, H)
    columns = overlap(target.shape[1], size[1])  # (width, W)

    def share(region: NDArray) -> NDArray[np.float64]:
        """(height, width): which share of each output pixel lies in the region (H, W)."""
        return rows @ region.astype(np.float64) @ columns.T

    lesion = share(target > 0) >= 0.5 - 1e-9  # 1e-9: a sum of thirds may miss one half by rounding
    labels = np.unique(target[target > 0])
    if len(labels) < 2:
        return (lesion * labels.max(initial=0)).astype(np.uint8)
    shares = np.stack([share(target == label) for label in labels]).round(9)  # (labels, height, width)
    return np.where(lesion, labels[shares.argmax(axis=0)], 0).astype(np.uint8)


def overlap(size_in: int, size_out: int) -> NDArray[np.float64]:
    """(size_out, size_in): what share of each output pixel lies on each input pixel; rows sum to 1."""
    edges = np.arange(size_out + 1) * (size_in / size_out)  # output pixel edges, in input pixels
    left = np.maximum(edges[:-1, None], np.arange(size_in))  # (size_out, size_in)
    right = np.minimum(edges[1:, None], np.arange(1, size_in + 1))  # (size_out, size_in)
    return np.maximum(right - left, 0) * (size_out / size_in)


# ---- back onto the grid of a scan that was cropped or resized before it was predicted -----------------------------


def resize_volume_target(target: NDArray, size: tuple[int, int, int]) -> NDArray[np.uint8]:
    """`resize_target` for volumes: (D, H, W) in {0, 1}, or labels 0..K, to `size` = (depth, height, width).

    Lesion where half the volume is lesion; of several labels the one with most of it (of equals, the lowest).
    """
    depth, rows, columns = (overlap(*sides) for sides in zip(target.shape, size, strict=True))
    labels = np.unique(target[target > 0])  # (L,)
    resized = np.zeros(size, np.uint8)
    for z in range(size[0] if len(labels) else 0):  # slice by slice: shares of a whole volume would need gigabytes
        shares = np.zeros((len(labels), *size[1:]))
        for below in np.flatnonzero(depth[z]):
            regions = (target[below] == labels[:, None, None]).astype(np.float64)  # (L, H, W)
            shares += depth[z, below] * (rows @ regions @ columns.T)
        lesion = shares.sum(axis=0) >= 0.5 - 1e-9
        resized[z] = np.where(lesion, labels[shares.round(9).argmax(axis=0)], 0)
    return resized


def uncrop(cut: NDArray, start: tuple[int, ...], shape: tuple[int, ...]) -> NDArray:
    """Put a map that was cut out of a larger one back: zeros (no lesion) around it.

    Args:
        cut: what was array[start[0] : ..., start[1] : ..., ...] of an array of that `shape`.

    Raises:
        ValueError: if it does not fit there.
    """
    ends = [first + side for first, side in zip(start, cut.shape, strict=True)]
    if min(start) < 0 or any(end > side for end, side in zip(ends, shape, strict=True)):
        raise ValueError(
            f"a cut of shape {cut.shape} that begins at {tuple(start)} does not lie within {tuple(shape)}. Was it "
            f"resized? Then bring it back to the size of the cut first (resize_volume_target)."
        )
    whole = np.zeros(shape, cut.dtype)
    whole[tuple(map(slice, start, ends))] = cut
    return whole
