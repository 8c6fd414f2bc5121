"""Read the slices or volumes of any supported file or folder, in HU, for prediction.

    slice.png           8-bit or 16-bit grey, in a HU window that the caller must state
    a folder            of slices or volumes as training reads them (masks may be missing), or of such PNGs
    scan.npy            HU: one slice (H, W) or a volume (D, H, W)
    scan.npz            a volume as `hu` (D, H, W), with `target`, `spacing_mm` if known; or a folder of these .npy
    table.pkl           a pickled table of slices, .pkl or .pkl.gz

Training reads `lungseg.data.slices` and `lungseg.data.volumes` instead, which require targets, splits and patients.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungseg.data.classes import read_classes
from lungseg.data.ct import grey_to_hu
from lungseg.data.folder_files import find_member, manifest_path, other_files, pictures, visible
from lungseg.data.grey_png import grey_bits, read_grey_png
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.mapped_arrays import map_file
from lungseg.data.neighbours import series_indices
from lungseg.data.pickles.table import read_table
from lungseg.data.plausible import iterate_slices
from lungseg.data.prepare.columns import SPACING_COLUMNS, find_column, parse_spacing
from lungseg.data.slices import read_slice
from lungseg.data.volume_file import check_sums, read_volume
from lungseg.data.volumes import volume_path


@dataclass(frozen=True, eq=False)
class Scan:
    """One slice or one volume."""

    id: str  # from its manifest; without one, from its file name
    hu: NDArray  # (H, W) or (D, H, W), finite integers or floats; a volume is often memory-mapped
    target: NDArray | None = None  # the shape of hu, lesion where it is not 0; None = unknown
    spacing_mm: tuple[float, ...] | None = None  # between voxels along each axis of hu; None = unknown
    from_grey: bool = False  # hu was computed from the grey levels of a PNG
    source_size: tuple[int, int] | None = None  # original (H, W) of the slices, before any resizing; None = unknown
    classes: tuple[str, ...] = ()  # names of the target's values 1..K; () = lesion or not
    geometry: dict[str, NDArray] = field(default_factory=dict)  # of a volume: its position, as its file states it
    stack: NDArray | None = None  # of a slice: (2n + 1, H, W), it and its neighbours in HU; None = unknown

    def __post_init__(self) -> None:
        if self.target is not None and np.shape(self.target) != self.hu.shape:
            shape, expected = np.shape(self.target), self.hu.shape
            raise ValueError(f"{self.id}: target has shape {shape} but hu has {expected}. Export both on one grid.")


def read_scans(
    path: str | Path,
    hu_window: tuple[float, float],
    *,
    rows: Sequence[int] | None = None,
    column: str = "hu_array_old",
    neighbours: int = 0,
) -> Iterator[Scan]:
    """Yield the slices and volumes of a file or folder one at a time; only a table is read as a whole.

    Args:
        path: any of the kinds above.
        hu_window: (low, high), the HU of black and white in PNGs without a manifest.
        rows: for a table: read only these rows, counted from 0, in this order; None reads all.
        column: for a table: the column with HU. Targets are taken from `mask`.
        neighbours: for a folder of slices whose manifest has their order: how many below and above to read, too.

    Raises:
        ValueError: in one sentence that names the file, once it is reached; scans before it have been yielded by then.
    """
    path = Path(path)
    kind = input_kind(path)
    if kind == "slices":
        yield from read_slice_folder(path, neighbours)
    elif kind == "volumes":
        records, classes = read_records(path, "volumes"), read_classes(path)
        for record in records:
            yield replace(read_one_volume(volume_path(path, record), record.id), classes=classes)
    elif kind == "volume":
        yield read_one_volume(path, input_name(path))
    elif kind == "table":
        yield from read_table_rows(path, rows, column)
    elif kind == "array":
        yield read_numpy_file(path)
    else:
        yield from read_pngs(pictures(path) if kind == "pngs" else [path], hu_window)


def input_kind(path: str | Path) -> str:
    """The kind of input that `read_scans` reads a path as, from names alone: no file is opened.

    Returns:
        For a folder "slices", "volumes", "volume" (it holds hu.npy) or "pngs"; for a file "png", "array" or "table".

    Raises:
        ValueError: if it is missing, or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        names = {p.name if p.is_dir() else p.name.lower() for p in visible(path)}
        for kind, member in (("slices", "images"), ("volumes", "volumes"), ("volume", "hu.npy")):
            if member in names:
                return kind
        if pictures(path):
            return "pngs"
        others = other_files(path, "PNG (8-bit or 16-bit grey)")
        raise ValueError(
            f"{path} holds neither images/ nor volumes/ nor *.png{others}. Give a folder of slices or volumes."
        )
    if not path.exists():
        raise ValueError(f"{path} does not exist. Give a slice, a volume, a table, or a folder of slices or volumes.")
    for kind, ends in (("png", (".png",)), ("array", (".npy", ".npz")), ("table", (".pkl", ".pkl.gz"))):
        if path.name.lower().endswith(ends):
            return kind
    raise ValueError(f"expected a file that ends in .png, .npy, .npz, .pkl or .pkl.gz, got {path}. Convert it.")


