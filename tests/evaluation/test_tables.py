"""Tables as text: what a cell says, and files that are whole or not there."""

import csv
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from lungseg.evaluation.scores import score_image
from lungseg.evaluation.strata import table_rows
from lungseg.evaluation.tables import CLASSES, MAIN, POOLED, Column, cell, image_rows, markdown_table, write_csv


@pytest.fixture(scope="module")
def scores():
    """Two patients, three slices: half found, missed, and rightly nothing."""
    target = np.zeros((16, 16))
    target[4:8, 4:8] = 1
    pred = np.roll(target, 2, axis=0)
    empty = np.zeros_like(target)
    pairs = [(pred, target, "a", "p0"), (empty, target, "b", "p1"), (empty, empty, "c", "p1")]
    return [score_image(p, t, id=i, group=g, label="LR|2", spacing_mm=1.0) for p, t, i, g in pairs]


def cells(line):
    return [text.strip() for text in line.strip("|").split("|")]


def test_a_markdown_table_has_a_line_for_each_row_and_a_cell_for_each_column(scores):
    rows = table_rows(scores)
    for columns in (MAIN, POOLED):  # of MAIN all but the distance in pixels
        lines = markdown_table(rows, columns).split("\n")
        assert len(lines) == 2 + len(rows)
        assert {len(cells(line)) for line in lines} == {len(columns) + (columns is not MAIN)}
    everything = dict(zip(cells(lines[0]), cells(lines[2]), strict=True))
    assert everything["stratum"] == "all" and everything["nothing predicted"] == "2"
    assert everything["pooled Dice (95 %)"] == "0.333"  # two patients are too few for an interval


def test_from_five_patients_on_an_interval_is_printed(scores):
    many = [replace(s, group=f"{s.group}_{n}") for n in range(5) for s in scores[:2]]
    text = markdown_table(table_rows(many), POOLED).split("\n")[2]
    assert re.search(r"0\.333 \(0\.\d{3} to 0\.\d{3}\)", text)


def test_a_table_may_begin_with_several_names(scores):
    rows = [{"network": "UNet", **row} for row in table_rows(scores)]
    lines = markdown_table(rows, names=("network", "stratum")).split("\n")
    assert cells(lines[0])[:3] == ["network", "stratum", "slices"] and cells(lines[2])[:3] == ["UNet", "all", "3"]


def test_a_bar_in_a_label_does_not_end_its_cell(scores):
    assert "| label LR/2 | 3 |" in markdown_table(table_rows(scores))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"x": 0.67349, "x_low": 0.6341, "x_high": 0.7086}, "0.673 (0.634 to 0.709)"),
        ({"x": 0.67349, "x_low": math.nan, "x_high": math.nan}, "0.673"),
        ({"x": math.nan, "x_low": math.nan, "x_high": math.nan}, "–"),
        ({"x": 715}, "715"),
    ],
)
def test_what_a_cell_says(row, text):
    assert cell(row, Column("any", "x", with_interval=True)) == text


def test_what_is_written_can_be_read_again(scores, tmp_path):
    rows = table_rows(scores)
    write_csv(tmp_path / "table.csv", rows)
    with open(tmp_path / "table.csv", newline="") as file:
        again = list(csv.DictReader(file))
    assert [row["stratum"] for row in again] == [row["stratum"] for row in rows]
    for read, row in zip(again, rows, strict=True):
        for name, text in read.items():
            if name not in ("stratum", "unit"):
                assert text == "" if math.isnan(row[name]) else float(text) == pytest.approx(row[name], rel=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_table_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, [{"a": 1}])
    with pytest.raises(ValueError, match="dict contains fields not in fieldnames"):
        write_csv(path, [{"a": 2}, {"b": 3}])
    assert path.read_text() == "a\n1\n" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_each_slice_has_a_row_of_its_own(scores):
    a, b, c = image_rows(scores)
    assert (a["id"], a["group"], a["label"], a["lesions"], a["lesions_found"]) == ("a", "p0", "LR|2", 1, 1)
    assert a["dice"] == 0.5 and a["hd95_mm"] == 2.0 and a["tp"] + a["fp"] + a["fn"] + a["tn"] == 256
    assert b["dice"] == 0 and math.isnan(b["precision"]) and c["diameter_mm"] == 0 and math.isnan(c["dice"])
    assert math.isnan(c["diameter_px"]) and math.isnan(a["hd95_px"])


def test_distances_are_under_their_unit(scores):
    in_px = [replace(s, unit="px", group=f"other {s.group}") for s in scores]
    for some, headers in ((scores, ["HD95 mm"]), (in_px, ["HD95 px"]), (scores + in_px, ["HD95 mm", "HD95 px"])):
        lines = markdown_table(table_rows(some)).split("\n")
        assert [header for header in cells(lines[0]) if "HD95" in header] == headers
        assert len({len(cells(line)) for line in lines}) == 1
    assert image_rows(in_px)[0]["hd95_px"] == 2.0 and math.isnan(image_rows(in_px)[0]["diameter_mm"])
    assert "HD95 px" in markdown_table(table_rows(in_px[2:]))  # also where nobody has one


def test_slices_have_columns_for_each_class_that_was_scored(scores):
    with_classes = [replace(s, classes=(s, replace(s, tp=0, fn=s.tp + s.fn))) for s in scores]
    rows = image_rows(with_classes, ("LR2", "LR3"))
    assert rows[0]["tp of LR2"] == 8 and rows[0]["tp of LR3"] == 0 and rows[0]["fn of LR3"] == 16
    assert rows[0]["dice of LR2"] == rows[0]["dice"] == 0.5 and rows[0]["dice of LR3"] == 0
    assert math.isnan(rows[2]["dice of LR2"])
    assert "dice of LR2" not in image_rows(scores, ("LR2", "LR3"))[0]
    header, _, first = markdown_table([table_rows(scores)[0] | {"stratum": "class LR2"}], CLASSES).split("\n")
    row = dict(zip(cells(header), cells(first), strict=True))
    assert (row["stratum"], row["slices"], row["without it"], row["false alarms"]) == ("class LR2", "3", "1", "0")
