"""Columns and cells as people write them: nothing that was meant is lost in silence."""

import csv
import io

import pytest
from hypothesis import given, strategies as st

from lungseg.data.headers import read_csv, recognise, resembles
from lungseg.data.manifest import COLUMNS

SPACES = st.sampled_from(["", " ", "\t", "  ", "\u00a0"])
CASES = st.sampled_from([str.lower, str.upper, str.title, str.swapcase])


@given(names=st.permutations(COLUMNS), case=CASES, before=SPACES, after=SPACES)
def test_case_and_outer_spaces_do_not_matter(names, case, before, after):
    assert recognise([before + case(name) + after for name in names], COLUMNS, guard=COLUMNS) == list(names)


def test_other_columns_keep_their_names():
    assert recognise(["ID", " Area px ", "readers"], COLUMNS, guard=COLUMNS) == ["id", "Area px", "readers"]


@pytest.mark.parametrize("names", [("split", "Split"), ("id", "group", " GROUP ")])
def test_two_columns_that_become_one_are_refused(names):
    with pytest.raises(ValueError, match="are the same name. Remove one"):
        recognise(names, COLUMNS)


NEAR = {
    "id": ["ids", "i_d"],
    "group": ["groups", "grup", "patient", "Patient ID", "PatientID", "subject", "series_uid", "group_id"],
    "split": ["splits", "spilt", "Split Name", "data_split", "fold", "subset"],
    "label": ["labels", "lable", "label_", "label1"],
    "spacing_mm": ["spacing", "spacing mm", "Spacing-MM", "spacingmm", "spacings_mm"],
    "hu_low": ["hu low", "HULow", "hu_lo"],
    "hu_high": ["hu-high", "hu_hi"],
    "bits": ["bit"],
}


@pytest.mark.parametrize(("wanted", "name"), [(w, n) for w, names in NEAR.items() for n in names])
def test_a_near_miss_is_named_where_the_column_is_missing_and_only_there(wanted, name):
    others = [column for column in COLUMNS if column != wanted]
    with pytest.raises(ValueError, match=f"there is no {wanted}, but there is {name!r}. If that .* call it"):
        recognise([*others, name], COLUMNS, guard=COLUMNS)
    assert recognise([*COLUMNS, name], COLUMNS, guard=COLUMNS)[-1] == name.strip()
    assert recognise([*others, name], COLUMNS)[-1] == name.strip()  # nobody asked to guard it


def test_what_tables_of_others_hold_is_no_near_miss():
    found = "area_px diameter_mm readers slice_mm slices volume_mm3 sex age bits_stored slice_thickness_mm kernel notes"
    assert not [(name, column) for name in found.split() for column in COLUMNS if resembles(name, column)]


def written(folder, text, encoding="utf-8"):
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return folder / "t.csv"


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), max_size=8)


@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS).filter(lambda cells: any(map(str.strip, cells))), max_size=4),
    separator=st.sampled_from(",;\t"),
    mark=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_cells_come_back_without_the_spaces_around_them(tmp_path_factory, rows, separator, mark, end):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator=end).writerows([("id", "Group", " split"), *rows])
    path = written(tmp_path_factory.mktemp("t"), file.getvalue(), "utf-8-sig" if mark else "utf-8")
    expected = [dict(zip(("id", "group", "split"), map(str.strip, row), strict=True)) for row in rows]
    assert [row for _, row in read_csv(path, COLUMNS)] == expected


def test_lines_are_counted_as_an_editor_does_and_empty_ones_are_passed_over(tmp_path):
    path = written(tmp_path, 'id,group,\n\na,"p\nq"\n,,\nb,r,,\n')
    assert read_csv(path, COLUMNS) == [(4, {"id": "a", "group": "p\nq"}), (6, {"id": "b", "group": "r"})]


def test_a_row_with_more_cells_than_the_header_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 3 has 3 cells and the header 2. Put texts that hold ',' in quotes"):
        read_csv(written(tmp_path, "id,label\na,b\nc,solid, part\n"), COLUMNS)


def test_an_empty_file_is_a_table_without_rows(tmp_path):
    assert read_csv(written(tmp_path, ""), COLUMNS) == []
