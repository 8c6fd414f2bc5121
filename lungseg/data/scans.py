"""Whatever holds CT, to look at it: a file or folder of any kind we know gives its slices or volumes in HU.

    slice.png           8-bit or 16-bit grey, in a HU window that the reader must be told
    a folder            of slices or volumes as trainings read them (masks may be missing), or of such PNGs
    scan.npy            HU: one slice (H, W) or a volume (D, H, W)
    scan.npz            a volume as `hu` (D, H, W), with `target`, `spacing_mm` if known; or a folder of these .npy
    table.pkl           a pickled table of slices, .pkl or .pkl.gz

Trainings read `lungseg.data.slices` and `lungseg.data.volumes`, which insist on targets, splits and patients.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungseg.data.classes import read_classes
from lungseg.data.ct import grey_to_hu
from lungseg.data.manifest import (
    ImageRecord,
    find_member,
    manifest_path,
    other_files,
    pictures,
    read_manifest,
    visible,
)
from lungseg.data.pickles.table import read_table
from lungseg.data.plausible import slices_of
from lungseg.data.prepare.columns import SPACING_COLUMNS, find_column, parse_spacing
from lungseg.data.slices import grey_bits, read_grey_png, read_slice
from lungseg.data.volume_file import check_sums, map_file, read_volume
from lungseg.data.volumes import volume_path


@dataclass(frozen=True, eq=False)
class Scan:
    """One slice or one volume."""

    id: str  # of its manifest, else made of the name of its file
    hu: NDArray  # (H, W) or (D, H, W), finite whole or real numbers; of a volume often mapped from its file
    target: NDArray | None = None  # the shape of hu, lesion where it is not 0; None = unknown
    spacing_mm: tuple[float, ...] | None = None  # of a pixel along each side of hu; None = unknown
    from_grey: bool = False  # hu was made from the grey levels of a PNG
    source_size: tuple[int, int] | None = None  # (H, W) of the slice it was made from, its own if it is one
    classes: tuple[str, ...] = ()  # names of the target's values 1..K; () = it says no more than lesion or not
    geometry: dict[str, NDArray] = field(default_factory=dict)  # of a volume: where it lies, as its file says it

    def __post_init__(self) -> None:
        if self.target is not None and np.shape(self.target) != self.hu.shape:
            shapes = np.shape(self.target), self.hu.shape
            raise ValueError(
                f"{self.id}: target has shape {shapes[0]} but hu has {shapes[1]}. Export both on one grid."
            )


def read_scans(
    path: str | Path,
    hu_window: tuple[float, float],
    *,
    rows: Sequence[int] | None = None,
    column: str = "hu_array_old",
) -> Iterator[Scan]:
    """The slices and volumes of a file or folder, one at a time: only a table is read as a whole.

    Args:
        path: any of the kinds above.
        hu_window: (low, high) in HU of PNGs that come without a manifest: what their black and white mean.
        rows: of a table: only these, in this order, counted from 0; None takes all.
        column: of a table: the one with HU. Targets are taken from `mask`.

    Raises:
        ValueError: in one sentence that names the file, when its turn comes: what precedes it has been given by then.
    """
    path = Path(path)
    kind = input_kind(path)
    if kind == "slices":
        yield from read_slice_folder(path)
    elif kind == "volumes":
        for record in read_records(path, "volumes"):
            yield replace(read_one_volume(volume_path(path, record), record.id), classes=read_classes(path))
    elif kind == "volume":
        yield read_one_volume(path, input_name(path))
    elif kind == "table":
        yield from read_table_rows(path, rows, column)
    elif kind == "array":
        yield read_numpy_file(path)
    else:
        yield from read_pngs(pictures(path) if kind == "pngs" else [path], hu_window)


def input_kind(path: str | Path) -> str:
    """What `read_scans` would take it for, from its name and what lies in it; no file is opened.

    Returns:
        Of a folder "slices", "volumes", "volume" (it holds hu.npy) or "pngs"; of a file "png", "array" or "table".

    Raises:
        ValueError: if it is missing, or none of these.
    """
    path = Path(path)
    if path.is_dir():
        names = {p.name if p.is_dir() else p.name.lower() for p in visible(path)}
        for kind, there in (("slices", "images"), ("volumes", "volumes"), ("volume", "hu.npy")):
            if there in names:
                return kind
        if pictures(path):
            return "pngs"
        others = other_files(path, "PNG (8-bit or 16-bit grey)")
        raise ValueError(
            f"{path} holds neither images/ nor volumes/ nor *.png{others}. Give a folder of slices or volumes."
        )
    if not path.exists():
        raise ValueError(f"{path} does not exist. Give a slice, a volume, a table, or a folder of these.")
    for kind, ends in (("png", (".png",)), ("array", (".npy", ".npz")), ("table", (".pkl", ".pkl.gz"))):
        if path.name.lower().endswith(ends):
            return kind
    raise ValueError(f"{path} ends neither in .png, .npy, .npz, .pkl nor .pkl.gz. Convert it to one of these.")


def input_name(folder: str | Path) -> str:
    """The last part of its path; of "." and "..", which have none, that of the folder they stand for."""
    path = Path(folder)
    return path.name if path.name not in ("", "..") else path.resolve().name or "root"


# ---- one kind each -----------------------------------------------------------------------------------------------


def read_pngs(files: list[Path], hu_window: tuple[float, float]) -> Iterator[Scan]:
    """PNGs of 8 or 16 bits, in the HU window and with the spacing of their folder's manifest where there is one."""
    home = files[0].parent
    known = {}
    if home.name == "images" and manifest_path(home.parent).exists():
        known = {find_member(home, record.id): record for record in read_records(home.parent, "slices")}
    for file in files:
        record = known.get(file)
        window = hu_window if record is None else (record.hu_low, record.hu_high)
        bits = grey_bits(file) if record is None else record.bits
        spacing = None if record is None or not math.isfinite(record.spacing_mm) else (record.spacing_mm,) * 2
        hu = grey_to_hu(read_grey_png(file, bits), window, bits)
        source_size = None if record is None else record.source_size
        yield Scan(file.stem, hu, None, spacing, from_grey=True, source_size=source_size)


