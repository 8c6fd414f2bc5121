"""From a folder of DICOM files to one CT volume: which files are slices, which series, in which order, in HU.

No DICOM library is imported. The caller brings a function that reads one file, such as pydicom.dcmread; what it
returns is asked for attributes by their DICOM names (`header.ImagePositionPatient`) and for `pixel_array`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungseg.data.ct import round_hu
from lungseg.data.geometry import even_step, make_affine

AIR = -1000.0  # HU
DENSEST_TISSUE = 3000.0  # HU: a "padding value" between air and this could be tissue, so it is left as it is


@dataclass(frozen=True, eq=False)
class Series:
    """One CT scan."""

    hu: NDArray[np.int16]  # (slices, rows, columns), sorted by position, as the scanner laid them out
    affine: NDArray[np.float64]  # (4, 4): index of a voxel -> mm in the patient, see lungseg.data.geometry
    slices: list[Any]  # the headers, one for each slice, in the order of hu
    notes: list[str]  # sentences: which series this is, what else was in the folder


def read_series(
    folder: str | Path, dcmread: Callable[..., Any], *, keep: Callable[[Any], bool] = lambda header: True
) -> Series:
    """The CT series with the most slices among all files below a folder, whatever their names.

    Args:
        folder: searched with all its subfolders.
        dcmread: reads a file; called as dcmread(path, stop_before_pixels=True) for its header, and as dcmread(path).
        keep: which headers to look at, such as `lambda header: header.SeriesNumber == 4`.

    Raises:
        ValueError: no slice is there, two series are equally long, slices are missing or there twice, or HU cannot be
            told; in one sentence that says what to do.
    """
    headers, skipped = [], Counter()
    for path, header in read_headers(Path(folder), dcmread):
        if reason := "no readable DICOM file" if header is None else why_not_a_slice(header):
            skipped[reason] += 1
        elif keep(header):
            headers.append((path, header))
        else:
            skipped["left out by keep"] += 1
    others = [f"Skipped, {reason}: {n}." for reason, n in skipped.items()]
    if not headers:
        raise ValueError(f"{folder} holds no CT slices. " + (" ".join(others) or "There is no file at all."))
    unique = {getattr(header, "SOPInstanceUID", None) or path: (path, header) for path, header in reversed(headers)}
    if copies := len(headers) - len(unique):
        others.append(f"Left out, copies of other files: {copies}.")
    where = str(folder)
    try:
        chosen, notes = find_longest_series(list(unique.values())[::-1])
        chosen = sort_slices(chosen)
        where = f"{folder}, {series_name(chosen[0][1])}"
        affine = stack_affine([header for _, header in chosen])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    hu = np.stack([read_hu(path, dcmread) for path, _ in chosen])  # (D, H, W)
    return Series(hu, affine, [header for _, header in chosen], [f"{where}: {len(hu)} slices.", *notes, *others])


def read_headers(folder: Path, dcmread: Callable[..., Any]) -> Iterator[tuple[Path, Any]]:
    """Each file with its header, None for what is not DICOM. Suffixes say nothing: many exports have none."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            yield path, dcmread(path, stop_before_pixels=True)
        except Exception:  # a library has its own errors for files that are something else or damaged
            yield path, None


# ---- which files -------------------------------------------------------------------------------------------------


def why_not_a_slice(header: Any) -> str:
    """Why this file cannot be a slice of a CT volume; "" if it can."""
    image_type = [str(word).upper() for word in getattr(header, "ImageType", None) or []]
    modality = getattr(header, "Modality", None)
    rescale_type = str(getattr(header, "RescaleType", None) or "HU").upper()
    if not getattr(header, "Rows", None):
        return "no image (a report, a DICOMDIR, ...)"
    if modality != "CT":
        return f"modality {modality}, not CT"
    if int(getattr(header, "NumberOfFrames", None) or 1) > 1:
        return "several frames in one file; convert it to one file for each slice"
    if int(getattr(header, "SamplesPerPixel", None) or 1) != 1:
        return "a colour picture"
    if "LOCALIZER" in image_type:
        return "a scout (localizer)"
    if not rescale_type.startswith(("HU", "US")):
        return f"values in {rescale_type}, not HU"
    if read_numbers(header, "ImagePositionPatient", 3) is None or read_numbers(header, "PixelSpacing", 2) is None:
        return "no position in the patient"
    if (orientation := read_numbers(header, "ImageOrientationPatient", 6)) is None:
        return "no position in the patient"
    along_row, along_column = orientation.reshape(2, 3)
    products = along_row @ along_row, along_column @ along_column, along_row @ along_column
    if not np.allclose(products, (1, 1, 0), atol=0.01):
        return "an orientation that is none"
    if abs(np.cross(along_row, along_column)[2]) < np.sqrt(0.5):
        return "no axial slice (a scout or a reformatted view)"
    return ""


