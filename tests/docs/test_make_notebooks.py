"""docs/make_notebooks.py: what is in a notebook is what is on its page, it is valid, and it runs."""

import base64
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SPEC = importlib.util.spec_from_file_location("make_notebooks", DOCS / "make_notebooks.py")
make_notebooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_notebooks)
PAGES = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md"))
QUICK = ["nn/windows", "nn/attention", "nn/patches", "metrics"]  # under a second each


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "notebooks"
    assert make_notebooks.main([str(out)]) == 0
    return out


def read(folder, page):
    return json.loads((folder / f"{page}.ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES)
def test_each_page_is_a_valid_notebook(folder, page):
    """The required fields of the schema of nbformat 4.5, and no others."""
    book = read(folder, page)
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and book["metadata"]["kernelspec"]["name"]
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id_) for id_ in ids)
    for cell in book["cells"]:
        required = {"id", "cell_type", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert set(cell) == required | {"outputs", "execution_count"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        else:
            assert cell["cell_type"] == "markdown" and required <= set(cell) <= required | {"attachments"}
        assert isinstance(cell["source"], str) and cell["source"].strip()


@pytest.mark.parametrize("page", PAGES)
def test_a_notebook_has_the_blocks_of_its_page_and_no_answer_in_sight(folder, page):
    text = (DOCS / f"{page}.md").read_text()
    cells = read(folder, page)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    blocks = re.findall(r"^```python\n(.*?)\n^```", text, re.MULTILINE | re.DOTALL)
    assert [cell["source"] for cell in code[1:]] == blocks
    start = text.find("## Exercises\n")
    answers = len(re.findall(r"^```python\n", text[start:], re.MULTILINE)) if start >= 0 else 0
    assert sum("answer" in cell["metadata"].get("tags", ()) for cell in code) == answers
    for cell in cells:
        if cell["cell_type"] == "markdown":
            assert cell["source"].count("<details>") == cell["source"].count("</details>")
            assert "```python\n" not in cell["source"]


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_inside_and_links_lead_somewhere(folder, page):
    for cell in read(folder, page)["cells"]:
        if cell["cell_type"] == "code":
            continue
        prose = re.sub(r"^```.*?^```", "", cell["source"], flags=re.MULTILINE | re.DOTALL)
        for mark, target in re.findall(r"(!?)\[[^\]]*\]\(([^)#\s]+)", prose):
            if mark:
                (data,) = cell["attachments"][target.removeprefix("attachment:")].values()
                assert base64.b64decode(data)[:4] in (b"\x89PNG", b"GIF8")
            elif "://" not in target:
                assert ((folder / page).parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", QUICK)
def test_a_notebook_runs(folder, page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # restored afterwards: the first cell goes elsewhere
    names = {"__name__": "page"}
    for cell in read(folder, page)["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(cell["source"], f"{page}.ipynb {cell['id']}", "exec"), names)
    assert Path.cwd() != tmp_path and not any(tmp_path.iterdir())


def test_what_is_there_is_not_overwritten(folder, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert make_notebooks.main([str(tmp_path)]) == 2
    assert "is not an empty folder. Choose a new one." in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_will_do_and_nothing_half_written_is_left(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    out.mkdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(make_notebooks, "notebook", full)
    assert make_notebooks.main([str(out)]) == 2 and "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not any(out.iterdir())
    monkeypatch.undo()
    assert make_notebooks.main([str(out)]) == 0 and (out / "nn" / "windows.ipynb").is_file()
