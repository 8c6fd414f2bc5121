"""Turn a folder of DICOM files into one CT volume: find the slices, choose a series, sort it, convert it to HU.

No DICOM library is imported. The caller passes a function that reads one file, such as pydicom.dcmread. What it returns
must have attributes with DICOM names (`header.ImagePositionPatient`), and `pixel_array`.
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
DENSEST_TISSUE = 3000.0  # HU: a "padding value" between air and this could be tissue, so it is left unchanged


@dataclass(frozen=True, eq=False)
class Series:
    """One CT scan."""

    hu: NDArray[np.int16]  # (slices, rows, columns), sorted by position; not yet turned by lungseg.data.geometry.orient
    affine: NDArray[np.float64]  # (4, 4): voxel index -> mm in the patient, see lungseg.data.geometry
    slices: list[Any]  # the header of each slice, in the order of hu
    notes: list[str]  # sentences: which series this is, and what else was in the folder


def read_series(
    folder: str | Path, dcmread: Callable[..., Any], *, keep: Callable[[Any], bool] = lambda header: True
) -> Series:
    """Read the CT series with the most slices among all files below a folder.

    Args:
        folder: searched with all its subfolders; file names do not matter.
        dcmread: reads a file; called as dcmread(path, stop_before_pixels=True) for its header, and as dcmread(path).
        keep: which headers to consider, such as `lambda header: header.SeriesNumber == 4`.

    Raises:
        ValueError: if there is no slice, if two series are equally long, if slices are missing or duplicated, or if the
            HU cannot be determined; the message says what to do.
    """
    found, others = find_slices(Path(folder), dcmread, keep)
    where = str(folder)
    try:
        chosen, notes = find_longest_series(found)
        chosen = sort_slices(chosen)
        where = f"{folder}, {series_name(chosen[0][1])}"
        affine = stack_affine([header for _, header in chosen])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    hu = np.stack([read_hu(path, dcmread) for path, _ in chosen])  # (D, H, W)
    return Series(hu, affine, [header for _, header in chosen], [f"{where}: {len(hu)} slices.", *notes, *others])


# ---- which files -------------------------------------------------------------------------------------------------


def find_slices(
    folder: Path, dcmread: Callable[..., Any], keep: Callable[[Any], bool]
) -> tuple[list[tuple[Path, Any]], list[str]]:
    """Each CT slice below a folder as (path, header), copies left out, and sentences about the other files.

    Raises:
        ValueError: if there is no slice.
    """
    slices: list[tuple[Path, Any]] = []
    skipped: Counter[str] = Counter()
    for path, header in read_headers(folder, dcmread):
        if reason := "not a readable DICOM file" if header is None else why_not_a_slice(header):
            skipped[reason] += 1
        elif keep(header):
            slices.append((path, header))
        else:
            skipped["excluded by keep"] += 1
    notes = [f"Skipped, {reason}: {n}." for reason, n in skipped.items()]
    if not slices:
        raise ValueError(f"{folder} holds no CT slices. " + (" ".join(notes) or "It contains no files."))
    unique = {getattr(header, "SOPInstanceUID", None) or path: (path, header) for path, header in reversed(slices)}
    if copies := len(slices) - len(unique):
        notes.append(f"Skipped, copies of other files: {copies}.")
    return list(unique.values())[::-1], notes


def read_headers(folder: Path, dcmread: Callable[..., Any]) -> Iterator[tuple[Path, Any]]:
    """Yield each file with its header, None if it is not DICOM. Suffixes are ignored: many exports have none."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            yield path, dcmread(path, stop_before_pixels=True)
        except Exception:  # each library raises its own errors for damaged files and other formats
            yield path, None


def why_not_a_slice(header: Any) -> str:
    """The reason why this file cannot be a slice of a CT volume; "" if it can."""
    image_type = [str(word).upper() for word in getattr(header, "ImageType", None) or []]
    modality = getattr(header, "Modality", None)
    rescale_type = str(getattr(header, "RescaleType", None) or "HU").upper()
    if not getattr(header, "Rows", None):
        return "no image (a report, a DICOMDIR, ...)"
    if modality != "CT":
        return f"modality {modality}, not CT"
    if int(getattr(header, "NumberOfFrames", None) or 1) > 1:
        return "several frames in one file; convert it to one file per slice"
    if int(getattr(header, "SamplesPerPixel", None) or 1) != 1:
        return "a colour image"
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
        return "an invalid orientation"
    if abs(np.cross(along_row, along_column)[2]) < np.sqrt(0.5):
        return "not an axial slice (a scout or a reformatted view)"
    return ""


