"""Tables as people write them: column names and cells.

A header `id,group, Split` means split. Read literally, " Split" would be an unknown column, and patients kept for
testing would be trained on. So names may differ from ours in case and surrounding spaces, and a name that only
resembles ours is refused: nothing that somebody wrote down is lost silently.
"""

import csv
import io
import re
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from lungseg.files import regular_file

SEPARATORS = (",", ";", "\t")  # spreadsheets use the semicolon where the comma is the decimal point
MAX_BYTES = 2**26  # of a table: half a million rows
SIMILARITY = 0.8  # of two names, from which one may be a misspelling of the other; "splits" and "split" have 0.91
MEANINGS = {  # our column -> words in other column names that mean the same
    "group": {"group", "groups", "patient", "patients", "patientid", "pid", "subject", "case", "series", "seriesuid"},
    "split": {"split", "splits", "set", "subset", "fold", "partition"},
}
MISSING = ("", "nan", "<na>", "nat", "null")  # how programs write an empty cell; "none" is a label


class ColumnError(ValueError):
    """A problem with column names, in one sentence."""


def recognise(names: Sequence[str], known: Collection[str], *, guard: Collection[str] = ()) -> list[str]:
    """The names of columns (or arrays), spelled as in `known` where they differ only in case and outer spaces.

    Args:
        names: as found in the table.
        known: our names.
        guard: those of `known` that must not be lost: if one is missing, no other name may resemble it.

    Raises:
        ColumnError: if two names become one, or if a name probably means a missing one of `guard`.
    """
    spelled = {name.lower(): name for name in known}
    ours = [spelled.get(name.strip().lower(), name.strip()) for name in names]
    for i, name in enumerate(ours):
        if name in known and name in ours[:i]:
            raise ColumnError(f"{names[ours.index(name)]!r} and {names[i]!r} are the same name. Remove one.")
    for missing in guard:
        if missing not in ours and (found := [n for n in ours if n not in known and resembles(n, missing)]):
            raise ColumnError(
                f"there is no {missing}, but there is {found[0]!r}. If that is what it holds, call it {missing}; "
                f"if not, give it another name."
            )
    return ours


def resembles(name: str, ours: str) -> bool:
    """Whether a name may mean ours: "spacing", "Spacing-mm" and "spacing_m" mean "spacing_mm", "Patient ID" "group"."""
    words = re.findall("[a-z0-9]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    if MEANINGS.get(ours, set()) & set(words):
        return True
    return SequenceMatcher(None, "".join(words), ours.replace("_", "")).ratio() >= SIMILARITY


def read_csv(
    path: Path, known: Collection[str], *, unguarded: Collection[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, cells by column) of each row of a CSV file in UTF-8.

    Columns are separated by commas, semicolons or tabs, whichever gives more of the `known` columns, all of which but
    the `unguarded` are guarded (`recognise`). Surrounding spaces are removed from cells. Columns without a name and
    empty rows are skipped.

    Raises:
        ValueError: if it is not such a table, or a row has more cells than the header.
        csv.Error, OSError: if it cannot be read at all.
    """
    if regular_file(path).stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB, too large for such a table.")
    text = path.read_text("utf-8-sig")  # -sig: spreadsheets put a byte-order mark in front
    separator = max(SEPARATORS, key=lambda s: len(set(known) & {n.strip().lower() for n in split_header(text, s)}))
    header = split_header(text, separator)
    guard = [name for name in known if name not in unguarded] if len(header) > 1 else ()  # one: separated otherwise
    names = recognise(header, known, guard=guard)
    # strict: otherwise a single quote would swallow rows
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = []
    next(lines, None)
    for line in lines:
        cells = [cell.strip() for cell in line]
        if any(cells[len(names) :]):
            raise ValueError(
                f"line {lines.line_num} has {len(cells)} cells and the header {len(names)}. Put texts that hold "
                f"{separator!r} in quotes."
            )
        if any(cells):
            cells += [""] * (len(names) - len(cells))
            rows.append((lines.line_num, {name: cell for name, cell in zip(names, cells, strict=False) if name}))
    return rows


def split_header(text: str, separator: str) -> list[str]:
    """The cells of the first line."""
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True), [])


def cell_text(cell: Any) -> str:
    """A cell as text, "" if it is missing; 7.0 becomes "7", since a column of whole numbers with gaps holds floats."""
    if cell is None or str(cell).strip().casefold() in MISSING:
        return ""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()
