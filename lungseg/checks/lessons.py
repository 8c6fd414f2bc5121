"""What a check teaches, and the ways it can end other than well."""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Lesson:
    """What a check is about, and what it says about every mistake."""

    name: str  # of the function or class in the student's file
    signature: str  # how it is called, and what it returns
    rule: str  # one sentence: what it must compute, and why
    page: str  # that explains it
    slips: Mapping[str, str] = field(default_factory=dict)  # known mistake -> what the student's code seems to do
    ours: tuple[str, ...] = ()  # what a file that only wraps ours would call; the name, if left out


class Wrong(AssertionError):
    """A student's result is wrong: what, why, which slip, and where to read about it. `str()` is the whole answer."""

    def __init__(self, lesson: Lesson, what: str, *, numbers: str = "", slip: str = "", picture: Any = None):
        self.lesson, self.what, self.numbers, self.slip, self.picture = lesson, what, numbers, slip, picture
        parts = [wrap(what), textwrap.indent(numbers, "  "), wrap(f"The rule: {lesson.rule}")]
        if slip:
            parts.append(wrap(f"Likely slip ({slip}): {lesson.slips[slip]}"))
        parts.append(f"Read: {lesson.page}")
        super().__init__("\n".join(part for part in parts if part))


def wrap(text: str) -> str:
    """Long lines broken at 100 characters, as they are read on a projector."""
    lines = [textwrap.wrap(line, 100, subsequent_indent="  ", break_long_words=False) for line in text.splitlines()]
    return "\n".join(part for line in lines for part in line)


class NotWritten(Exception):
    """The function is still a blank: its body is `pass`, `...` or `raise NotImplementedError`."""


class NotJudged(Exception):
    """There is nothing to judge: a partner is missing, or the code is ours."""