def read_numbers(header: Any, name: str, count: int) -> NDArray[np.float64] | None:
    """An attribute of `count` finite numbers, else None."""
    try:
        values = np.array([float(v) for v in getattr(header, name, None) or []])
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def find_longest_series(headers: list[tuple[Path, Any]]) -> tuple[list[tuple[Path, Any]], list[str]]:
    """The slices of the series with most of them, and a sentence for each other series."""
    groups: dict[tuple, list] = {}
    for path, header in headers:
        directions = read_numbers(header, "ImageOrientationPatient", 6)
        key = (
            str(getattr(header, "SeriesInstanceUID", "")),
            int(header.Rows),
            int(header.Columns),
            *np.round(directions, 2).tolist(),
            *np.round(read_numbers(header, "PixelSpacing", 2), 3).tolist(),
        )  # one series may hold several scans: only slices that fit on each other are one
        groups.setdefault(key, []).append((path, header))
    (uid, *_), first = max(groups.items(), key=lambda item: len(item[1]))
    longest = [group for group in groups.values() if len(group) == len(first)]
    if len(longest) > 1:
        names = "; ".join(series_name(group[0][1]) for group in longest)
        raise ValueError(
            f"several series have {len(first)} slices: {names}. Choose with keep, for example "
            f"keep=lambda header: header.SeriesNumber == {getattr(first[0][1], 'SeriesNumber', None)}."
        )
    notes = []
    for key, group in groups.items():
        unlike = ", which have another size, spacing or direction" if key[0] == uid else ""
        if group is not first:
            notes.append(f"Not taken: {len(group)} slices of {series_name(group[0][1])}{unlike}.")
    return first, notes


def series_name(header: Any) -> str:
    """Its series, for people."""
    words = [str(getattr(header, a, None) or "") for a in ("SeriesDescription", "ConvolutionKernel")]
    return f"series {getattr(header, 'SeriesNumber', None)} ({', '.join(w for w in words if w) or 'no description'})"


# ---- in which order ----------------------------------------------------------------------------------------------


def sort_slices(slices: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Slices in the order of their positions.

    Neither file names nor InstanceNumber nor SliceLocation are reliable: what counts is where a slice lies along the
    normal of its plane.
    """
    along_row, along_column = read_numbers(slices[0][1], "ImageOrientationPatient", 6).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    return sorted(slices, key=lambda s: float(read_numbers(s[1], "ImagePositionPatient", 3) @ normal))


def stack_affine(headers: list[Any]) -> NDArray[np.float64]:
    """The affine of an array (slices, rows, columns) of sorted slices.

    PixelSpacing is (between rows, between columns), but ImageOrientationPatient begins with the direction along a row.

    Raises:
        ValueError: for one slice, and for gaps.
    """
    if len(headers) < 2:
        raise ValueError("one slice is no volume. Give the folder of the whole series.")
    positions = [read_numbers(header, "ImagePositionPatient", 3) for header in headers]  # of the first voxel
    along_row, along_column = read_numbers(headers[0], "ImageOrientationPatient", 6).reshape(2, 3)
    between_rows, between_columns = read_numbers(headers[0], "PixelSpacing", 2)
    return make_affine(positions[0], [even_step(positions), between_rows * along_column, between_columns * along_row])


# ---- in HU -------------------------------------------------------------------------------------------------------


def read_hu(path: Path, dcmread: Callable[..., Any]) -> NDArray[np.int16]:
    """(H, W) HU of one file; a ValueError names it."""
    dataset = dcmread(path)
    try:
        raw = np.asarray(dataset.pixel_array)
    except Exception as error:  # compressed pixels need a decoder, and a library has its own errors for that
        raise ValueError(f"{path}: the pixels cannot be read ({error}).") from None
    try:
        return to_hu(raw, dataset)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_hu(raw: NDArray, header: Any) -> NDArray[np.int16]:
    """HU = slope * raw + intercept, rounded; padding outside of the scanned circle becomes air.

    MONOCHROME1 needs nothing: it asks viewers to draw high values dark, the values mean the same.
    """
    slope, intercept = (getattr(header, name, None) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None:
        raise ValueError(
            "RescaleSlope or RescaleIntercept is missing, so raw numbers cannot become HU. Where you know them "
            "(often 1 and -1024), set them in the function that reads a file."
        )
    if raw.shape != (int(header.Rows), int(header.Columns)):
        raise ValueError(f"expected {header.Rows} x {header.Columns} pixels, got shape {raw.shape}.")
    hu = raw * float(slope) + float(intercept)
    if (padding := getattr(header, "PixelPaddingValue", None)) is not None:
        limit = getattr(header, "PixelPaddingRangeLimit", None)
        ends = np.array([padding, padding if limit is None else limit], np.int64)
        low, high = np.sort(ends.astype(raw.dtype))  # -2000 is often written as 63536, which are the same 16 bits
        as_hu = sorted(float(v) * float(slope) + float(intercept) for v in (low, high))
        if as_hu[1] <= AIR or as_hu[0] >= DENSEST_TISSUE:
            hu[(raw >= low) & (raw <= high)] = AIR
    return round_hu(hu)
