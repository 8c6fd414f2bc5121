"""One volume, one file: Hounsfield units, lesion map and spacing as NumPy arrays, read without loading them.

    <id>.npz                            hu (D, H, W), target (D, H, W) in {0, 1}, spacing_mm (3,)
    <id>/hu.npy, target.npy, ...        the same as a folder

It may also hold where it lies in the patient, in whatever convention: affine (4, 4), origin_mm (3,), direction
(3, 3); and where in the scan that it was cut out of: source_shape (3,), crop_start (3,). Nothing is done with these,
but a prediction carries them on.

A whole scan is some hundred MB, a training patch not one. So arrays are mapped: the operating system reads from
the disk what is looked at, and nothing else.
"""

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from lungseg.data.classes import HINT, check_labels, some_of

GEOMETRY = ("affine", "origin_mm", "direction", "source_shape", "crop_start")  # at most 16 numbers each
TYPES = {"hu": "iuf", "target": "biuf", "spacing_mm": "iuf"}  # name -> the kinds of number (dtype.kind) it may hold
SAVED_AS = {"hu": "int16", "target": "uint8", "spacing_mm": "float64"}  # what to save them as; more than enough
TYPES |= dict.fromkeys(GEOMETRY, "iuf")
SAVED_AS |= dict.fromkeys(GEOMETRY, "float64")
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # by version of the format
LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan. The arrays of an uncompressed file are mapped: read-only, and read where they are looked at."""

    hu: NDArray  # (D, H, W), whole or real numbers
    target: NDArray | None  # (D, H, W) in {0, 1}, or labels 0..K of lesion classes; None = no lesion map is there
    spacing_mm: tuple[float, float, float]  # between slices, rows, columns; nan = unknown
    geometry: dict[str, NDArray] = field(default_factory=dict)  # those of GEOMETRY that are there, as they are


# ---- reading -----------------------------------------------------------------------------------------------------


def read_volume(path: str | Path) -> Volume:
    """Open a volume; shapes and types are checked, values are not (that would read all of them).

    Args:
        path: an .npz file, a folder of .npy files, or one .npy file with the HU alone. Members of a compressed
            .npz (np.savez_compressed) cannot be mapped: each reading unpacks them whole into memory.

    Raises:
        ValueError: the file is missing, damaged, or holds something else; in one sentence.
    """
    path = Path(path)
    try:
        arrays = open_arrays(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing. Give an .npz file, an .npy file, or a folder with hu.npy.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # zipfile reports damage as BadZipFile, NotImplementedError, zlib.error, ...
        raise ValueError(f"{path} is damaged or cut short ({error}). Copy or export it again.") from None
    if "hu" not in arrays:
        raise ValueError(f"{path} holds no array hu. Save the Hounsfield units (D, H, W) under that name.")
    hu, target, spacing = arrays["hu"], arrays.get("target"), arrays.get("spacing_mm", math.nan)
    try:
        check_shapes(hu, target)
        return Volume(hu, target, three_spacings(spacing), checked_geometry(arrays))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_labelled(path: Path) -> Volume:
    """`read_volume`, where a lesion map is needed."""
    volume = read_volume(path)
    if volume.target is None:
        raise ValueError(f"{path} holds no array target. Save the lesion map (D, H, W) in {{0, 1}} under that name.")
    return volume


def open_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays we know by name, mapped where that is possible."""
    if path.is_dir():
        files = {name: path / f"{name}.npy" for name in TYPES}
        return {name: map_file(file, name) for name, file in files.items() if file.exists()}
    if path.suffix.lower() == ".npy":
        return {"hu": map_file(path, "hu")}
    if path.suffix.lower() != ".npz":
        path.stat()  # a missing file is missing, whatever its name
        raise ValueError("a volume is an .npz file, an .npy file or a folder. Convert it first.")
    return map_npz(path)


def map_file(path: Path, name: str) -> NDArray:
    with open(path, "rb") as file:
        return map_array(file, name, path.stat().st_size)


