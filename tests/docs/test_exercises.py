"""Each numbered exercise at the end of a page has a hidden answer."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {
    path.relative_to(ROOT).as_posix(): section[1]
    for path in sorted((ROOT / "docs").rglob("*.md"))
    if (section := re.search(r"^## Exercises\n(.*?)(?=^## |\Z)", path.read_text(), re.MULTILINE | re.DOTALL))
}
ITEM = re.compile(r"^(\d+)\. ", re.MULTILINE)
# GitHub renders Markdown inside <details> only where blank lines set it apart.
ANSWER = re.compile(r"\n\n<details><summary>Answer</summary>\n\n(\S.*?)\n\n</details>\n", re.DOTALL)


@pytest.mark.parametrize("page", SECTIONS)
def test_each_exercise_has_an_answer_of_its_own(page):
    section = SECTIONS[page]
    prose = re.sub(r"```.*?```", lambda block: " " * len(block[0]), section, flags=re.DOTALL)
    starts = [match.start() for match in ITEM.finditer(prose)]
    exercises = [section[a:b] for a, b in zip(starts, [*starts[1:], len(section)], strict=True)]
    assert [int(ITEM.match(text)[1]) for text in exercises] == list(range(1, len(exercises) + 1)), "numbered from 1"
    for text in exercises:
        assert len(ANSWER.findall(text)) == 1, f"{page} has no answer, or several, to: {text.splitlines()[0]}"


def test_the_exercises_are_found():
    assert sum(len(ANSWER.findall(section)) for section in SECTIONS.values()) > 90
