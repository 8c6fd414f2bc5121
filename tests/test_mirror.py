"""Tests mirror the package, one file per module; docs have a page per idea, and docs/design.md says on which."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    p.relative_to(ROOT / "lungseg").with_suffix("")
    for p in (ROOT / "lungseg").rglob("*.py")
    if not p.name.startswith("_")
)
ROW = re.compile(r"^\|(.*?)\|.*\|(.*?)\|$", re.MULTILINE)  # | files | what they hold | pages |


def pages_by_module():
    """module -> the pages that the table of docs/design.md names for it."""
    found = {}
    for files, pages in ROW.findall((ROOT / "docs/design.md").read_text()):
        for module in re.findall(r"`([\w/]+)\.py`", files):
            found.setdefault(module, []).extend(re.findall(r"\]\(([\w/]+\.md)\)", pages))
    return found


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_its_tests(module):
    assert (ROOT / "tests" / module.parent / f"test_{module.name}.py").is_file()


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] != "checks"], ids=str)
def test_a_module_has_a_page_on_its_idea(module):
    pages = pages_by_module().get(module.as_posix(), [])
    assert pages, f"the table of docs/design.md does not say which page is about {module}.py"
    assert all((ROOT / "docs" / page).is_file() for page in pages)


def test_the_table_of_the_design_names_no_module_that_is_gone():
    gone = {module for module in pages_by_module() if not (ROOT / "lungseg" / f"{module}.py").is_file()}
    assert not gone, f"docs/design.md has rows for {sorted(gone)}"


@pytest.mark.parametrize("script", sorted(p.stem for p in (ROOT / "examples").glob("*.py")))
def test_an_example_has_its_tests(script):
    assert (ROOT / "tests/examples" / f"test_{script}.py").is_file()
