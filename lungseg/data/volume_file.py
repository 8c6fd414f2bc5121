"""One volume in one file: Hounsfield units, lesion map and spacing as NumPy arrays, memory-mapped when read.

    <id>.npz                            hu (D, H, W), target (D, H, W) in {0, 1}, spacing_mm (3,)
    <id>/hu.npy, target.npy, ...        the same as a folder

It may also hold its position in the patient, in any convention: affine (4, 4), origin_mm (3,), direction (3, 3); and
its position in the scan it was cut from: source_shape (3,), crop_start (3,). These are not used, but copied into a
prediction.

A whole scan has some hundred MB, a training crop less than one. So arrays are memory-mapped: the operating system
reads from the disk only the parts in use.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungseg.data.classes import HINT, check_labels, format_values
from lungseg.data.mapped_arrays import GEOMETRY, TYPES, open_archive, open_arrays
from lungseg.data.plausible import odd_hu
from lungseg.files import whole_file

TOO_LARGE = "needs more memory than there is. Save it with np.savez, uncompressed: then only the parts in use are read."


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan. The arrays of an uncompressed file are memory-mapped: read-only, and read when they are used."""

    hu: NDArray  # (D, H, W), whole or real numbers
    target: NDArray | None  # (D, H, W) in {0, 1}, or labels 0..K of lesion classes; None if there is no lesion map
    spacing_mm: tuple[float, float, float]  # between slices, rows, columns; NaN is unknown
    geometry: dict[str, NDArray] = field(default_factory=dict)  # those of GEOMETRY in the file, unchanged
    votes: NDArray | None = None  # (D, H, W), how many readers outlined the voxel


@dataclass(frozen=True, eq=False)
class LabelledVolume(Volume):
    """A scan with its lesion map."""

    target: NDArray  # (D, H, W) in {0, 1}, or labels 0..K of lesion classes


# ---- reading -----------------------------------------------------------------------------------------------------


