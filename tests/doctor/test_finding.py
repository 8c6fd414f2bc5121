"""What is printed of findings, and what a program reads of them."""

import json

import pytest
from hypothesis import given, strategies as st

from lungseg.doctor.finding import FAULT, OK, WARNING, WIDTH, Finding, has_fault, report, summarise

TEXT = st.text("abc xyz 123.", max_size=300)


@given(st.builds(Finding, st.sampled_from(["a", "mask values", "n" * 30]), st.sampled_from([OK, WARNING, FAULT]), TEXT))
def test_the_first_line_begins_with_verdict_and_name_and_no_line_is_too_long(finding):
    lines = str(finding).splitlines() or [""]
    if finding.measured.strip():
        assert lines[0].split()[0] == finding.verdict and finding.name in lines[0]
    assert all(len(line) <= WIDTH for line in lines)


def test_cause_cure_and_details_are_below():
    finding = Finding("mask values", FAULT, "values 0, 255", "a PNG", "Divide.", ("0 ###", "1 #"))
    first, *below = str(finding).splitlines()
    assert first == "FAULT   mask values            values 0, 255"
    assert [line.split() for line in below] == [["cause", "a", "PNG"], ["cure", "Divide."], ["0", "###"], ["1", "#"]]
    assert json.loads(json.dumps(finding.to_dict()))["details"] == ["0 ###", "1 #"]


def test_an_unknown_verdict_is_refused():
    with pytest.raises(ValueError, match="expected the verdict .* got 'bad'"):
        Finding("x", "bad", "1")


def test_the_summary_counts_and_names_the_worst():
    ok, warning, fault = (Finding(v, v, "1") for v in (OK, WARNING, FAULT))
    assert summarise([ok, ok]) == "2 ok, no warning, no fault. Nothing is wrong with what was examined."
    assert summarise([ok, warning]) == "1 ok, 1 warning, no fault. Look at: warning."
    assert summarise([fault, warning, fault]) == "0 ok, 1 warning, 2 faults. Mend first: FAULT."
    assert [has_fault(f) for f in ([], [ok, warning], [ok, fault])] == [False, False, True]
    assert report([ok, fault]).splitlines()[-1].startswith("1 ok, no warning, 1 fault.")
