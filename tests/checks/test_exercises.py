"""Each name that has a check is one of ours, or a step of the course; and the solutions pass."""

import sys
from unittest import mock

import pytest
from mutants import SOLUTIONS, as_module

from lungseg.checks import course
from lungseg.checks.exercises import EXERCISES

FILES = sorted(SOLUTIONS.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_right_file_passes(file):
    with mock.patch.object(sys, "path", [str(SOLUTIONS), *sys.path]):
        module = as_module(file.read_text())
        names = [name for name in EXERCISES if getattr(getattr(module, name, None), "__module__", "") == "student"]
        assert names
        for name in names:
            EXERCISES[name].check(getattr(module, name))


def test_the_readme_counts_them():
    readme = (SOLUTIONS.parents[2] / "README.md").read_text()
    assert f"{len(EXERCISES)} functions and classes have a check" in readme


def test_every_name_of_the_course_has_a_check():
    assert {name for names in course.NAMES.values() for name in names} <= set(EXERCISES)
