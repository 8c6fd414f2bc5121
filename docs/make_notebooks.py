"""Make a Jupyter notebook of every page: python docs/make_notebooks.py OUT

Prose becomes Markdown cells, blocks marked `python` become code cells, in the same order; other blocks stay in the
prose. Pictures are stored in the notebook. Answers to exercises stay hidden. OUT must be a new or an empty folder.
Nothing but Python's standard library is needed to make them; running them needs lungseg.
"""

import argparse
import base64
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")
OPEN, CLOSE = "<details><summary>Answer</summary>\n\n", "\n\n</details>"
START = "import os\nimport tempfile\n\nos.chdir(tempfile.mkdtemp())  # pages write files: not next to the notebook"
Cell = dict[str, Any]


def notebook(page: Path, target: Path) -> dict[str, Any]:
    """The notebook of one page, to be written to `target`: nbformat 4.5."""
    cells: list[Cell] = []
    answering = False  # inside <details>: a cell cannot begin one that another cell ends
    pieces = BLOCK.split(page.read_text(encoding="utf-8"))  # prose, code, prose, code, ..., prose
    for text, code in zip(pieces[::2], [*pieces[1::2], None], strict=True):
        opened, answering = (
            answering,
            text.rfind("<details>") > text.rfind("</details>") or (answering and "</details>" not in text),
        )
        prose = (OPEN if opened else "") + text.strip("\n") + (CLOSE if answering else "")
        prose = prose.replace(OPEN + "</details>", "").strip("\n")  # nothing but its end followed the code
        if prose:
            cells.append(markdown_cell(prose, page, target))
        if code is not None:
            cells.append(code_cell(code.rstrip("\n"), hidden=answering))
    if len(pieces) > 1:
        cells.insert(1, code_cell(START))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def code_cell(code: str, *, hidden: bool = False) -> Cell:
    """A cell that has not been run; a hidden one is collapsed until the reader opens it."""
    metadata = {"jupyter": {"source_hidden": True}, "tags": ["answer"]} if hidden else {}
    return {"cell_type": "code", "metadata": metadata, "source": code, "outputs": [], "execution_count": None}


def markdown_cell(text: str, page: Path, target: Path) -> Cell:
    """Prose whose pictures are attached, and whose links lead to other notebooks or to files of the repository."""
    attachments = {}

    def follow(match: re.Match[str]) -> str:
        picture, label, path = match[1], match[2], match[3]
        file = (page.parent / path).resolve()
        if "://" in path or not path:
            return match[0]
        if picture:
            kind = "image/" + file.suffix[1:]
            attachments[file.name] = {kind: base64.b64encode(file.read_bytes()).decode("ascii")}
            return f"![{label}](attachment:{file.name})"
        if file.suffix == ".md" and file.is_relative_to(DOCS):
            return f"[{label}]({Path(path).with_suffix('.ipynb').as_posix()})"
        return f"[{label}]({Path(os.path.relpath(file, target.parent)).as_posix()})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)  # links are not looked for in code
    parts[::2] = [LINK.sub(follow, part) for part in parts[::2]]
    cell: Cell = {"cell_type": "markdown", "metadata": {}, "source": "".join(parts)}
    return cell | ({"attachments": attachments} if attachments else {})


def make_notebooks(out: Path) -> int:
    """Write all notebooks below `out`, or none of them; returns how many."""
    pages = sorted(DOCS.rglob("*.md"))
    out.parent.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        for page in pages:
            place = page.relative_to(DOCS).with_suffix(".ipynb")
            (hidden / place).parent.mkdir(parents=True, exist_ok=True)
            content = json.dumps(notebook(page, out / place), indent=1, ensure_ascii=False) + "\n"
            (hidden / place).write_text(content, encoding="utf-8")
        hidden.chmod(0o755)  # mkdtemp makes folders for its owner only
        os.replace(hidden, out)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return len(pages)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new or empty folder for the notebooks")
    out = parser.parse_args(argv).out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        print(f"make_notebooks.py: {out} is not an empty folder. Choose a new one.", file=sys.stderr)
        return 2
    try:
        print(f"{make_notebooks(out)} notebooks in {out}")
    except OSError as error:
        print(f"make_notebooks.py: cannot write {out}: {error.strerror}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
