"""Which scan each slice is from and its number there: from two columns of a table, or from the path of a picture.

The folder keeps them as `series` and `slice_index`, and `--neighbours` finds the slices below and above by them. A
table or pictures that do not say it cannot be put in order afterwards: rows and file names may be in any order.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lungseg.data.headers import cell_text
from lungseg.data.manifest import ImageRecord
from lungseg.data.prepare.columns import choose_column, find_column

Place = tuple[str, int | None]  # (scan, number of the slice); ("", None) is unknown


def read_places(
    path: str | Path, table: dict[str, list], series: str | None, slice_index: str | None
) -> tuple[list[Place], list[str]]:
    """The place of each row, and a sentence if columns were used. A row that lacks one of both has no place.

    Args:
        series, slice_index: the columns, or "none"; None for columns of these names, if the table has both.

    Raises:
        ValueError: if there is no such column, or for a number that is not whole or below 0.
    """
    unknown: list[Place] = [("", None)] * len(table["mask"])
    if series is None and slice_index is None:
        series, slice_index = (find_column(table, [name]) or "none" for name in ("series", "slice_index"))
    scans = choose_column(path, table, "--series", series, ())
    numbers = choose_column(path, table, "--slice-index", slice_index, ())
    if scans is None or numbers is None:
        return unknown, []
    places = list(unknown)
    for row, (scan, number) in enumerate(zip(table[scans], table[numbers], strict=True)):
        if cell_text(scan) and (text := cell_text(number)):
            if not text.isdecimal():
                raise ValueError(
                    f"{path}, row {row}, column {numbers!r}: expected the number of the slice, a whole number from 0, "
                    f"got {text[:40]!r}. Number the slices, or leave their order out with --slice-index none."
                )
            places[row] = cell_text(scan), int(text)
    return places, [f"{path}: the order of the slices from its columns {scans!r} and {numbers!r}."]


def compile_order_pattern(text: str) -> re.Pattern:
    """The expression of --order-from, or a ValueError if it is not one with two groups."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"--order-from {text} is not a regular expression ({error}).") from None
    if pattern.groups != 2:
        raise ValueError(
            f"--order-from {text}: expected two groups, got {pattern.groups}. Put the scan and the number of the slice "
            r"in parentheses, as in 'images/(.+)_(\d+)'."
        )
    return pattern


def find_place(path: Path, pattern: re.Pattern) -> Place:
    """The place of the picture with this path; a ValueError if the pattern does not say it."""
    match = pattern.search(path.as_posix())
    if not (match and match[1] and match[2] and match[2].isdecimal()):
        raise ValueError(
            f"--order-from {pattern.pattern} finds no scan and whole number in {path.as_posix()}. Change the "
            f"expression."
        )
    return match[1], int(match[2])


def settle_order(records: Sequence[ImageRecord], from_head: bool) -> tuple[list[ImageRecord], list[str]]:
    """The records with scans that are of one patient each and numbers that grow upwards, and sentences to print.

    A slice without a patient gets that of its scan, or the name of its scan. Where several patients have a scan of one
    name ("1"), the patient's name goes in front.

    Args:
        records: of all slices; their `group` is the patient, "" if unknown.
        from_head: whether the numbers grow from the head to the feet; then they are turned around.

    Raises:
        ValueError: if two slices have one place, or `from_head` is given and no slice has a place.
    """
    ordered = [r for r in records if r.series]
    if not ordered:
        if from_head:
            raise ValueError("--from-head is about the numbers of slices, and no slice has one. Leave it out.")
        return list(records), []
    patients: dict[str, set[str]] = defaultdict(set)
    for r in ordered:
        patients[r.series].update([r.group] if r.group else [])
    settled = [name_scan(r, patients[r.series]) if r.series else r for r in records]
    check_places(settled)
    if from_head:
        settled = number_upwards(settled)
    notes, lost = [], sum(not r.series for r in settled)
    if lost:
        notes.append(f"{lost} of {len(records)} slices have no place in a scan, and so no neighbours.")
    unnamed = sum(bool(new.series) and not old.group for new, old in zip(settled, records, strict=True))
    if unnamed:
        notes.append(f"{unnamed} slices name no patient: their scan decides the group.")
    return settled, notes


def name_scan(record: ImageRecord, patients: set[str]) -> ImageRecord:
    """One record of a scan that has these `patients`, with its patient and a name of the scan that is the only one."""
    if len(patients) < 2:
        return replace(record, group=record.group or next(iter(patients), record.series))
    if not record.group:
        return replace(record, series="", slice_index=None)  # whose scan it is, nobody knows
    return replace(record, series=f"{record.group} {record.series}")


def check_places(records: Sequence[ImageRecord]) -> None:
    """Raise a ValueError if two slices have one place."""
    ids: dict[Place, str] = {}
    for r in filter(lambda r: r.series, records):
        if (first := ids.setdefault((r.series, r.slice_index), r.id)) != r.id:
            raise ValueError(
                f"{first!r} and {r.id!r} are both slice {r.slice_index} of the scan {r.series!r}. Give each slice its "
                f"number, or leave the order out (tables: --slice-index none; pictures: no --order-from)."
            )


def number_upwards(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Turn the numbers of each scan around: the highest becomes 0, and gaps remain."""
    highest: Counter[str] = Counter()
    for r in records:
        highest[r.series] = max(highest[r.series], r.slice_index or 0)
    return [r if r.slice_index is None else replace(r, slice_index=highest[r.series] - r.slice_index) for r in records]
