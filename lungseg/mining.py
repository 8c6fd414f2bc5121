"""Windows without a lesion, to learn from: anywhere in the body, and where a trained network is wrong.

A window is a square of one slice of a scan in which no reader outlined anything. It is cut at the scale of the training
files, so that a folder of windows can be added to them (`lungseg.training.negatives`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungseg.data.classes import read_classes
from lungseg.data.ct import grey_to_hu, hu_to_grey, resize_image
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import read_slice
from lungseg.data.volume_file import read_labelled
from lungseg.data.volumes import volume_path
from lungseg.lungs import lung_mask
from lungseg.predictor import Predictor

NEAR_SLICES = 3  # windows fewer slices apart, and less than half a side along both axes, show nearly the same place
TRIES = 20  # random positions tried for one window, in one slice
ROUNDS = 5  # in which slices are drawn for the windows that found no place before


@dataclass(frozen=True, eq=False)
class Source:
    """A scan to cut windows from. A single slice is a scan of one."""

    record: ImageRecord
    hu: NDArray  # (D, H, W)
    seen: NDArray[np.bool_]  # (D, H, W), outlined by at least one reader
    pixel_mm: tuple[float, float]  # rows, columns; NaN is unknown
    source_size: tuple[int, int] | None  # (H, W) of the slice before any resizing; None is unknown
    lungs: NDArray[np.bool_] | None = None  # (D, H, W); None: windows may be anywhere in the body


class Window(NamedTuple):
    """Where to cut, in pixels of the scan."""

    z: int
    top: int
    left: int
    row: int  # what it is meant to show: a pixel of it
    col: int
    score: float = math.nan  # highest probability of the false positive there; NaN: it was chosen at random


# ---- reading and cutting ----------------------------------------------------------------------------------------


def read_source(folder: Path, record: ImageRecord, *, lungs: bool = False) -> Source:
    """A volume or a slice of a folder. Seen is what is lesion in its target, or has a vote where the volume has votes.

    Args:
        lungs: also find the lungs, for windows in them only.

    Raises:
        ValueError: in one sentence, if the file cannot be read, or if there are no lungs in it.
    """
    source = read_whole(folder, record)
    if not lungs:
        return source
    if not np.isfinite(source.pixel_mm).all():
        raise ValueError(f"{record.id}: the lungs cannot be found without the size of a pixel. Add spacing_mm.")
    found = lung_mask(source.hu, (math.nan, *source.pixel_mm))
    if not found.any():
        raise ValueError(f"{record.id}: there is no lung in it. Give whole slices, or leave out --lungs.")
    return replace(source, lungs=found)


def read_whole(folder: Path, record: ImageRecord) -> Source:
    """`read_source` without the lungs."""
    if held_kind(folder) == "volumes":
        volume = read_labelled(volume_path(folder, record))
        hu, seen = np.asarray(volume.hu), np.asarray(volume.target) > 0
        if volume.votes is not None:
            seen |= np.asarray(volume.votes) > 0
        return Source(record, hu, seen, volume.spacing_mm[1:], (hu.shape[1], hu.shape[2]))
    grey, target = read_slice(folder, record, read_classes(folder))
    hu = grey_to_hu(grey, (record.hu_low, record.hu_high), record.bits)
    return Source(record, hu[None], target[None] > 0, (record.spacing_mm, record.spacing_mm), record.source_size)


def window_sides(predictor: Predictor, source: Source, size: int) -> tuple[tuple[float, ...], tuple[int, int]]:
    """The scale at which the network sees a scan; and how many of its pixels, rows and columns, a window is.

    Args:
        size: side of a window in pixels of the training files.

    Raises:
        ValueError: if the network takes volumes or stretched slices, or if the window is larger than the slices.
    """
    if predictor.spatial_dims == 3:
        raise ValueError("the network was trained on volumes, and windows are slices. Give a 2-D network.")
    if predictor.input.stretched:
        raise ValueError(
            "the network was trained on slices of several sizes, all stretched to one, so a window has no scale. "
            "Train on files of one size first."
        )
    shape = source.hu.shape[1:]
    scale, _ = predictor.scale_for(shape, source.pixel_mm, source.source_size)
    rows, cols = (round(size * f / s) for f, s in zip(predictor.input.scale, scale, strict=True))
    if rows > shape[0] or cols > shape[1]:
        raise ValueError(
            f"{source.record.id}: a window of {rows} x {cols} pixels does not fit into slices of {shape[0]} x "
            f"{shape[1]}. Choose a smaller --size."
        )
    return scale, (rows, cols)


def cut(source: Source, window: Window, sides: tuple[int, int], size: int, hu_window: tuple[float, float]) -> NDArray:
    """(size, size) uint8: the grey levels of a window."""
    hu = source.hu[window.z, window.top : window.top + sides[0], window.left : window.left + sides[1]]
    grey = hu_to_grey(hu, hu_window)
    return grey if grey.shape == (size, size) else resize_image(grey, (size, size))


# ---- choosing ---------------------------------------------------------------------------------------------------


def body_mask(hu: NDArray) -> NDArray[np.bool_]:
    """(H, W), where the body is, with its lungs: tissue without thin parts, such as the table, and what it encloses."""
    return ndimage.binary_fill_holes(ndimage.binary_opening(hu > -400, iterations=4))


def false_positives(
    probs: NDArray, seen: NDArray[np.bool_], threshold: float = 0.5
) -> list[tuple[float, float, float]]:
    """(row, column, highest probability) of each detection in a slice (H, W) that touches nothing that was seen.

    Row and column are those of its centre of mass.
    """
    detections, num = ndimage.label(probs > threshold, np.ones((3, 3)))
    numbers = [n for n in range(1, num + 1) if n not in set(np.unique(detections[seen]))]
    middles = ndimage.center_of_mass(detections > 0, detections, numbers)
    highest = ndimage.maximum(probs, detections, numbers)
    return [(row, col, float(p)) for (row, col), p in zip(middles, highest, strict=True)]


def wrong_windows(
    probs: NDArray, seen: NDArray[np.bool_], sides: tuple[int, int], most: int, rng: np.random.Generator
) -> list[Window]:
    """Windows around the false positives of a scan, highest probability first, no two at nearly the same place.

    Args:
        probs, seen: (D, H, W).
        sides: rows and columns of a window.
        most: how many windows at most.
        rng: shifts each window by up to a third of its sides, so that what is wrong can be anywhere in it.
    """
    slices = (false_positives(*both) for both in zip(probs, seen, strict=True))
    found = [(score, z, round(row), round(col)) for z, places in enumerate(slices) for row, col, score in places]
    windows: list[Window] = []
    reach = np.floor_divide(sides, 3)
    for score, z, row, col in sorted(found, key=lambda place: -place[0]):
        if len(windows) == most:
            break
        if is_near(z, row, col, windows, sides):
            continue
        for _ in range(TRIES):
            down, right = rng.integers(-reach, reach + 1).tolist()
            top, left = corner(row + down, col + right, seen.shape[1:], sides)
            if not seen[z, top : top + sides[0], left : left + sides[1]].any():
                windows.append(Window(z, top, left, row, col, score))
                break
    return windows


def random_windows(
    source: Source, sides: tuple[int, int], num: int, rng: np.random.Generator, taken: Sequence[Window] = ()
) -> list[Window]:
    """Windows anywhere in the body, or in the lungs if the source has them.

    Every second one is centred on air inside, where vessels are.

    Args:
        taken: windows that were chosen before; no new one is at nearly the same place as one of them, or as another.

    Returns:
        `num` windows, or fewer if there is no room for more.
    """
    windows, shape = list(taken), source.hu.shape[1:]
    for _ in range(ROUNDS):
        missing = num + len(taken) - len(windows)
        for z in sorted(rng.integers(len(source.hu), size=missing).tolist()):
            body = body_mask(source.hu[z]) if source.lungs is None else source.lungs[z]
            inside = body & (source.hu[z] < -500) if len(windows) % 2 else body
            places = np.argwhere(inside if inside.any() else body)  # (n, 2)
            for row, col in rng.choice(places, TRIES).tolist() if len(places) else ():
                top, left = corner(row, col, shape, sides)
                occupied = source.seen[z, top : top + sides[0], left : left + sides[1]].any()
                if not occupied and not is_near(z, row, col, windows, sides):
                    windows.append(Window(z, top, left, row, col))
                    break
    return windows[len(taken) :]


def corner(row: int, col: int, shape: Sequence[int], sides: tuple[int, int]) -> tuple[int, int]:
    """The first row and column of a window centred on a pixel, or as nearly as the slice allows."""
    top, left = np.clip(np.subtract((row, col), np.floor_divide(sides, 2)), 0, np.subtract(shape, sides)).tolist()
    return top, left


def is_near(z: int, row: int, col: int, windows: Sequence[Window], sides: tuple[int, int]) -> bool:
    """Whether one of the windows shows nearly the same place."""
    return any(
        abs(z - w.z) < NEAR_SLICES and 2 * abs(row - w.row) < sides[0] and 2 * abs(col - w.col) < sides[1]
        for w in windows
    )


def spread(windows: Sequence[Sequence[Window]], num: int) -> list[list[Window]]:
    """Choose `num` windows of several scans: the best of each scan, then the second of each, and so on.

    Args:
        windows: those of each scan, best first.
    """
    ranked = sorted((rank, -w.score, scan) for scan, of_scan in enumerate(windows) for rank, w in enumerate(of_scan))
    taken = np.bincount([scan for _, _, scan in ranked[:num]], minlength=len(windows))
    return [list(of_scan[:n]) for of_scan, n in zip(windows, taken, strict=True)]
