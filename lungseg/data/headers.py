"""Tables as people write them: the names of their columns, and the cells of a CSV file.

A header `id,group, Split` means split. Read as a column called " Split" it would be one that nobody knows, and a
patient kept for testing would be trained on. So names are ours apart from case and spaces around them, and a name
that is only nearly ours is refused: nothing that somebody wrote down is lost without a word.
"""

import csv
import io
import re
from collections.abc import Collection, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from lungseg.files import regular_file

SEPARATORS = (",", ";", "\t")  # spreadsheets write the second where the comma is the decimal point
MAX_BYTES = 2**26  # of a table: half a million rows
LIKENESS = 0.8  # of two names, above which one may be the other mistyped; "splits" and "split" have 0.91
MEANINGS = {  # words in the names of columns that mean one of ours
    "group": {"group", "groups", "patient", "patients", "patientid", "pid", "subject", "case", "series", "seriesuid"},
    "split": {"split", "splits", "set", "subset", "fold", "partition"},
}
MISSING = {"", "nan", "<na>", "#n/a"}  # how programs write a text that is not there


class ColumnError(ValueError):
    """One sentence on the names of columns."""


def recognise(names: Sequence[str], known: Collection[str], *, guard: Collection[str] = ()) -> list[str]:
    """The names of columns (or arrays), spelled as in `known` where they differ only in case and outer spaces.

    Args:
        names: as they were found.
        known: ours.
        guard: those of `known` that must not be lost: if one is not there, no other may look like it or mean it.

    Raises:
        ColumnError: for two names that become one, and for a name that is hardly anything but one of `guard`.
    """
    spelled = {name.lower(): name for name in known}
    ours = [spelled.get(name.strip().lower(), name.strip()) for name in names]
    for i, name in enumerate(ours):
        if name in known and name in ours[:i]:
            raise ColumnError(f"the names {names[ours.index(name)]!r} and {names[i]!r} are one. Remove one of them.")
    for wanted in guard:
        if wanted not in ours and (found := [name for name in ours if name not in known and is_like(name, wanted)]):
            raise ColumnError(
                f"there is no {wanted}, but there is {found[0]!r}. If that is what it holds, call it {wanted}; "
                f"if not, give it another name."
            )
    return ours


def is_like(name: str, wanted: str) -> bool:
    """ "spacing", "Spacing-mm" and "spacing_m" are like "spacing_mm"; "Patient ID" means "group"."""
    words = re.findall("[a-z0-9]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    if MEANINGS.get(wanted, set()) & set(words):
        return True
    return SequenceMatcher(None, "".join(words), wanted.replace("_", "")).ratio() >= LIKENESS


def read_csv(path: Path, known: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """(number of the line, cells by column) of each row of a CSV file in UTF-8.

    Columns are separated by commas, semicolons or tabs, whichever gives more of the `known` columns, all of which are
    guarded (`recognise`). Cells lose the spaces around them. Columns without a name and empty rows are
    passed over.

    Raises:
        ValueError: if it is not such a table, or a row has more cells than the header.
        csv.Error, OSError: if it cannot be read at all.
    """
    if regular_file(path).stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB, too many for such a table.")
    text = path.read_text("utf-8-sig")  # -sig: spreadsheets put a byte-order mark in front
    separator = max(SEPARATORS, key=lambda s: len(set(known) & {n.strip().lower() for n in header_of(text, s)}))
    header = header_of(text, separator)
    names = recognise(header, known, guard=known if len(header) > 1 else ())  # one: separated by something else
    how = {"delimiter": separator, "skipinitialspace": True, "strict": True}  # strict: a lone quote would swallow rows
    lines, rows = csv.reader(io.StringIO(text, newline=""), **how), []
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


def text_of(cell: str) -> str:
    """The cell, or "" for what programs write where there is no text."""
    return "" if cell.lower() in MISSING else cell


def header_of(text: str, separator: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True), [])
