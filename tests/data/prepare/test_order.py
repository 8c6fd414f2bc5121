"""The scan and the number of each slice, from tables and from paths."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from lungseg.data.manifest import ImageRecord, find_series_problems
from lungseg.data.prepare.order import compile_order_pattern, find_place, read_places, settle_order


def record(n, group, series, number):
    return ImageRecord(f"r{n}", group, "train", series=series, slice_index=number)


def test_a_row_that_lacks_the_scan_or_the_number_has_no_place():
    table = {"mask": [0] * 4, "scan": ["a", None, "a", "b"], "z": [3.0, 4.0, float("nan"), "07"]}
    places, (note,) = read_places("t.pkl", table, "scan", "z")
    assert places == [("a", 3), ("", None), ("", None), ("b", 7)] and "'scan' and 'z'" in note
    assert read_places("t.pkl", table, None, None) == ([("", None)] * 4, [])  # no columns of our names


def test_a_path_says_the_scan_and_the_number():
    pattern = compile_order_pattern(r"^images/(.+)/slice(\d+)\.png$")
    assert find_place(Path("images/p1/lung/slice012.png"), pattern) == ("p1/lung", 12)
    with pytest.raises(ValueError, match="finds no scan and whole number in images/slice1.png"):
        find_place(Path("images/slice1.png"), pattern)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "p", "q"]), st.sampled_from(["", "1", "2"]), st.integers(0, 9)),
        unique_by=lambda row: row[1:],
    ),
    st.booleans(),
)
def test_every_scan_is_of_one_patient_and_keeps_its_distances(rows, from_head):
    """What the manifest refuses never comes out, and neighbours stay neighbours."""
    records = [record(n, p, s, z if s else None) for n, (p, s, z) in enumerate(rows)]
    settled, _ = settle_order(records, from_head and any(r.series for r in records))
    assert find_series_problems(settled) == []
    assert all(r.group for r in settled if r.series) and [r.id for r in settled] == [r.id for r in records]
    assert all(new.group == old.group for new, old in zip(settled, records, strict=True) if old.group)
    for a, old_a in zip(settled, records, strict=True):
        for b, old_b in zip(settled, records, strict=True):
            if a.series and a.series == b.series:
                assert old_a.series == old_b.series
                step = old_b.slice_index - old_a.slice_index
                assert b.slice_index - a.slice_index == (-step if from_head else step)


def test_two_patients_may_have_a_scan_of_one_name():
    settled, (note,) = settle_order([record(0, "p", "1", 0), record(1, "q", "1", 0), record(2, "", "1", 1)], False)
    assert [(r.group, r.series, r.slice_index) for r in settled] == [("p", "p 1", 0), ("q", "q 1", 0), ("", "", None)]
    assert note == "1 of 3 slices have no place in a scan, and so no neighbours."