def input_name(path: str | Path) -> str:
    """The last part of a path; for "." and "..", the name of the folder that they stand for."""
    path = Path(path)
    return path.name if path.name not in ("", "..") else path.resolve().name or "root"


# ---- PNGs and folders of slices ----------------------------------------------------------------------------------


def read_pngs(files: list[Path], hu_window: tuple[float, float]) -> Iterator[Scan]:
    """Yield PNGs of 8 or 16 bits; HU window and spacing come from the manifest of their folder, if there is one."""
    home = files[0].parent
    known: dict[Path, ImageRecord] = {}
    if home.name == "images" and manifest_path(home.parent).exists():
        known = {find_member(home, record.id): record for record in read_records(home.parent, "slices")}
    for file in files:
        if record := known.get(file):
            hu = grey_to_hu(read_grey_png(file, record.bits), (record.hu_low, record.hu_high), record.bits)
            spacing, source_size = square_spacing(record.spacing_mm), record.source_size
        else:
            bits = grey_bits(file)
            hu = grey_to_hu(read_grey_png(file, bits), hu_window, bits)
            spacing, source_size = None, None
        yield Scan(file.stem, hu, None, spacing, from_grey=True, source_size=source_size)


def read_slice_folder(folder: Path, neighbours: int = 0) -> Iterator[Scan]:
    """Yield the slices of a folder, with their targets where there are masks, and with their neighbours."""
    classes, records = read_classes(folder), read_records(folder, "slices")
    for record, stack in zip(records, series_indices(records, neighbours).tolist(), strict=True):
        if find_member(folder / "masks", record.id).exists():
            grey, target = read_slice(folder, record, classes)
        else:
            grey, target = read_grey_png(find_member(folder / "images", record.id), record.bits), None
        spacing = square_spacing(record.spacing_mm)
        hu = grey_to_hu(grey, (record.hu_low, record.hu_high), record.bits)
        about: dict[str, Any] = {"from_grey": True, "source_size": record.source_size, "classes": classes}
        if len(set(stack)) > 1:
            about["stack"] = read_stack(folder, [records[i] for i in stack])
        yield Scan(record.id, hu, target, spacing, **about)


def read_stack(folder: Path, records: Sequence[ImageRecord]) -> NDArray:
    """(n, H, W) HU of slices of one series."""
    greys = [read_grey_png(find_member(folder / "images", record.id), record.bits) for record in records]
    if len({grey.shape for grey in greys}) > 1:
        ids = ", ".join(record.id for record in records)
        raise ValueError(f"{folder}: the neighbours {ids} differ in size. Export a series at one size.")
    slices = zip(greys, records, strict=True)
    return np.stack([grey_to_hu(grey, (r.hu_low, r.hu_high), r.bits) for grey, r in slices])


