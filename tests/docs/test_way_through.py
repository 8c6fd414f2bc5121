"""docs/README.md: its list holds every page once, footers follow it, and what it names exists in the file it names."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SPEC = importlib.util.spec_from_file_location("footers", DOCS / "footers.py")
footers = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(footers)

ORDER = footers.read_order()
TEXT = (DOCS / "README.md").read_text()
EQUATIONS = [line for line in TEXT.split("## Where each equation is")[1].splitlines() if line.startswith("| ")][1:]


def test_each_page_has_one_place_in_the_order():
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
    assert sorted([*(path for _, path in ORDER), "README.md"]) == pages


@pytest.mark.parametrize("place", range(len(ORDER)), ids=[path for _, path in ORDER])
def test_a_page_ends_with_links_to_its_neighbours(place):
    text = (DOCS / ORDER[place][1]).read_text()
    expected = footers.without_footer(text) + footers.footer(ORDER, place)
    assert text == expected, "run python docs/footers.py"


def test_writing_footers_twice_changes_nothing():
    page = "# A page\n\nIts text.\n"
    once = page + footers.footer(ORDER, 3)
    assert footers.without_footer(once) == page and footers.without_footer(page) == page


def defined_in(path):
    """Functions and classes of a file, and methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("row", EQUATIONS)
def test_what_implements_an_equation_is_in_the_file_that_is_named(row):
    here = row.rstrip("|").split(" | ")[-1]
    groups = re.findall(r"((?:`[\w.]+`(?:, )?)+) in \[(\w+\.py)\]\((\S+?)\)", here)
    assert groups and sum(len(re.findall("`", names)) for names, _, _ in groups) == here.count("`")
    for names, shown, target in groups:
        assert Path(target).name == shown
        missing = set(re.findall(r"`([\w.]+)`", names)) - defined_in((DOCS / target).resolve())
        assert not missing, f"{target} has no {', '.join(sorted(missing))}"