def read_volume(path: str | Path) -> Volume:
    """Open a volume; shapes and types are checked, values are not, which would read all of them.

    Args:
        path: an .npz file, a folder of .npy files, or one .npy file with the HU alone. Members of a compressed
            .npz (np.savez_compressed) cannot be mapped: each reading unpacks them into memory.

    Raises:
        ValueError: in one sentence, if the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    try:
        arrays = open_arrays(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Give an .npz file, an .npy file, or a folder with hu.npy.") from None
    except OSError as error:
        raise ValueError(f"{error.filename or path} cannot be read ({error.strerror or error}).") from None
    except MemoryError:
        raise ValueError(f"{path} {TOO_LARGE}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # zipfile reports damage as BadZipFile, NotImplementedError, zlib.error, ...
        raise ValueError(f"{path} is damaged or cut short ({error}). Copy or export it again.") from None
    if "hu" not in arrays:
        raise ValueError(f"{path} holds no array hu. Save the Hounsfield units (D, H, W) under that name.")
    hu, target, spacing = arrays["hu"], arrays.get("target"), arrays.get("spacing_mm", math.nan)
    try:
        check_shapes(hu, target)
        return Volume(hu, target, three_spacings(spacing), checked_geometry(arrays), arrays.get("votes"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_labelled(path: Path) -> LabelledVolume:
    """`read_volume` of a file that must hold a lesion map."""
    volume = read_volume(path)
    if volume.target is None:
        raise ValueError(f"{path} holds no array target. Save the lesion map (D, H, W) in {{0, 1}} under that name.")
    return LabelledVolume(volume.hu, volume.target, volume.spacing_mm, volume.geometry, volume.votes)


# ---- checking ----------------------------------------------------------------------------------------------------


def check_shapes(hu: NDArray, target: NDArray | None) -> None:
    """Raise a ValueError unless hu is (D, H, W) and the target has the same shape."""
    if hu.ndim != 3:
        raise ValueError(f"expected hu (D, H, W), that is slices, rows, columns, got shape {hu.shape}.")
    if target is not None and target.shape != hu.shape:
        raise ValueError(f"target has shape {target.shape} but hu has {hu.shape}. Export both on one grid.")


def three_spacings(spacing: ArrayLike) -> tuple[float, float, float]:
    """Three spacings; one number counts for all three axes. NaN is unknown."""
    values = np.asarray(spacing, dtype=np.float64).ravel()
    if values.size not in (1, 3) or not (np.isnan(values) | (values > 0) & (values < np.inf)).all():
        raise ValueError(
            f"expected spacing_mm with three positive numbers, between slices, rows, columns, "
            f"got {np.array2string(values, threshold=5)}."
        )
    slices, rows, columns = np.broadcast_to(values, 3).tolist()
    return slices, rows, columns


def checked_geometry(arrays: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    """The arrays of GEOMETRY, copied; a ValueError for those that are impossible."""
    found = {name: np.array(arrays[name]) for name in GEOMETRY if name in arrays and np.size(arrays[name]) <= 16}
    for name in set(GEOMETRY) & set(arrays):
        if name not in found or found[name].dtype.kind not in TYPES[name]:
            shape, dtype = np.shape(arrays[name]), np.asarray(arrays[name]).dtype
            raise ValueError(f"{name} holds {dtype} of shape {shape}, expected at most 16 numbers. Leave it out.")
    return found


def check_target(target: NDArray, classes: Sequence[str] = ()) -> None:
    """Raise a ValueError unless all values are 0 and 1, or 0..K for K > 1 lesion classes."""
    binary = len(classes) < 2
    if ((target == 0) | (target == 1) if binary else np.isin(target, range(len(classes) + 1))).all():
        return
    values = np.unique(target).tolist()
    if binary:
        raise ValueError(f"expected target with values 0 and 1, got {format_values(values)}. Binarise it. {HINT}")
    try:
        check_labels(values, classes)
    except ValueError as error:
        raise ValueError(f"target {error}") from None


def check_hu(hu: NDArray) -> None:
    """Raise a ValueError for NaN and infinite values."""
    if not np.isfinite(hu).all():
        raise ValueError("hu holds NaN or infinite values. Fill them with -1000, the HU of air.")


def check_sums(path: Path) -> None:
    """Raise a ValueError unless the checksums of an .npz are right. Mapped reading skips them; this reads all of it."""
    if not path.is_file() or path.suffix.lower() != ".npz":
        return
    try:
        with open_archive(path) as (_, archive):
            damaged = archive.testzip()
    except MemoryError:
        raise
    except Exception:  # zipfile reports damage in many ways
        damaged = "another member"
    if damaged:
        raise ValueError(f"{path} is damaged (the checksum of {damaged} is wrong). Copy or export it again.")


def check_volume(path: Path, classes: Sequence[str] = ()) -> LabelledVolume:
    """Read all of a volume and return it; a ValueError for the first problem that would spoil training."""
    volume = read_labelled(path)
    try:
        check_sums(path)
        # Slice by slice: a mapped volume may be larger than the memory.
        for hu, target in zip(volume.hu, volume.target, strict=True):
            check_target(target, classes)
            check_hu(hu)
        sentence = odd_hu(volume.hu)
    except MemoryError:
        raise ValueError(f"{path} {TOO_LARGE}") from None
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    if sentence:
        raise ValueError(f"{path}: {sentence}")
    return volume


# ---- writing -----------------------------------------------------------------------------------------------------


def write_volume(
    path: str | Path,
    hu: NDArray,
    target: NDArray | None,
    spacing_mm: ArrayLike,
    classes: Sequence[str] = (),
    **geometry: ArrayLike,
) -> None:
    """Write an .npz that can be mapped (uncompressed), completely or not at all.

    The file gets its name by a rename at the end, so a process that has mapped an older file keeps reading that one.

    Args:
        path: ends in .npz.
        hu: (D, H, W) Hounsfield units; int16 holds all of them.
        target: (D, H, W) in {0, 1}, stored as uint8; or None.
        spacing_mm: between slices, rows, columns; or one number for all three.
        classes: names of the lesion classes, if there are several: then the target holds labels 0..K.
        geometry: affine, origin_mm, ... (GEOMETRY), stored unchanged.

    Raises:
        ValueError: for what `read_volume` would refuse, or for impossible values.
    """
    path = Path(path)
    arrays = {"hu": np.asarray(hu), "spacing_mm": np.array(three_spacings(spacing_mm))}
    if path.suffix != ".npz" or arrays["hu"].dtype.kind not in TYPES["hu"]:
        raise ValueError(f"write_volume: got {path} and HU of {arrays['hu'].dtype}. Give an .npz name and numbers.")
    if target is not None:
        arrays["target"] = np.asarray(target)
        check_target(arrays["target"], classes)
        arrays["target"] = arrays["target"].astype(np.uint8)
    if unknown := set(geometry) - set(GEOMETRY):
        raise ValueError(
            f"write_volume: expected geometry among {', '.join(GEOMETRY)}, got {', '.join(sorted(unknown))}. Rename it."
        )
    arrays |= checked_geometry(geometry)
    check_hu(arrays["hu"])
    check_shapes(arrays["hu"], arrays.get("target"))
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub takes an array for a flag
