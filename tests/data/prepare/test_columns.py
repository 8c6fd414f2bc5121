"""What a table calls its columns, and what is in its cells."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.headers import cell_text
from lungseg.data.prepare.columns import PATIENT_COLUMNS, SPACING_COLUMNS, find_column, parse_spacing, plain_name

NAMES = ["patient", "Patient ID", " patient_id ", "PatientID", "SeriesInstanceUID", "group", "Case"]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_is_found_however_its_name_is_written(name):
    assert find_column({"mask": [1], name: ["a"]}, PATIENT_COLUMNS) == name


def test_patients_come_before_series_and_images_are_no_names():
    table = {"series": ["s"], "Group": ["g"], "patient": [np.zeros((2, 2))], "mask": [np.zeros((2, 2))]}
    assert find_column(table, PATIENT_COLUMNS) == "Group"
    assert find_column({"mask": [], "label1": []}, PATIENT_COLUMNS) is None
    assert find_column({"pixel spacing (mm)": [0.7]}, SPACING_COLUMNS) == "pixel spacing (mm)"
    assert find_column({"spacing": [5.0]}, SPACING_COLUMNS) is None  # between slices, perhaps


def test_the_lists_of_names_are_in_the_form_that_is_compared():
    assert all(plain_name(name) == name for name in PATIENT_COLUMNS + SPACING_COLUMNS)


@pytest.mark.parametrize("cell", [None, math.nan, np.float64("nan"), "", "  ", "nan", "NaN", "<NA>", "NaT", "null"])
def test_a_missing_cell_is_no_text(cell):
    assert cell_text(cell) == "" and math.isnan(parse_spacing(cell))


def test_zero_is_a_text_and_a_whole_number_has_no_point():
    assert [cell_text(cell) for cell in (0, 0.0, 12.0, 1.5, True, " LR2 ", "none")] == [
        "0", "0", "12", "1.5", "True", "LR2", "none"
    ]  # fmt: skip


@given(mm=st.floats(0.01, 20), template=st.sampled_from(["{}", " {} ", "{}\\{}", "[{}, {}]", "({}; {})", "{} {}"]))
def test_a_spacing_is_one_number_or_the_same_one_twice(mm, template):
    assert parse_spacing(mm) == parse_spacing(template.format(mm, mm)) == mm


@pytest.mark.parametrize("cell", ["wide", "0", 0, -0.7, math.inf, "0,7", "0.7 0.7 2.0", "1e400", "0.7 mm", "[]"])
def test_what_is_no_spacing_is_refused(cell):
    with pytest.raises(ValueError, match="expected the side of a pixel in mm, a number above 0, got"):
        parse_spacing(cell)


def test_oblong_pixels_are_refused():
    with pytest.raises(ValueError, match=r"not square \(0.7 0.9 mm\). Resample"):
        parse_spacing("0.7 0.9")
    assert parse_spacing("0.7 0.7001") == 0.7