def read_slice_folder(folder: Path) -> Iterator[Scan]:
    """A folder of slices; targets where there are any."""
    classes = read_classes(folder)
    for record in read_records(folder, "slices"):
        if find_member(folder / "masks", record.id).exists():
            grey, target = read_slice(folder, record, classes)
        else:
            grey, target = read_grey_png(find_member(folder / "images", record.id), record.bits), None
        spacing = (record.spacing_mm,) * 2 if math.isfinite(record.spacing_mm) else None
        hu = grey_to_hu(grey, (record.hu_low, record.hu_high), record.bits)
        yield Scan(record.id, hu, target, spacing, from_grey=True, source_size=record.source_size, classes=classes)


def read_records(folder: Path, kind: str) -> list[ImageRecord]:
    """`read_manifest` without its warning that training and test may share patients: nothing is trained here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read_manifest(folder, kind)


def read_one_volume(path: Path, id_: str) -> Scan:
    """All of it will be looked at, so that a changed voxel is to be noticed, too."""
    volume = read_volume(path)
    check_sums(path)
    spacing = volume.spacing_mm if np.isfinite(volume.spacing_mm).all() else None
    about = {"source_size": volume.hu.shape[1:], "geometry": volume.geometry}
    return Scan(id_, check_hu(path, volume.hu), volume.target, spacing, **about)


def read_numpy_file(path: Path) -> Scan:
    """A .npz with a volume, or a .npy with a volume or a single slice."""
    try:
        hu = map_file(path, "hu") if path.suffix.lower() == ".npy" else None
    except (ValueError, OSError):
        hu = None  # read_volume says what is wrong with the file
    if hu is None or hu.ndim == 3:
        return read_one_volume(path, path.stem)
    if hu.ndim != 2:
        raise ValueError(f"{path} has shape {hu.shape}, (H, W) of a slice or (D, H, W) of a volume is wanted.")
    return Scan(path.stem, check_hu(path, hu), source_size=hu.shape)


def read_table_rows(path: Path, rows: Sequence[int] | None, column: str) -> Iterator[Scan]:
    """The chosen rows of a pickled table."""
    table = read_table(path, required=(column,), judged=False)
    hus = table[column]
    targets = table.get("mask", [None] * len(hus))
    rows = range(len(hus)) if rows is None else rows
    for row in rows:  # all of them before the first is looked at, which may take a minute
        if not 0 <= row < len(hus):
            raise ValueError(f"{path} has rows 0 to {len(hus) - 1}, and row {row} is asked for. Count from 0.")
        if not isinstance(hus[row], np.ndarray):
            raise ValueError(f"{path}: column {column!r} holds no HU, but {hus[row]!r:.40}. Choose another column.")
    spacings = table.get(find_column(table, SPACING_COLUMNS), [math.nan] * len(hus))
    for row in rows:
        where, hu = f"{path}, row {row}", hus[row]
        try:
            spacing = parse_spacing(spacings[row])
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        known = None if math.isnan(spacing) else (spacing, spacing)
        id_ = f"{path.name.split('.')[0]}_row{row:04d}"
        yield Scan(id_, check_hu(where, hu), targets[row], known, source_size=hu.shape)


def check_hu(where: Path | str, hu: NDArray) -> NDArray:
    """The same, or a ValueError if these cannot be HU."""
    if hu.dtype.kind not in "iuf":
        raise ValueError(f'{where}: HU are plain numbers, got {hu.dtype}. Save them with .astype("int16").')
    if hu.size == 0:
        raise ValueError(f"{where}: no HU are there, the shape is {hu.shape}. Export it again.")
    if gaps := sum(np.count_nonzero(~np.isfinite(part)) for part in slices_of(hu) if part.dtype.kind == "f"):
        raise ValueError(f"{where}: {gaps} of {hu.size} HU are NaN or infinite. Fill gaps with -1000, for air.")
    return hu
