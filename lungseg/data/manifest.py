"""The manifest of a folder of slices or volumes: the patient and the split of each.

    id, group, split, label, spacing_mm, hu_low, hu_high, bits, source_height, source_width, series, slice_index

One row per slice or volume. `group` is the patient, or a cluster of near-duplicates; it is never in two splits.
Only `id` is required.
"""

import csv
import math
import unicodedata
import warnings
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

from lungseg.data.ct import HU_WINDOW
from lungseg.data.folder_files import (
    HOMES,
    held_kind,
    how_to_convert,
    manifest_path,
    member_id,
    members,
    other_files,
    visible,
)
from lungseg.data.headers import cell_text, read_csv
from lungseg.data.splits import Fold, affordable_fractions, find_overlaps, fold_splits, split_by_group

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
REMEDIES = {
    "slices": "Give a folder that prepare_data.py wrote, from tables or (--images, --masks) from pictures.",
    "volumes": "Put each volume there as <id>.npz (lungseg.data.volume_file.write_volume).",
}
DIMS = {"slices": 2, "volumes": 3}
MAX_ID_BYTES = 200  # a file name has 255, some of them for .npz and what is added while a file is written


@dataclass(frozen=True)
class ImageRecord:
    """One row of the manifest: one slice, or one volume."""

    id: str  # the file name without .png or .npz
    group: str  # patient, or cluster of near-duplicates: never in two splits
    split: str  # train, val or test
    label: str = ""
    spacing_mm: float = float("nan")  # side of a pixel of the file; NaN is unknown
    # For PNGs only: a volume holds HU.
    hu_low: float = HU_WINDOW[0]  # HU of grey 0
    hu_high: float = HU_WINDOW[1]  # HU of the largest grey level
    bits: int = 8  # 8, or 16 for images of 65,536 grey levels
    # Pixels of the slice that the file was resized from; 0 if it was not, or if that is unknown.
    source_height: int = 0
    source_width: int = 0
    # Of a slice: the scan it is from, and its place there. Neighbours have numbers that differ by 1.
    series: str = ""  # "" is unknown
    slice_index: int | None = None  # counted as the slices of a volume are, from the feet; None is unknown

    @property
    def source_size(self) -> tuple[int, int] | None:
        """(H, W) of the slice that the file was made from; None is unknown."""
        return (self.source_height, self.source_width) if self.source_height else None


COLUMNS = [f.name for f in fields(ImageRecord)]
NUMBERS = {f.name: f.type for f in fields(ImageRecord) if f.type in (float, int)} | {"slice_index": int}
ORDER = ("series", "slice_index")  # if misspelt, nothing goes wrong unseen: what needs them asks for them


def read_manifest(folder: str | Path, kind: str | None = None, *, fold: Fold | None = None) -> list[ImageRecord]:
    """The records of a folder, in the order of its manifest; unknown columns are ignored.

    Without a manifest (or without its group or split column) each image is its own group and the split is made here,
    the same every time; a warning says that leakage cannot be ruled out.

    Args:
        kind: "slices" or "volumes", for callers that can use only these; None takes what the folder holds.
        fold: of a cross-validation, which replaces the splits "train" and "val" (`lungseg.data.splits.fold_splits`).

    Raises:
        ValueError: the first problem of the manifest, in one sentence.
    """
    records, problems = parse_manifest(Path(folder), kind)
    if problems:
        raise ValueError(problems[0])
    if fold is None:
        return records
    try:
        splits = fold_splits([r.group for r in records], [r.split for r in records], fold)
    except ValueError as error:
        raise ValueError(f"{folder}, cross-validation without the test split: {error}") from None
    return [replace(record, split=split) for record, split in zip(records, splits, strict=True)]


def read_split(folder: str | Path, split: str | None, kind: str, fold: Fold | None = None) -> list[ImageRecord]:
    """The records of one split (None takes all); if there are none, a ValueError names the existing splits."""
    everything = read_manifest(folder, kind, fold=fold)
    records = [r for r in everything if split in (None, r.split)]
    if not records:
        there = ", ".join(f"{n} {s}" for s, n in Counter(r.split for r in everything).items())
        raise ValueError(f"{folder} has no {kind[:-1]} in the split {split!r} (it has {there}). Choose one of these.")
    return records


def parse_manifest(folder: Path, kind: str | None = None) -> tuple[list[ImageRecord], list[str]]:
    """All records that can be read, and one sentence for each that cannot or must not be used."""
    try:
        kind = find_kind(folder, kind)
        lines = read_lines(folder, kind)
    except ValueError as error:
        return [], [str(error)]
    numbers, rows = [number for number, _ in lines], fill_in([row for _, row in lines], folder, kind)
    path = manifest_path(folder)
    records: list[ImageRecord] = []
    problems: list[str] = []
    taken: dict[str, str] = {}
    for number, row in zip(numbers, rows, strict=True):
        try:
            record = parse_row(row)
            check_id(record.id, taken)
            records.append(record)
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
    ids, groups, splits = ([getattr(r, name) for r in records] for name in ("id", "group", "split"))
    sentences = find_overlaps(ids, groups, splits) + find_groups_in_capitals(records) + find_series_problems(records)
    return records, problems + [f"{path}: {sentence}" for sentence in sentences]


