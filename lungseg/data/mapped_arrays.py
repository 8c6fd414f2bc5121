"""NumPy files that may come from anywhere: memory-mapped, held to their own headers, and never unpickled."""

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lungseg.data.headers import recognise
from lungseg.files import regular_file

GEOMETRY = ("affine", "origin_mm", "direction", "source_shape", "crop_start")  # at most 16 numbers each
# name -> kinds of number (dtype.kind) it may hold
TYPES = {"hu": "iuf", "target": "biuf", "votes": "biuf", "spacing_mm": "iuf"}
SAVED_AS = {"hu": "int16", "target": "uint8", "votes": "uint8", "spacing_mm": "float64"}  # a sufficient type for each
TYPES |= dict.fromkeys(GEOMETRY, "iuf")
SAVED_AS |= dict.fromkeys(GEOMETRY, "float64")
GUARDED = ("target", "spacing_mm")  # optional, so a misspelled one would be lost silently
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}  # by version of the format
LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive
MAGIC = 8  # bytes at the beginning of .npy data, including the version
MAX_HEADER = 10_000  # bytes that follow, the limit of NumPy
MAX_READ = 2**20  # bytes at once
DEFLATE_RATIO = 1032


def open_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays with known names, memory-mapped where possible."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if file.suffix.lower() == ".npy" and file.name[0] != "."]
        names = recognise([file.stem for file in files], TYPES, guard=GUARDED)
        return {name: map_file(file, name) for name, file in zip(names, files, strict=True) if name in TYPES}
    if path.suffix.lower() == ".npy":
        return {"hu": map_file(path, "hu")}
    if path.suffix.lower() != ".npz":
        path.stat()  # a missing file is missing, whatever its name
        raise ValueError("expected an .npz file, an .npy file or a folder. Convert it first.")
    return map_npz(path)


def map_file(path: Path, name: str) -> NDArray:
    """The array in an .npy file."""
    with open(regular_file(path), "rb") as file:
        return map_array(file, name, path.stat().st_size)


class Bounded(io.BufferedReader):
    """A file that refuses large reads: the sizes stated in an archive may be false."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_READ:
            raise ValueError(f"its table of members is larger than {MAX_READ >> 20} MiB, too large for a volume.")
        return super().read(size)


def map_npz(path: Path) -> dict[str, NDArray]:
    """The arrays of an .npz file, which is a zip archive of .npy files.

    A member that is stored, not compressed, is in the archive byte for byte like its .npy file, so it can be mapped
    there; np.load(mmap_mode="r") silently reads it into memory instead. The table of the archive says where a member
    begins: with a local header of 30 bytes, whose last two numbers are the lengths of the name and of the extra field
    that follow (APPNOTE.TXT 4.3.7).
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
    """The file of a zip archive, and the archive."""
    with Bounded(io.FileIO(regular_file(path))) as file, zipfile.ZipFile(file) as archive:
        yield file, archive


def map_array(file: BinaryIO, name: str, end: int) -> NDArray:
    """Map the .npy data that begin at the current position of the file and must end before byte `end`."""
    shape, order, dtype = read_header(file, name, end - file.tell())
    return np.memmap(file, dtype, "r", file.tell(), shape, order)  # type: ignore[call-overload]  # any file will do


def load_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> NDArray:
    """Unpack the array of a compressed member: exactly as much as its header says.

    The file can claim any size, but DEFLATE compresses at most 1032 bytes into one.
    """
    most = member.file_size
    if member.compress_type == zipfile.ZIP_DEFLATED:
        most = min(most, DEFLATE_RATIO * member.compress_size)
    with archive.open(member) as file:
        shape, order, dtype = read_header(file, name, most)
        array = np.empty(shape, dtype, order)
        data = memoryview(array.reshape(-1, order="A" if order == "F" else "C").view(np.uint8))  # type: ignore[arg-type]
        for start in range(0, len(data), MAX_READ):
            part = data[start : start + MAX_READ]
            if file.readinto(part) < len(part):  # type: ignore[attr-defined]  # zipfile has it
                raise ValueError(
                    f"{name} is cut short: its header promises {shape} numbers. Copy or export the file again."
                )
        if file.read(1):  # at the end, this read also compares the checksum
            raise ValueError(f"{name} is longer than its header says: {shape} numbers. Copy or export the file again.")
    array.flags.writeable = False
    return array


def read_header(file: IO[bytes], name: str, most: int) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype]:
    """(shape, "C" or "F", dtype) of .npy data of at most `most` bytes; leaves the file where the numbers begin.

    NumPy would unpickle arrays of Python objects, which can run any program, so only numbers are accepted. It would
    also read a header of 4 GB before calling it too long.
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
        raise ValueError(f'{name}: expected plain numbers, got {dtype}. Save it with .astype("{SAVED_AS[name]}").')
    if min(shape, default=1) < 1:
        raise ValueError(f"{name} is empty: its shape is {shape}.")
    begin = MAGIC + len(length) + size
    if begin + math.prod(shape) * dtype.itemsize > most:  # reading its last numbers would crash
        raise ValueError(f"{name} is cut short: its header promises {shape} numbers. Copy or export the file again.")
    return shape, "F" if fortran_order else "C", dtype
