"""Every Python block in the README and docs/ runs, in order, as a reader would type it.

Only the training in the README is shorter here.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_on_this_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a page may write files
    text = (ROOT / page).read_text()
    if page == "README.md":
        assert "for epoch in range(10):" in text
        text = text.replace("range(10)", "range(1)")  # what one epoch does not show, nine more do not
    names = {"__name__": "page"}
    for match in BLOCK.finditer(text):
        line = text[: match.start(1)].count("\n")  # so that a traceback points into the page
        exec(compile("\n" * line + match[1], str(ROOT / page), "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} points to {target}, which is not there"


def anchors(page):
    """The part behind # that GitHub gives to each heading: lower case, no punctuation, hyphens for blanks."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_a_link_into_a_page_leads_to_one_of_its_headings(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text):
        if "://" not in target:
            there = (ROOT / page).parent / target if target else ROOT / page
            assert anchor in anchors(there), f"{page}: {target or 'this page'} has no heading #{anchor}"


def test_each_picture_is_drawn_by_a_script_beside_it():
    drawn = {p.stem for p in (ROOT / "docs/pictures").glob("*.py")}
    for picture in (ROOT / "docs/img").glob("*.png"):
        assert any(picture.stem == d or picture.stem.startswith(d + "_") for d in drawn), (
            f"docs/img/{picture.name} has no docs/pictures/*.py that draws it"
        )


def test_every_page_can_be_reached_from_the_design():
    design = (ROOT / "docs/design.md").read_text()
    for page in PAGES:
        name = page.removeprefix("docs/")
        if page.startswith("docs/") and name != "design.md":
            assert f"({name})" in design, f"docs/design.md does not link to {name}"
