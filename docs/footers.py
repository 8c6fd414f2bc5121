"""Write the last line of every page, the links to the pages before and after it: python docs/footers.py

The order is the numbered list under "Reading order" in docs/README.md, and nothing else holds it. A new page is a new
line there; a test asserts that footers and list agree.
"""

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent
START = re.compile(r"\n---\n\n\[Contents\]\(.*\Z", re.DOTALL)


def read_order() -> list[tuple[str, str]]:
    """(title, path below docs/) of each page, as listed."""
    section = (DOCS / "README.md").read_text(encoding="utf-8").split("\n## Reading order\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. \[(.+?)\]\((.+?)\)$", section, re.MULTILINE)


def footer(order: list[tuple[str, str]], place: int) -> str:
    """The last lines of the page at a place of the order."""
    folder = Path(order[place][1]).parent

    def link(title: str, path: str) -> str:
        return f"[{title}]({Path(os.path.relpath(path, folder)).as_posix()})"

    links = [link("Contents", "README.md")]
    if place > 0:
        links.append("before: " + link(*order[place - 1]))
    if place + 1 < len(order):
        links.append("next: " + link(*order[place + 1]))
    return "\n---\n\n" + " · ".join(links) + "\n"


def without_footer(text: str) -> str:
    """The page without its last lines."""
    return START.sub("", text).rstrip("\n") + "\n"


def main() -> None:
    """Write them all."""
    order = read_order()
    for place, (_, path) in enumerate(order):
        page = DOCS / path
        page.write_text(without_footer(page.read_text(encoding="utf-8")) + footer(order, place), encoding="utf-8")


if __name__ == "__main__":
    main()