def map_npz(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz file, which is a zip archive of .npy files.

    A member that is stored, not compressed, lies in the archive byte for byte as its .npy file, so it can be mapped
    there; np.load(mmap_mode="r") silently reads it into memory instead. The archive's table says where a member
    begins: with a local header of 30 bytes, whose last two numbers are the lengths of the name and of the extra field
    that follow it (APPNOTE.TXT 4.3.7).
    """
    arrays = {}
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name not in TYPES:
                continue
            if member.compress_type != zipfile.ZIP_STORED:
                arrays[name] = load_array(archive.read(member), name)
                continue
            file.seek(member.header_offset)
            header = file.read(LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
            start = file.seek(sum(lengths), os.SEEK_CUR)
            arrays[name] = map_array(file, name, min(start + member.file_size, path.stat().st_size))
    return arrays


def map_array(file: BinaryIO, name: str, end: int) -> NDArray:
    """Map the .npy data that begins at the file's position and must end before byte `end`."""
    shape, order, dtype = read_header(file, name, end)
    return np.memmap(file, dtype, "r", file.tell(), shape, order)


def load_array(data: bytes, name: str) -> NDArray:
    """The array of an .npy file given as bytes."""
    file = io.BytesIO(data)
    shape, order, dtype = read_header(file, name, len(data))
    return np.frombuffer(data, dtype, math.prod(shape), file.tell()).reshape(shape, order=order)


def read_header(file: BinaryIO, name: str, end: int) -> tuple[tuple[int, ...], str, np.dtype]:
    """(shape, "C" or "F", dtype) of .npy data; afterwards the file stands where the numbers begin.

    NumPy would unpickle arrays of Python objects, which can run any program, so nothing but numbers is let through.
    """
    try:
        shape, fortran_order, dtype = HEADERS[npy.read_magic(file)](file)
    except Exception:  # damage surfaces in the parser in many ways
        raise ValueError(f"{name} does not begin as .npy data do. Save plain numbers with np.save.") from None
    if dtype.kind not in TYPES[name]:
        raise ValueError(f'{name} holds {dtype}, plain numbers are wanted. Save it with .astype("{SAVED_AS[name]}").')
    if min(shape, default=1) < 1:
        raise ValueError(f"{name} is empty: its shape is {shape}.")
    if file.tell() + math.prod(shape) * dtype.itemsize > end:  # else looking at its last numbers would crash
        raise ValueError(f"{name} is cut short: {shape} numbers are promised. Copy or export the file again.")
    return shape, "F" if fortran_order else "C", dtype


# ---- checking ----------------------------------------------------------------------------------------------------


def check_shapes(hu: NDArray, target: NDArray | None) -> None:
    if hu.ndim != 3:
        raise ValueError(f"hu has shape {hu.shape}, (D, H, W) is wanted: slices, rows, columns.")
    if target is not None and target.shape != hu.shape:
        raise ValueError(f"target has shape {target.shape} but hu has {hu.shape}. Export both on one grid.")


def three_spacings(spacing: ArrayLike) -> tuple[float, float, float]:
    """One number is taken for all three axes; nan = unknown."""
    values = np.asarray(spacing, dtype=np.float64).ravel()
    if values.size not in (1, 3) or not (np.isnan(values) | (values > 0) & (values < np.inf)).all():
        raise ValueError(
            f"spacing_mm is {np.array2string(values, threshold=5)}, three positive mm are wanted: "
            f"between slices, rows, columns."
        )
    return tuple(np.broadcast_to(values, 3).tolist())


def checked_geometry(arrays: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    """Those of GEOMETRY, copied; a ValueError for what cannot be one."""
    found = {name: np.array(arrays[name]) for name in GEOMETRY if name in arrays and np.size(arrays[name]) <= 16}
    for name in set(GEOMETRY) & set(arrays):
        if name not in found or found[name].dtype.kind not in TYPES[name]:
            shape, dtype = np.shape(arrays[name]), np.asarray(arrays[name]).dtype
            raise ValueError(f"{name} holds {dtype} of shape {shape}, expected at most 16 numbers. Leave it out.")
    return found


def check_target(target: NDArray, classes: Sequence[str] = ()) -> None:
    """A ValueError unless all values are 0 and 1, or 0..K of K > 1 lesion classes."""
    binary = len(classes) < 2
    if ((target == 0) | (target == 1) if binary else np.isin(target, range(len(classes) + 1))).all():
        return
    values = np.unique(target).tolist()
    if binary:
        raise ValueError(f"target holds the values {some_of(values)}, only 0 and 1 are wanted. Binarise it. {HINT}")
    try:
        check_labels(values, classes)
    except ValueError as error:
        raise ValueError(f"target {error}") from None


def check_hu(hu: NDArray) -> None:
    """A ValueError for values that are no numbers."""
    if not np.isfinite(hu).all():
        raise ValueError("hu holds NaN or infinite values. Fill them with -1000, the HU of air.")


def check_volume(path: Path, classes: Sequence[str] = ()) -> None:
    """Read all of a volume; a ValueError for the first thing that would spoil a training."""
    volume = read_labelled(path)
    if path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # by the checksums, which mapped reading passes by
        except Exception:  # zipfile reports damage in many ways
            damaged = "another member"
        if damaged:
            raise ValueError(f"{path} is damaged (the checksum of {damaged} is wrong). Copy or export it again.")
    try:
        check_target(volume.target, classes)
        check_hu(volume.hu)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if volume.hu.min() >= 0:
        raise ValueError(
            f"{path}: hu holds no value below 0, but air is -1000 HU. "
            f"Apply the rescale slope and intercept of the scan first."
        )


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

    The file takes its name in one rename at the end, so who has an older one of that name mapped keeps reading that.

    Args:
        path: ends in .npz.
        hu: (D, H, W) Hounsfield units; int16 holds all of them.
        target: (D, H, W) in {0, 1}, stored as uint8; or None.
        spacing_mm: between slices, rows, columns; or one number for all three.
        classes: names of the lesion classes, if there are several: then the target holds labels 0..K.
        geometry: affine, origin_mm, ... (GEOMETRY), kept as they are.

    Raises:
        ValueError: as `read_volume` would refuse it, or for values that do not belong there.
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
        raise ValueError(f"write_volume: {', '.join(sorted(unknown))} is none of {', '.join(GEOMETRY)}. Rename it.")
    arrays |= checked_geometry(geometry)
    check_hu(arrays["hu"])
    check_shapes(arrays["hu"], arrays.get("target"))
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