def read_numbers(header: Any, name: str, count: int) -> NDArray[np.float64] | None:
    """An attribute that consists of `count` finite numbers; None if it is missing or something else."""
    try:
        values = np.array([float(v) for v in getattr(header, name, None) or []])
    except (TypeError, ValueError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def known_numbers(header: Any, name: str, count: int) -> NDArray[np.float64]:
    """`read_numbers` for the header of a slice, where `why_not_a_slice` has checked that they are there."""
    values = read_numbers(header, name, count)
    assert values is not None
    return values


# ---- which series ------------------------------------------------------------------------------------------------


def find_longest_series(slices: list[tuple[Path, Any]]) -> tuple[list[tuple[Path, Any]], list[str]]:
    """The slices of the series that has most of them, and a sentence about each other series.

    Raises:
        ValueError: if two series are equally long.
    """
    groups: dict[tuple, list[tuple[Path, Any]]] = {}
    for path, header in slices:
        groups.setdefault(series_key(header), []).append((path, header))
    (uid, *_), chosen = max(groups.items(), key=lambda item: len(item[1]))
    longest = [group for group in groups.values() if len(group) == len(chosen)]
    if len(longest) > 1:
        names = "; ".join(series_name(group[0][1]) for group in longest)
        raise ValueError(
            f"several series have {len(chosen)} slices: {names}. Choose one with keep, for example "
            f"keep=lambda header: header.SeriesNumber == {getattr(chosen[0][1], 'SeriesNumber', None)}."
        )
    notes = []
    for key, group in groups.items():
        difference = ", which differ in size, spacing or direction" if key[0] == uid else ""
        if group is not chosen:
            notes.append(f"Not used: {len(group)} slices of {series_name(group[0][1])}{difference}.")
    return chosen, notes


def series_key(header: Any) -> tuple:
    """Equal for slices that fit on top of each other: one SeriesInstanceUID may cover several scans."""
    return (
        str(getattr(header, "SeriesInstanceUID", "")),
        int(header.Rows),
        int(header.Columns),
        *np.round(known_numbers(header, "ImageOrientationPatient", 6), 2).tolist(),
        *np.round(known_numbers(header, "PixelSpacing", 2), 3).tolist(),
    )


def series_name(header: Any) -> str:
    """The name of its series in a message: "series 3 (Lung, B60f)"."""
    words = [str(getattr(header, a, None) or "") for a in ("SeriesDescription", "ConvolutionKernel")]
    return f"series {getattr(header, 'SeriesNumber', None)} ({', '.join(w for w in words if w) or 'no description'})"


# ---- in which order ----------------------------------------------------------------------------------------------


def sort_slices(slices: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Sort slices by their position along the normal of their plane.

    Neither file names nor InstanceNumber nor SliceLocation are reliable.
    """
    along_row, along_column = known_numbers(slices[0][1], "ImageOrientationPatient", 6).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    return sorted(slices, key=lambda s: float(known_numbers(s[1], "ImagePositionPatient", 3) @ normal))


def stack_affine(headers: list[Any]) -> NDArray[np.float64]:
    """The affine of an array (slices, rows, columns) made of these slices, which must be sorted.

    PixelSpacing is (between rows, between columns), but ImageOrientationPatient begins with the direction along a row.

    Raises:
        ValueError: for a single slice, and for missing or duplicated slices.
    """
    if len(headers) < 2:
        raise ValueError("expected a volume, got a single slice. Give the folder of the whole series.")
    positions = [known_numbers(header, "ImagePositionPatient", 3) for header in headers]  # of the first voxel
    along_row, along_column = known_numbers(headers[0], "ImageOrientationPatient", 6).reshape(2, 3)
    between_rows, between_columns = known_numbers(headers[0], "PixelSpacing", 2)
    return make_affine(positions[0], [even_step(positions), between_rows * along_column, between_columns * along_row])


# ---- in HU -------------------------------------------------------------------------------------------------------


def read_hu(path: Path, dcmread: Callable[..., Any]) -> NDArray[np.int16]:
    """Read the HU (H, W) of one file; a ValueError names the file."""
    dataset = dcmread(path)
    try:
        raw = np.asarray(dataset.pixel_array)
    except Exception as error:  # compressed pixels need a decoder, and each library raises its own errors
        raise ValueError(f"{path}: the pixels cannot be read ({error}).") from None
    try:
        return to_hu(raw, dataset)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_hu(raw: NDArray, header: Any) -> NDArray[np.int16]:
    """Convert stored values to HU = slope * raw + intercept, rounded; padding outside the scanned circle becomes air.

    MONOCHROME1 changes nothing: it only asks viewers to draw high values dark.
    """
    slope, intercept = (getattr(header, name, None) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None:
        raise ValueError(
            "RescaleSlope or RescaleIntercept is missing, so stored values cannot be converted to HU. If you know "
            "them (often 1 and -1024), set them in the function that reads a file."
        )
    if raw.shape != (int(header.Rows), int(header.Columns)):
        raise ValueError(f"expected {header.Rows} x {header.Columns} pixels, got shape {raw.shape}.")
    hu = raw * float(slope) + float(intercept)
    if (padding := getattr(header, "PixelPaddingValue", None)) is not None:
        limit = getattr(header, "PixelPaddingRangeLimit", None)
        ends = np.array([padding, padding if limit is None else limit], np.int64)
        low, high = np.sort(ends.astype(raw.dtype))  # -2000 is often written as 63536, the same 16 bits
        as_hu = sorted(float(v) * float(slope) + float(intercept) for v in (low, high))
        if as_hu[1] <= AIR or as_hu[0] >= DENSEST_TISSUE:
            hu[(raw >= low) & (raw <= high)] = AIR
    return round_hu(hu)
