"""The manifest of a folder of slices: which slice belongs to which patient, and to which split.

    id, group, split, label, spacing_mm, hu_low, hu_high, bits      one row per slice

`group` is the patient, or a cluster of near-duplicates; it never stands in two splits. Only `id` is required.
"""

import csv
import warnings
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

from lungseg.data.ct import HU_WINDOW
from lungseg.data.splits import affordable_fractions, overlaps, split_by_group

SPLITS = ("train", "val", "test")
FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


@dataclass(frozen=True)
class SliceRecord:
    """One row of the manifest: one slice."""

    id: str  # the file name without .png
    group: str  # patient, or cluster of near-duplicates: never in two splits
    split: str  # train, val or test
    label: str = ""
    spacing_mm: float = float("nan")  # side of a pixel; nan = unknown
    hu_low: float = HU_WINDOW[0]  # HU of grey 0
    hu_high: float = HU_WINDOW[1]  # HU of the largest grey level
    bits: int = 8  # 8, or 16 for images of 65,536 grey levels


COLUMNS = [f.name for f in fields(SliceRecord)]


def read_manifest(folder: str | Path) -> list[SliceRecord]:
    """The records of a folder, in the order of its manifest; columns we do not know are ignored.

    Without a manifest (or without its group or split column) each image is its own group and the split is
    made here, the same each time; a warning then says that leakage cannot be ruled out.

    Raises:
        ValueError: the first problem of the manifest, in one sentence.
    """
    records, problems = parse_manifest(Path(folder))
    if problems:
        raise ValueError(problems[0])
    return records


def parse_manifest(folder: Path) -> tuple[list[SliceRecord], list[str]]:
    """All the records that can be read, and one sentence for each that cannot or must not be used."""
    if not (folder / "images").is_dir():
        return [], [f"{folder} holds no folder images/. Give a folder as examples/prepare_data.py writes it."]
    path = folder / "manifest.csv"
    try:
        rows = manifest_rows(path) if path.exists() else [{"id": p.stem} for p in pngs(folder / "images")]
    except (ValueError, csv.Error) as error:
        return [], [f"{path} cannot be read as a table ({error}). Save it as comma-separated UTF-8 text."]
    if not rows:
        return [], [f"{path if path.exists() else folder / 'images'} lists no slice. Put at least one there."]
    if "id" not in rows[0]:
        return [], [f"{path} has no column id (it has {', '.join(map(str, rows[0]))}). Separate columns by commas."]
    if "group" not in rows[0]:
        warnings.warn(
            f"{folder} does not say which slices belong to one patient, so each is its own group: "
            f"leakage between training and test cannot be ruled out.",
            stacklevel=1,  # always this line, so that Python says it once, however often the folder is read
        )
        rows = [{**row, "group": row["id"]} for row in rows]
    if "split" not in rows[0]:
        groups = [row["group"] for row in rows]
        splits = split_by_group(groups, affordable_fractions(FRACTIONS, len(set(groups))), seed=0)
        rows = [{**row, "split": split} for row, split in zip(rows, splits, strict=True)]
    records, problems = [], []
    for number, row in enumerate(rows, start=2):  # line 1 is the header
        try:
            records.append(parse_row(row))
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}")
    ids, groups, splits = ([getattr(r, name) for r in records] for name in ("id", "group", "split"))
    return records, problems + [f"{path}: {sentence}" for sentence in overlaps(ids, groups, splits)]


def manifest_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets put a byte-order mark in front
        return list(csv.DictReader(file, restval=""))


def parse_row(row: dict[str, str]) -> SliceRecord:
    id_, group, split = row["id"], row["group"], row["split"]
    if id_ in ("", ".", "..") or "/" in id_ or "\\" in id_:
        raise ValueError(f"id {id_!r} is not a plain file name. Use letters, digits, '_' and '-'.")
    if not group:
        raise ValueError(f"id {id_!r} has no group. Write the patient, or any name for slices that belong together.")
    if split not in SPLITS:
        raise ValueError(f"id {id_!r} has the split {split!r}. Use one of {', '.join(SPLITS)}.")
    numbers = {}
    for name, kind in (("spacing_mm", float), ("hu_low", float), ("hu_high", float), ("bits", int)):
        if row.get(name):  # empty = the default
            try:
                numbers[name] = kind(row[name])
            except ValueError:
                raise ValueError(f"id {id_!r} has {name} {row[name]!r}, which is not a number.") from None
    if numbers.get("bits", 8) not in (8, 16):
        raise ValueError(f"id {id_!r} has bits {numbers['bits']}. Grey PNGs have 8 or 16.")
    return SliceRecord(id_, group, split, row.get("label") or "", **numbers)


def write_manifest(path: Path, records: list[SliceRecord]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for record in records:
            cells = [getattr(record, name) for name in COLUMNS]
            writer.writerow(["" if c != c else f"{c:g}" if isinstance(c, float) else c for c in cells])  # nan != nan


def describe_folder(folder: str | Path) -> str:
    """One line: how many slices and groups stand in each split."""
    records = read_manifest(folder)
    slices = Counter(r.split for r in records)
    groups = Counter(split for _, split in {(r.group, r.split) for r in records})
    parts = [f"{slices[s]} {s} (of {groups[s]} groups)" for s in SPLITS if slices[s]]
    return f"{folder} holds {len(records)} slices: {', '.join(parts)}"


def pngs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))
