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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from lungseg.data.classes import HINT, check_labels, format_values
from lungseg.data.headers import recognise
from lungseg.data.plausible import odd_hu
from lungseg.files import regular_file, whole_file

GEOMETRY = ("affine", "origin_mm", "direction", "source_shape", "crop_start")  # at most 16 numbers each
TYPES = {"hu": "iuf", "target": "biuf", "spacing_mm": "iuf"}  # name -> the kinds of number (dtype.kind) it may hold
SAVED_AS = {"hu": "int16", "target": "uint8", "spacing_mm": "float64"}  # what to save them as; more than enough
TYPES |= dict.fromkeys(GEOMETRY, "iuf")
SAVED_AS |= dict.fromkeys(GEOMETRY, "float64")
GUARDED = ("target", "spacing_mm")  # optional, so one that is misspelled would be lost without a word
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # by version of the format
LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive
MAGIC = 8  # bytes at the beginning of .npy data, with the version
MAX_HEADER = 10_000  # bytes that follow them, as NumPy has it
MAX_READ = 2**20  # bytes at once
DEFLATE_RATIO = 1032
TOO_LARGE = "needs more memory than there is. Save it with np.savez, uncompressed: then only what is looked at is read."


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
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() == ".npy" and file.name[0] != "."]
        names = recognise([file.stem for file in files], TYPES, guard=GUARDED)
        return {name: map_file(file, name) for name, file in zip(names, files, strict=True) if name in TYPES}
    if path.suffix.lower() == ".npy":
        return {"hu": map_file(path, "hu")}
    if path.suffix.lower() != ".npz":
        path.stat()  # a missing file is missing, whatever its name
        raise ValueError("a volume is an .npz file, an .npy file or a folder. Convert it first.")
    return map_npz(path)


def map_file(path: Path, name: str) -> NDArray:
    with open(regular_file(path), "rb") as file:
        return map_array(file, name, path.stat().st_size)


class Bounded(io.BufferedReader):
    """A file of which no large part is asked for at once: what an archive says of its own size may be a trap."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_READ:
            raise ValueError(f"its table of members is larger than {MAX_READ >> 20} MiB, which no volume needs.")
        return super().read(size)


def map_npz(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz file, which is a zip archive of .npy files.

    A member that is stored, not compressed, lies in the archive byte for byte as its .npy file, so it can be mapped
    there; np.load(mmap_mode="r") silently reads it into memory instead. The archive's table says where a member
    begins: with a local header of 30 bytes, whose last two numbers are the lengths of the name and of the extra field
    that follow it (APPNOTE.TXT 4.3.7).
    """
    arrays = {}
    with open_archive(path) as (file, archive):
        members = archive.infolist()
        names = recognise([member.filename.removesuffix(".npy") for member in members], TYPES, guard=GUARDED)
        for name, member in zip(names, members, strict=True):
            if name not in TYPES:
                continue
            if member.compress_type != zipfile.ZIP_STORED:
                arrays[name] = load_array(archive, member, name)
                continue
            file.seek(member.header_offset)
            header = file.read(LOCAL_HEADER)
            lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
            start = file.seek(sum(lengths), os.SEEK_CUR)
            arrays[name] = map_array(file, name, min(start + member.file_size, path.stat().st_size))
    return arrays


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[BinaryIO, zipfile.ZipFile]]:
    with Bounded(io.FileIO(regular_file(path))) as file, zipfile.ZipFile(file) as archive:
        yield file, archive


def map_array(file: BinaryIO, name: str, end: int) -> NDArray:
    """Map the .npy data that begins at the file's position and must end before byte `end`."""
    shape, order, dtype = read_header(file, name, end - file.tell())
    return np.memmap(file, dtype, "r", file.tell(), shape, order)


def load_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NDArray:
    """Unpack the array of a compressed member: as much as its header says, and not one byte more.

    The file can claim any size, but DEFLATE packs at most 1032 bytes into one.
    """
    most = member.file_size
    if member.compress_type == zipfile.ZIP_DEFLATED:
        most = min(most, DEFLATE_RATIO * member.compress_size)
    with archive.open(member) as file:
        shape, order, dtype = read_header(file, name, most)
        array = np.empty(shape, dtype, order)
        data = memoryview(array.reshape(-1, order="A" if order == "F" else "C").view(np.uint8))
        for start in range(0, len(data), MAX_READ):
            part = data[start : start + MAX_READ]
            if file.readinto(part) < len(part):
                raise ValueError(f"{name} is cut short: {shape} numbers are promised. Copy or export the file again.")
        if file.read(1):  # at the end, this read also compares the checksum
            raise ValueError(f"{name} is longer than its header says: {shape} numbers. Copy or export the file again.")
    array.flags.writeable = False
    return array


def read_header(file: BinaryIO, name: str, most: int) -> tuple[tuple[int, ...], str, np.dtype]:
    """(shape, "C" or "F", dtype) of .npy data of at most so many bytes; then the file stands where the numbers begin.

    NumPy would unpickle arrays of Python objects, which can run any program, so nothing but numbers is let through. It
    would also read a header of 4 GB before it calls that too long.
    """
    try:
        version = npy.read_magic(file)
        length = file.read(2 if version == (1, 0) else 4)  # of the header that follows it
        size = int.from_bytes(length, "little")
        if size > MAX_HEADER:
            raise ValueError(f"a header of {size} bytes")
        header = file.read(size)
        shape, fortran_order, dtype = HEADERS[version](io.BytesIO(length + header))
    except (zipfile.BadZipFile, MemoryError):
        raise
    except Exception:  # damage surfaces in the parser in many ways
        raise ValueError(f"{name} does not begin as .npy data do. Save plain numbers with np.save.") from None
    if dtype.kind not in TYPES[name]:
        raise ValueError(f'{name} holds {dtype}, plain numbers are wanted. Save it with .astype("{SAVED_AS[name]}").')
    if min(shape, default=1) < 1:
        raise ValueError(f"{name} is empty: its shape is {shape}.")
    begin = MAGIC + len(length) + size
    if begin + math.prod(shape) * dtype.itemsize > most:  # else looking at its last numbers would crash
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
        raise ValueError(
            f"target holds the values {format_values(values)}, only 0 and 1 are wanted. Binarise it. {HINT}"
        )
    try:
        check_labels(values, classes)
    except ValueError as error:
        raise ValueError(f"target {error}") from None


def check_hu(hu: NDArray) -> None:
    """A ValueError for values that are no numbers."""
    if not np.isfinite(hu).all():
        raise ValueError("hu holds NaN or infinite values. Fill them with -1000, the HU of air.")


def check_sums(path: Path) -> None:
    """A ValueError unless the checksums of an .npz are right, which mapped reading passes by. Reads all of it once."""
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


def check_volume(path: Path, classes: Sequence[str] = ()) -> Volume:
    """Read all of a volume, and return it; a ValueError for the first thing that would spoil a training."""
    volume = read_labelled(path)
    try:
        check_sums(path)
        for hu, target in zip(volume.hu, volume.target, strict=True):  # a mapped one may be larger than the memory
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
    with whole_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)
