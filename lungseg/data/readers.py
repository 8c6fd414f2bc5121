"""Soft targets: for each pixel, the share of the readers who outlined it as lesion.

    DIR/readers/<id>.png        folder of slices: 8-bit PNG, bit k (worth 2^k) is set where reader k outlined a lesion
    votes (D, H, W)             folder of volumes, in the file of a volume: how many readers outlined the voxel
    manifest.csv, readers       how many readers there were; where it is empty, those who outlined anything there count

Training alone uses them; validation and test keep the masks.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungseg.data.ct import overlap
from lungseg.data.folder_files import find_member, manifest_path
from lungseg.data.grey_png import read_grey_png
from lungseg.data.headers import read_csv
from lungseg.data.manifest import ImageRecord
from lungseg.data.volume_file import Volume

BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # of each byte


def count_readers(folder: Path) -> dict[str, int]:
    """id -> number of readers, from the manifest's column `readers`; ids without one are left out.

    Raises:
        ValueError: if a cell is not a whole number >= 0.
    """
    path, found = manifest_path(folder), {}
    try:
        rows = read_csv(path, ("id", "readers")) if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for number, row in rows:
        text = row.get("readers", "").removesuffix(".0")  # pandas writes whole numbers so, if some cells are empty
        if text and not (text.isascii() and text.isdigit() and len(text) < 4):
            raise ValueError(f"{path}, line {number}: readers is {text!r}. Write a whole number, or leave it empty.")
        if int(text or 0):
            found[row["id"]] = int(text)
    return found


def count_readers_of_slices(folder: Path, classes: Sequence[str]) -> dict[str, int]:
    """`count_readers` of a folder that can give soft targets; a ValueError, in one sentence, for one that cannot."""
    refuse_classes(folder, classes)
    if not (folder / "readers").is_dir():
        raise ValueError(
            f"{folder} holds no folder readers/, which --soft-targets needs. Put a PNG there for each slice "
            f"(docs/data/folder.md), or leave --soft-targets out."
        )
    return count_readers(folder)


def refuse_classes(folder: Path, classes: Sequence[str]) -> None:
    if len(classes) > 1:
        raise ValueError(
            f"{folder} has {len(classes)} lesion classes, and readers' votes do not say of which class a lesion is. "
            f"Leave --soft-targets out."
        )


def read_share(
    folder: str | Path, record: ImageRecord, readers: Mapping[str, int], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """(H, W) in [0, 1]: the share of the readers who outlined each pixel of a slice.

    Args:
        readers: id -> number of readers; of a slice that is not there, those count who outlined anything.
        shape: (H, W) of its image.

    Raises:
        ValueError: if the file is missing, damaged or of another size, or more readers outlined a pixel than there
            were.
    """
    path = find_member(Path(folder, "readers"), record.id)
    bits = read_grey_png(path, 8)  # (H, W)
    if bits.shape != shape:
        sizes = [f"{height} x {width}" for height, width in (bits.shape, shape)]
        raise ValueError(f"{path} is {sizes[0]} but its image is {sizes[1]} pixels. Export both at one size.")
    outlined = BITS[np.bitwise_or.reduce(bits, axis=None)]
    try:
        return vote_share(BITS[bits], readers.get(record.id, int(outlined)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def count_readers_of_volumes(
    folder: Path, volumes: Iterable[tuple[ImageRecord, Volume]], classes: Sequence[str]
) -> dict[str, int]:
    """id -> number of readers of each volume: that of the manifest, or the most votes that a voxel has.

    Raises:
        ValueError: in one sentence, if a volume has no votes in the shape of its HU.
    """
    refuse_classes(folder, classes)
    readers = count_readers(folder)
    for record, volume in volumes:
        if volume.votes is None or volume.votes.shape != volume.hu.shape:
            there = "no array votes" if volume.votes is None else f"votes of shape {volume.votes.shape}"
            raise ValueError(
                f"{folder}: {record.id} holds {there}, and --soft-targets needs for each voxel the number of readers "
                f"who outlined it, in the shape of hu. Save it under that name, or leave --soft-targets out."
            )
        readers.setdefault(record.id, int(volume.votes.max(initial=0)))
    return readers


def vote_share(votes: NDArray, readers: int) -> NDArray[np.float32]:
    """Votes / readers, all 0 if there were none; a ValueError for more votes than readers."""
    highest = votes.max(initial=0)
    if highest > readers or votes.min(initial=0) < 0:
        raise ValueError(
            f"expected votes from 0 to {readers}, the number of readers, got {votes.min()} to {highest}. "
            f"Correct the column readers of the manifest, or leave it empty."
        )
    return (votes / max(readers, 1)).astype(np.float32)


def resize_share(share: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) to `size` = (height, width): the mean over the area of each output pixel. Nothing is rounded away."""
    rows, columns = (overlap(*sides) for sides in zip(share.shape, size, strict=True))
    return np.clip(rows @ share @ columns.T, 0, 1).astype(np.float32)
