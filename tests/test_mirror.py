"""Tests and docs mirror the package: lungseg/nn/windows.py, tests/nn/test_windows.py, docs/nn/windows.md."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    p.relative_to(ROOT / "lungseg").with_suffix("")
    for p in (ROOT / "lungseg").rglob("*.py")
    if not p.name.startswith("__")
)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_has_its_tests(module):
    assert (ROOT / "tests" / module.parent / f"test_{module.name}.py").is_file()


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] != "checks"], ids=str)
def test_a_module_has_its_page(module):
    assert (ROOT / "docs" / module).with_suffix(".md").is_file()


@pytest.mark.parametrize("script", sorted(p.stem for p in (ROOT / "examples").glob("*.py")))
def test_an_example_has_its_tests(script):
    assert (ROOT / "tests/examples" / f"test_{script}.py").is_file()