def read_records(folder: Path, kind: str) -> list[ImageRecord]:
    """`read_manifest` without its warning that training and test may share patients: here nothing is trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return read_manifest(folder, kind)


def square_spacing(spacing_mm: float) -> tuple[float, float] | None:
    """The spacing of a slice from the side of its pixels; None if that is NaN."""
    return (spacing_mm, spacing_mm) if math.isfinite(spacing_mm) else None


# ---- volumes and arrays ------------------------------------------------------------------------------------------


def read_one_volume(path: Path, id_: str) -> Scan:
    """Read one volume and verify its checksums: all of it is going to be used, so a changed voxel must be noticed."""
    volume = read_volume(path)
    check_sums(path)
    return Scan(
        id_,
        require_hu(path, volume.hu),
        volume.target,
        volume.spacing_mm if np.isfinite(volume.spacing_mm).all() else None,
        source_size=volume.hu.shape[1:],
        geometry=volume.geometry,
    )


def read_numpy_file(path: Path) -> Scan:
    """Read an .npz with a volume, or an .npy with a volume or a single slice."""
    try:
        hu = map_file(path, "hu") if path.suffix.lower() == ".npy" else None
    except (ValueError, OSError):
        hu = None  # read_volume reports what is wrong with the file
    if hu is None or hu.ndim == 3:
        return read_one_volume(path, path.stem)
    if hu.ndim != 2:
        raise ValueError(f"{path}: expected the shape (H, W) of a slice or (D, H, W) of a volume, got {hu.shape}.")
    return Scan(path.stem, require_hu(path, hu), source_size=hu.shape)


# ---- tables ------------------------------------------------------------------------------------------------------


def read_table_rows(path: Path, rows: Sequence[int] | None, column: str) -> Iterator[Scan]:
    """Yield the chosen rows of a pickled table."""
    table = read_table(path, required=(column,), check_plausible=False)
    hus = table[column]
    targets = table.get("mask", [None] * len(hus))
    rows = range(len(hus)) if rows is None else rows
    for row in rows:  # check all rows before the first one is used, which may take a minute
        if not 0 <= row < len(hus):
            raise ValueError(f"{path}: expected rows from 0 to {len(hus) - 1}, got row {row}. Rows count from 0.")
        if not isinstance(hus[row], np.ndarray):
            raise ValueError(f"{path}: expected HU in column {column!r}, got {hus[row]!r:.40}. Choose another column.")
    spacing_column = find_column(table, SPACING_COLUMNS)
    spacings = [math.nan] * len(hus) if spacing_column is None else table[spacing_column]
    for row in rows:
        where, hu = f"{path}, row {row}", hus[row]
        try:
            spacing = square_spacing(parse_spacing(spacings[row]))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        id_ = f"{path.name.split('.')[0]}_row{row:04d}"
        yield Scan(id_, require_hu(where, hu), targets[row], spacing, source_size=hu.shape)


# ---- all kinds ---------------------------------------------------------------------------------------------------


def require_hu(where: Path | str, hu: NDArray) -> NDArray:
    """Return the array unchanged, or raise a ValueError if it cannot hold HU."""
    if hu.dtype.kind not in "iuf":
        raise ValueError(f'{where}: expected HU as plain numbers, got {hu.dtype}. Save them with .astype("int16").')
    if hu.size == 0:
        raise ValueError(f"{where}: expected HU, got an empty array of shape {hu.shape}. Export it again.")
    if gaps := sum(np.count_nonzero(~np.isfinite(part)) for part in iterate_slices(hu) if part.dtype.kind == "f"):
        raise ValueError(f"{where}: {gaps} of {hu.size} HU are NaN or infinite. Fill gaps with -1000, for air.")
    return hu


def with_spacing(scan: Scan, spacing_mm: float | None) -> Scan:
    """The scan, with the pixel size given by the user if it has none of its own."""
    if spacing_mm is None or scan.spacing_mm is not None:
        return scan
    between_slices = [math.nan] * (scan.hu.ndim - 2)
    return replace(scan, spacing_mm=(*between_slices, spacing_mm, spacing_mm))