def find_kind(folder: Path, kind: str | None) -> str:
    """Whether to read "slices" or "volumes"; a ValueError if a folder holds neither, or not the `kind` asked for."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: expected a folder, got a file." if folder.exists() else f"{folder} does not exist."
        )
    held = held_kind(folder)
    kind = kind or held
    home = folder / HOMES[kind]
    if not home.is_dir() and (folder / HOMES[held]).is_dir():
        way_out = f"Where the script has that flag, give --spatial-dims {DIMS[held]}."
        raise ValueError(f"{folder}: expected {kind}, got a folder of {held}. {way_out}")
    if not home.is_dir():
        names = [p.name for p in visible(folder) if p.is_dir()][:5]
        there = f" (it holds {'/, '.join(names)}/)" if names else ""
        raise ValueError(f"{folder} holds no folder {home.name}/{there}. {REMEDIES[kind]}")
    return kind


def read_lines(folder: Path, kind: str) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, cells by column) of the manifest; without one, (0, the id) of each image.

    Raises:
        ValueError: if it cannot be read, is empty, or has no column id.
    """
    path, home = manifest_path(folder), folder / HOMES[kind]
    if not path.exists() and (others := [p.name for p in folder.iterdir() if p.name.lower().startswith("manifest")]):
        raise ValueError(
            f"{folder} holds {others[0]} but no manifest.csv. Save it as comma-separated text of that name."
        )
    try:
        if path.exists():
            lines = read_csv(path, COLUMNS, unguarded=ORDER)
        else:
            lines = [(0, {"id": member_id(p)}) for p in members(home)]
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a table ({error}). Save it as comma-separated UTF-8 text."
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not lines and path.exists():
        raise ValueError(f"{path} lists no {kind[:-1]}. Put at least one there.")
    if not lines:
        found = other_files(home, "PNG (8-bit grey)" if kind == "slices" else ".npz")
        way_out = how_to_convert(folder) if found else "Put at least one there"
        raise ValueError(f"{home} lists no {kind[:-1]}{found}. {way_out}.")
    if "id" not in lines[0][1]:
        raise ValueError(f"{path} has no column id (it has {', '.join(lines[0][1])}). Separate columns by commas.")
    if "series" in lines[0][1] and "group" not in lines[0][1]:  # one patient may have several series
        raise ValueError(f"{path} has no column group, but series. Add group: the patient of each {kind[:-1]}.")
    return lines


def fill_in(rows: list[dict[str, str]], folder: Path, kind: str) -> list[dict[str, str]]:
    """The rows with a group and a split where the table has no such column; a missing group is warned about."""
    if "group" not in rows[0]:
        warnings.warn(
            f"{folder} does not say which {kind} belong to one patient, so each is its own group: "
            f"leakage between training and test cannot be ruled out.",
            stacklevel=1,  # always this line, so that Python says it once, however often the folder is read
        )
        rows = [{**row, "group": row["id"]} for row in rows]
    if "split" not in rows[0]:
        groups = [row["group"] for row in rows]
        splits = split_by_group(groups, affordable_fractions(FRACTIONS, len(set(groups))), seed=0)
        rows = [{**row, "split": split} for row, split in zip(rows, splits, strict=True)]
    return rows


def parse_row(row: dict[str, str]) -> ImageRecord:
    """One row of the table as a record; a ValueError names the column that cannot be read."""
    id_, group, split, label = row["id"], cell_text(row["group"]), row["split"].lower(), cell_text(row.get("label", ""))
    if not all(name in row for name in ORDER):  # one alone, perhaps of another meaning, is ignored
        row = {name: cell for name, cell in row.items() if name not in ORDER}
    series = cell_text(row.get("series", ""))
    numbers = {}
    for name, kind in NUMBERS.items():
        if row.get(name):  # empty = the default
            try:
                value = float(row[name])
                numbers[name] = kind(value)  # "8.0" is 8
            except (ValueError, OverflowError):
                value = math.nan
            if numbers.get(name) != value and not (kind is float and row[name].lower() == "nan"):
                raise ValueError(
                    f"id {id_!r} has {name} {row[name]!r}, which is not a {'whole ' if kind is int else ''}number. "
                    f"Write it without a unit, and with a point as in 0.7."
                )
    record = ImageRecord(id_, group, split, label, series=series, **numbers)
    check_record(record)
    return record


