"""Tables of scores: Markdown for people, CSV for the next program."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lungseg.evaluation.scores import ImageScore, scores_per_image
from lungseg.files import whole_file

Value = str | int | float


class Column(NamedTuple):
    """A column of a Markdown table."""

    header: str
    key: str  # of the rows
    decimals: int = 3  # of numbers that are not whole
    with_interval: bool = False  # then the rows also have key_low and key_high
    unit: str = ""  # shown only in tables with rows in this unit


MAIN = (  # how well a typical image is segmented, and how many lesions were found
    Column("slices", "slices"),
    Column("patients", "patients"),
    Column("Dice (95 %)", "dice", with_interval=True),
    Column("IoU", "iou"),
    Column("precision", "precision"),
    Column("recall", "recall"),
    Column("RMSE", "rmse"),
    Column("HD95 mm", "hd95_mm", decimals=1, unit="mm"),
    Column("HD95 px", "hd95_px", decimals=1, unit="px"),
    Column("pooled Dice", "pooled_dice"),
    Column("lesions", "lesions"),
    Column("found", "lesion_recall"),
    Column("FP/slice", "false_positives_per_slice", decimals=2),
)
POOLED = (  # all pixels as one large image, and the images where target or prediction is empty
    Column("pooled Dice (95 %)", "pooled_dice", with_interval=True),
    Column("pooled IoU", "pooled_iou"),
    Column("pooled precision", "pooled_precision"),
    Column("pooled recall", "pooled_recall"),
    Column("pooled RMSE", "pooled_rmse"),
    Column("no lesion", "empty_targets"),
    Column("nothing predicted", "empty_predictions"),
    Column("false alarms", "false_alarms"),
)

CLASSES = (  # each lesion class on its own; `slices` are all, with and without it
    Column("slices", "slices"),
    Column("without it", "empty_targets"),
    Column("false alarms", "false_alarms"),
    *(column for column in MAIN if column.key not in ("slices", "rmse")),
)


def markdown_table(
    rows: Sequence[Mapping[str, Value]], columns: Sequence[Column] = MAIN, *, names: Sequence[str] = ("stratum",)
) -> str:
    """Rows of `lungseg.evaluation.strata.table_rows` as a Markdown table, without a newline at the end.

    Args:
        columns: what to show of each row; columns in a unit that no row has are left out. NaN prints as "–".
        names: keys of the texts at the beginning of each row, such as ("network", "stratum").
    """
    columns = [c for c in columns if any(c.unit in str(row.get("unit", c.unit)) for row in rows) or not rows]
    lines = [[*names, *(column.header for column in columns)], ["---"] * len(names) + ["---:"] * len(columns)]
    lines += [[escape_cell(row[name]) for name in names] + [cell(row, column) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(row: Mapping[str, Value], column: Column) -> str:
    """0.673, or 0.673 (0.634 to 0.709) with its interval, or – if it is unknown."""
    value, key, digits = row[column.key], column.key, column.decimals
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    if column.with_interval:
        low, high = float(row[f"{key}_low"]), float(row[f"{key}_high"])
        text += "" if math.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return text


def escape_cell(text: Value) -> str:
    """Text for a cell: on one line and without the bar that ends a cell, as labels come from users' files."""
    return " ".join(str(text).split()).replace("|", "/")


def class_tables(rows: Sequence[Mapping[str, Value]], calls: Sequence[Mapping[str, Value]]) -> list[str]:
    """The table of lesion classes, and how the lesions of each were classified, if there are several."""
    if not rows:
        return []
    text = (
        "Each class on its own. Its lesions count as found, and its pixels as correct, only where the same class was "
        "predicted. A slice with neither has no Dice; a false alarm of the class has 0:"
    )
    columns = [Column(name, name) for name in calls[0] if name != "class"]
    what = "How the lesions of each class were classified: by the class with the most predicted pixels on them."
    return [text, markdown_table(rows, CLASSES), what, markdown_table(calls, columns, names=("class",))]


def write_csv(path: str | Path, rows: Sequence[Mapping[str, Value]]) -> None:
    """Write all columns of the rows, whole or not at all; NaN is an empty cell."""
    with (
        whole_file(path) as partial,
        open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: "" if value != value else round_value(value) for name, value in row.items()})


def round_value(value: Value) -> Value:
    """Round a number to six significant digits, more than a table of a few hundred slices can support."""
    return f"{value:.6g}" if isinstance(value, float) else value


def image_rows(scores: Sequence[ImageScore], classes: Sequence[str] = ()) -> list[dict[str, Value]]:
    """One row per image, to look up the bad ones and to compute what our tables do not show.

    If each class was scored on its own (`score_all` with by_class), also the counts and the Dice of each.
    """
    per_image = {name: values.tolist() for name, values in scores_per_image(scores).items()}
    rows = []
    for i, s in enumerate(scores):
        row: dict[str, Value] = {"id": s.id, "group": s.group, "label": s.label}
        row |= {f"diameter_{unit}": s.diameter if s.unit == unit else math.nan for unit in ("mm", "px")}
        row |= {"tp": s.tp, "fp": s.fp, "fn": s.fn, "tn": s.tn}
        row |= {name: values[i] for name, values in per_image.items()}
        found = sum(lesion.found for lesion in s.lesions)
        row |= {"lesions": len(s.lesions), "lesions_found": found, "false_positives": s.false_positives}
        for name, of_class in zip(classes, s.classes, strict=False):
            row |= {f"{count} of {name}": getattr(of_class, count) for count in ("tp", "fp", "fn", "tn")}
            row[f"dice of {name}"] = scores_per_image([of_class])["dice"].item()
        rows.append(row)
    return rows
