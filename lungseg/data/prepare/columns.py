"""The columns of a user's table that name the patient and the pixel size, and what their cells say.

Column names are compared by letters and digits alone: "Patient ID", "patient_id" and "PatientID" are one name.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lungseg.data.headers import cell_text

# The first name that a table has is used: a patient may have several studies, a study several series.
PATIENT_COLUMNS = (
    *("patient", "patientid", "patientname", "subject", "subjectid", "pid", "person", "case", "caseid", "group"),
    *("groupid", "study", "studyid", "studyuid", "studyinstanceuid", "scan", "scanid"),
    *("series", "seriesid", "seriesuid", "seriesinstanceuid"),
)
SPACING_COLUMNS = ("spacingmm", "pixelspacingmm", "pixelspacing")
SQUARE_TOLERANCE = 0.01  # how much longer than the other one side of a pixel may be, if one number states both


def find_column(table: Mapping[str, list], names: Iterable[str]) -> str | None:
    """The first of the `names` that a column of text or numbers has; None if there is no such column."""
    columns = {}
    for column in reversed(list(table)):
        if not any(isinstance(cell, np.ndarray) for cell in table[column]):
            columns[plain_name(column)] = column
    return next((columns[plain_name(name)] for name in names if plain_name(name) in columns), None)


def plain_name(name: Any) -> str:
    """A column name in the form that is compared: letters and digits, in lower case."""
    return re.sub(r"[\W_]", "", str(name)).casefold()


def parse_spacing(cell: Any) -> float:
    """Side of a pixel in mm from a number, or from text such as "0.7" or DICOM's "0.7\\0.7"; NaN if missing.

    Raises:
        ValueError: if it is not a number above 0, or if the two sides differ.
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
    """The patient of each row ("" if unknown), and a sentence about the column that was used or ignored.

    Args:
        group: the column that names the patient, "none" for no column; None looks for a column with a usual name.
    """
    rows = len(table["mask"])
    name = choose_column(path, table, "--group", group, PATIENT_COLUMNS)
    if name is None:
        return [""] * rows, []
    patients = [cell_text(cell) for cell in table[name]]
    named = [p for p in patients if p]
    if group is None and rows > 1 and len(set(named)) == rows:
        reason = f"has a different value in every row, so it was not used for groups (--group {name} uses it)"
        return [""] * rows, [f"{path}: the column {name!r} {reason}."]
    gaps = f"; {rows - len(named)} rows name no patient and are grouped by similarity" if len(named) < rows else ""
    return patients, [f"{path}: {len(set(named))} patients, from its column {name!r}{gaps}."]


def read_spacings(path: str | Path, table: dict[str, list], spacing: str | None) -> tuple[list[float], list[str]]:
    """The side of a pixel of each row in mm (NaN if unknown), and a sentence if a column was used.

    Args:
        spacing: mm for all rows, or the name of a column, or "none" for unknown; None looks for a column with a usual
            name.
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
    """The number of mm that --spacing-mm states; None if it names a column or is not given.

    Raises:
        ValueError: for a number that cannot be a pixel size.
    """
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    if not 0 < number < math.inf:  # also false for NaN
        raise ValueError(f"--spacing-mm must be a number above 0, the name of a column, or none, got {text}.")
    return number


def choose_column(
    path: str | Path, table: dict[str, list], flag: str, name: str | None, usual_names: Iterable[str]
) -> str | None:
    """The column called `name`, or without a name a column with a usual name; None if there is none, or for "none"."""
    if name == "none":
        return None
    column = find_column(table, usual_names if name is None else (name,))
    if column is None and name is not None:
        columns = ", ".join(str(n) for n in table if n != "mask")
        raise ValueError(f"{path} has no column {name!r} of text or numbers for {flag} (its columns: {columns}).")
    return column
