"""What a user's table calls its columns, and what their cells say: whose slice it is, and how large its pixels are.

Names are compared by their letters and digits alone: "Patient ID", "patient_id" and "PatientID" are one column.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# The first that a table has is taken: a patient may have several studies, a study several series.
PATIENT_COLUMNS = (
    *("patient", "patientid", "patientname", "subject", "subjectid", "pid", "person", "case", "caseid", "group"),
    *("groupid", "study", "studyid", "studyuid", "studyinstanceuid", "scan", "scanid"),
    *("series", "seriesid", "seriesuid", "seriesinstanceuid"),
)
SPACING_COLUMNS = ("spacingmm", "pixelspacingmm", "pixelspacing")
MISSING = ("", "nan", "<na>", "nat", "null")  # as programs write an empty cell; "none" is a label of its own
SQUARE_TOLERANCE = 0.01  # how much longer one side of a pixel may be before one number cannot stand for both


def find_column(table: Mapping[str, list], wanted: Iterable[str]) -> str | None:
    """The first of the `wanted` names that a column with texts or numbers has; None if there is none."""
    by_name = {
        plain_name(name): name for name in reversed(table) if not any(isinstance(c, np.ndarray) for c in table[name])
    }
    return next((by_name[plain_name(name)] for name in wanted if plain_name(name) in by_name), None)


def plain_name(name: Any) -> str:
    return re.sub(r"[\W_]", "", str(name)).casefold()


def cell_text(cell: Any) -> str:
    """A cell as text, "" if it is missing. A whole number is written without a point: columns with gaps hold 7.0."""
    if cell is None or str(cell).strip().casefold() in MISSING:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def parse_spacing(cell: Any) -> float:
    """Side of a pixel in mm from a number, or from text such as "0.7" or DICOM's "0.7\\0.7"; NaN if missing.

    Raises:
        ValueError: if it is no number, not above 0, or two numbers that differ.
    """
    text = cell_text(cell)
    if not text:
        return math.nan
    try:
        sides = [float(number) for number in re.split(r"[\s,;\\]+", text.strip("[]() "))]
    except ValueError:
        sides = []
    if not (1 <= len(sides) <= 2 and all(0 < side < math.inf for side in sides)):
        raise ValueError(f"expected the side of a pixel in mm, a number above 0, got {text[:40]!r}.")
    if max(sides) / min(sides) > 1 + SQUARE_TOLERANCE:
        raise ValueError(f"the pixels are not square ({text[:40]} mm). Resample the slice to square pixels.")
    return sides[0]


# ---- the columns of a whole table -------------------------------------------------------------------------------


def read_patients(path: str | Path, table: dict[str, list], group: str | None) -> tuple[list[str], list[str]]:
    """The patient of each row, "" where none is named, and a sentence if a column was used or is of no use.

    Args:
        group: the column that names the patient, "none" for none; None looks for one of a usual name.
    """
    rows = len(table["mask"])
    name = choose_column(path, table, "--group", group, PATIENT_COLUMNS)
    if name is None:
        return [""] * rows, []
    patients = [cell_text(cell) for cell in table[name]]
    named = [p for p in patients if p]
    if group is None and rows > 1 and len(set(named)) == rows:
        use = f"names every row differently, so it was not used for groups (--group {name} does it)"
        return [""] * rows, [f"{path}: the column {name!r} {use}."]
    gaps = f"; {rows - len(named)} rows name none and go by likeness" if len(named) < rows else ""
    return patients, [f"{path}: {len(set(named))} patients, from its column {name!r}{gaps}."]


def read_spacings(path: str | Path, table: dict[str, list], spacing: str | None) -> tuple[list[float], list[str]]:
    """The side of a pixel of each row in mm, NaN if unknown, and a sentence if a column was used.

    Args:
        spacing: a number of mm for all, or the column that holds it, "none" for unknown; None looks for a column.
    """
    rows = len(table["mask"])
    if number := parse_spacing_flag(spacing):
        return [number] * rows, []
    name = choose_column(path, table, "--spacing-mm", spacing, SPACING_COLUMNS)
    if name is None:
        return [math.nan] * rows, []
    found = []
    for row, cell in enumerate(table[name]):
        try:
            found.append(parse_spacing(cell))
        except ValueError as error:
            raise ValueError(f"{path}, row {row}, column {name!r}: {error}") from None
    gaps = sum(map(math.isnan, found))
    return found, [f"{path}: mm per pixel from its column {name!r}" + (f", unknown in {gaps} rows." if gaps else ".")]


def parse_spacing_flag(text: str | None) -> float | None:
    """A flag that may be a number of mm or a name; a ValueError if it is an impossible number."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    if not 0 < number < math.inf:  # NaN is not
        raise ValueError(f"--spacing-mm must be a number above 0, the name of a column, or none, got {text}.")
    return number


def choose_column(
    path: str | Path, table: dict[str, list], flag: str, wanted: str | None, usual: Iterable[str]
) -> str | None:
    """The column that the user names, or one of a usual name; None if there is none or none is wanted."""
    if wanted == "none":
        return None
    name = find_column(table, usual if wanted is None else (wanted,))
    if name is None and wanted is not None:
        there = ", ".join(str(n) for n in table if n != "mask")
        raise ValueError(f"{path} has no column {wanted!r} of texts or numbers for {flag} (it has {there}).")
    return name
