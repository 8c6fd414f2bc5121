"""What a user's table calls its columns, and what their cells say: whose slice it is, and how large its pixels are.

Names are compared by their letters and digits alone: "Patient ID", "patient_id" and "PatientID" are one column.
"""

import math
import re
from collections.abc import Iterable, Mapping
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
MOST_OBLONG = 0.01  # how much longer one side of a pixel may be before one number cannot stand for both


def find_column(table: Mapping[str, list], wanted: Iterable[str]) -> str | None:
    """The first of the `wanted` names that a column with texts or numbers has; None if there is none."""
    by_name = {plain(name): name for name in reversed(table) if not any(isinstance(c, np.ndarray) for c in table[name])}
    return next((by_name[plain(name)] for name in wanted if plain(name) in by_name), None)


def plain(name: Any) -> str:
    return re.sub(r"[\W_]", "", str(name)).casefold()


def text_of(cell: Any) -> str:
    """A cell as text, "" if it is missing. A whole number is written without a point: columns with gaps hold 7.0."""
    if cell is None or str(cell).strip().casefold() in MISSING:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def spacing_of(cell: Any) -> float:
    """Side of a pixel in mm from a number, or from text such as "0.7" or DICOM's "0.7\\0.7"; NaN if missing.

    Raises:
        ValueError: if it is no number, not above 0, or two numbers that differ.
    """
    text = text_of(cell)
    if not text:
        return math.nan
    try:
        sides = [float(number) for number in re.split(r"[\s,;\\]+", text.strip("[]() "))]
    except ValueError:
        sides = []
    if not (1 <= len(sides) <= 2 and all(0 < side < math.inf for side in sides)):
        raise ValueError(f"expected the side of a pixel in mm, a number above 0, got {text[:40]!r}.")
    if max(sides) / min(sides) > 1 + MOST_OBLONG:
        raise ValueError(f"the pixels are not square ({text[:40]} mm). Resample the slice to square pixels.")
    return sides[0]
