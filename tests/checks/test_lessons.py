"""What an answer says, and that every exercise has what an answer needs."""

from pathlib import Path

import pytest

from lungseg.checks.exercises import EXERCISES
from lungseg.checks.lessons import Lesson, Wrong

ROOT = Path(__file__).parents[2]
LESSON = Lesson("f", "f(x)", "the rule.", "docs/x.md", {"slip": "what was done."})


def test_an_answer_holds_what_why_slip_and_page():
    text = str(Wrong(LESSON, "is wrong", numbers="1 2\n3 4", slip="slip"))
    assert text == "is wrong\n  1 2\n  3 4\nThe rule: the rule.\nLikely slip (slip): what was done.\nRead: docs/x.md"


def test_an_answer_without_a_slip_does_not_speak_of_one():
    assert "slip" not in str(Wrong(LESSON, "is wrong"))


def test_long_lines_are_broken_for_a_projector():
    assert max(map(len, str(Wrong(LESSON, "word " * 100)).splitlines())) <= 100


def test_an_unknown_slip_is_a_fault_of_ours():
    with pytest.raises(KeyError):
        Wrong(LESSON, "is wrong", slip="another")


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_has_a_signature_a_rule_and_a_page_that_exists(name):
    lesson = EXERCISES[name].lesson
    assert lesson.signature and lesson.rule.endswith((".", ")")) and (ROOT / lesson.page).is_file()
    assert all(words.endswith((".", ")", "?")) for words in lesson.slips.values())