def check_record(record: ImageRecord) -> None:
    """Raise a ValueError for values that no manifest may hold, read or written."""
    check_id(record.id, {})
    id_ = record.id
    if not record.group:
        raise ValueError(f"id {id_!r} has no group. Write the patient, or any name for slices that belong together.")
    if record.split not in SPLITS:
        raise ValueError(f"id {id_!r} has the split {record.split!r}. Use one of {', '.join(SPLITS)}.")
    if record.bits not in (8, 16):
        raise ValueError(f"id {id_!r} has bits {record.bits:g}. Grey PNGs have 8 or 16.")
    if record.spacing_mm <= 0 or math.isinf(record.spacing_mm):  # NaN is neither
        raise ValueError(f"id {id_!r} has spacing_mm {record.spacing_mm:g}. Write mm above 0, or leave it empty.")
    if not -math.inf < record.hu_low < record.hu_high < math.inf:  # NaN fails
        low, high = f"{record.hu_low:g}", f"{record.hu_high:g}"
        raise ValueError(f"id {id_!r} has hu_low {low} and hu_high {high}. Write two numbers, the lower one first.")
    height, width = record.source_height, record.source_width
    if min(height, width) < 0 or (height == 0) != (width == 0):
        sides = f"source_height {height} and source_width {width}"
        raise ValueError(f"id {id_!r} has {sides}. Write both in pixels, or leave both empty.")
    if (record.slice_index is None) != (not record.series) or (record.slice_index or 0) < 0:
        order = f"series {record.series!r} and slice_index {record.slice_index}"
        raise ValueError(f"id {id_!r} has {order}. Write the scan and a number from 0, or leave both empty.")


def check_id(id_: str, taken: dict[str, str]) -> None:
    """Raise a ValueError unless an id can be a file name on every system, next to those `taken`; then add it there."""
    odd = any(c in "/\\" or unicodedata.category(c) == "Cc" for c in id_)  # Cc: NUL, line breaks
    if odd or not id_ or id_[0] == "." or id_ != id_.strip():
        raise ValueError(f"id {id_!r} is not a plain file name. Use letters, digits, '_' and '-'.")
    if len(id_.encode(errors="surrogatepass")) > MAX_ID_BYTES:
        raise ValueError(f"id {id_[:40]!r}... is longer than {MAX_ID_BYTES} bytes, too long for the name of a file.")
    first = taken.setdefault(unicodedata.normalize("NFC", id_).casefold(), id_)
    if first != id_:
        raise ValueError(f"the ids {first!r} and {id_!r} are one file name on Windows and macOS. Rename one of them.")


def find_groups_in_capitals(records: list[ImageRecord]) -> list[str]:
    """One sentence per pair of groups in different splits that differ only in capitals: probably one patient."""
    firsts: dict[str, ImageRecord] = {}
    problems: dict[str, str] = {}
    for record in records:
        first = firsts.setdefault(record.group.casefold(), record)
        if first.group != record.group and first.split != record.split:
            problems[record.group] = (
                f"group {first.group!r} is in {first.split} and {record.group!r} in {record.split}. If they are one "
                f"patient, move all its rows to one split; if not, give them names that differ in more than capitals."
            )
    return list(problems.values())


def find_series_problems(records: list[ImageRecord]) -> list[str]:
    """One sentence for each series of two groups, and for each place in a series that two slices have."""
    groups: dict[str, str] = {}
    places: dict[tuple[str, int | None], str] = {}
    problems = []
    for r in filter(lambda r: r.series, records):
        if (first := groups.setdefault(r.series, r.group)) != r.group:
            problems.append(f"series {r.series!r} has the groups {first!r} and {r.group!r}. A scan is of one patient.")
        if (other := places.setdefault((r.series, r.slice_index), r.id)) != r.id:
            problems.append(f"{other!r} and {r.id!r} are both slice_index {r.slice_index} of series {r.series!r}.")
    return list(dict.fromkeys(problems))


def write_manifest(path: Path, records: list[ImageRecord]) -> None:
    """Write manifest.csv; unknown numbers are empty cells, and `ORDER` is left out where no slice has it."""
    ordered = any(record.series for record in records)
    columns = [name for name in COLUMNS if ordered or name not in ORDER]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for record in records:
            cells = [getattr(record, name) for name in columns]
            empty = [c != c or (c == 0 and name.startswith("source_")) for c, name in zip(cells, columns, strict=True)]
            cells = [f"{c:g}" if isinstance(c, float) else c for c in cells]  # csv writes None as an empty cell
            writer.writerow(["" if e else c for c, e in zip(cells, empty, strict=True)])  # NaN != NaN


def describe_folder(folder: str | Path) -> str:
    """One line: the number of slices (or volumes) and groups in each split."""
    records = read_manifest(folder)
    items = Counter(r.split for r in records)
    groups = Counter(split for _, split in {(r.group, r.split) for r in records})
    parts = [f"{items[s]} {s} (of {groups[s]} groups)" for s in SPLITS if items[s]]
    return f"{folder} holds {len(records)} {held_kind(Path(folder))}: {', '.join(parts)}"
