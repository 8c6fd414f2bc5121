"""Verdicts as lines, as a table of a class, as JSON and as an exit code."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKS = {"passed": "ok", "failed": "FAILED", "not yet written": "blank", "not judged": "?"}
SHORT_MARKS = {"ok": "ok", "FAILED": "X", "blank": "_", "?": "?", "-": "-"}  # where the columns are many
JSON_KEYS = ("name", "verdict", "slip", "what", "message", "page", "printed")  # of a check; every check has them all
Results = list[dict[str, Any]]  # per file: "file", and "error" or "checks", a list of answers


class Silent:
    """Shows nothing while the checks run."""

    def event(self, event: dict[str, Any]) -> None:
        """Take what the worker tells: a file's names or its error, a check that begins, or its answer."""


class Counter(Silent):
    """On a terminal, a line that says which file of how many is being checked."""

    def __init__(self, total: int):
        self.total, self.files = total, 0

    def event(self, event: dict[str, Any]) -> None:
        if ("names" in event or "error" in event) and sys.stderr.isatty():
            self.files += 1
            end = "\r" if self.files < self.total else "\r\033[K"
            print(f"\r\033[K{self.files} of {self.total}: {event['file']}", end=end, file=sys.stderr, flush=True)


class Lines(Silent):
    """Prints the name of a check before it runs, and its verdict after it."""

    def __init__(self, asked: Sequence[str] = ()):
        self.asked = asked  # the names on the command line

    def event(self, event: dict[str, Any]) -> None:
        if "error" in event:
            print(f"{event['file']}: cannot be imported: {event['error']}", file=sys.stderr)
        elif absent := [name for name in self.asked if name not in event.get("names", self.asked)]:
            print(
                f"{event['file']}: has no check for {', '.join(absent)}: the file does not define it, or the name has "
                f"no check. `python -m lungseg.checks --list` prints the names.",
                file=sys.stderr,
            )
        elif event.get("names") == []:
            print(
                f"{event['file']}: defines nothing that has a check. `python -m lungseg.checks --list` prints the "
                f"names.",
                file=sys.stderr,
            )
        elif "begin" in event:
            print(f"{event['begin']} ... ", end="", flush=True)
        elif "verdict" in event:
            print("FAILED" if event["verdict"] == "failed" else event["verdict"])
            if event["message"]:
                print(indent(event["message"]) + "\n")
            if event.get("printed") and event["verdict"] != "passed":
                print(indent(f"Your code printed:\n{event['printed'].rstrip()}") + "\n")


def indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def collect(paths: Sequence[Path], names: Sequence[str], time_limit: float, show: Silent) -> Results:
    """Run the checks of these files in a worker and return the answers of each."""
    results: Results = [{"file": str(path), "error": "the checks were stopped.", "checks": []} for path in paths]
    by_file = {result["file"]: result for result in results}
    order = json.dumps({"files": [str(p) for p in paths], "names": list(names), "time_limit": time_limit,
                        "folder": os.getcwd()})  # fmt: skip
    with start_worker() as worker:
        assert worker.stdin is not None and worker.stdout is not None  # both are pipes
        worker.stdin.write(order)
        worker.stdin.close()
        for line in worker.stdout:
            event = json.loads(line)
            show.event(event)
            result = by_file[event["file"]]
            result["error"] = event.get("error", "")
            if "verdict" in event:
                result["checks"].append({k: v for k, v in event.items() if k != "file"})
    return results


def start_worker() -> subprocess.Popen[str]:
    """A Python of its own with one thread, so that it may fork after torch is loaded.

    It starts in the package's folder: Python looks for modules in the current one, where a student's random.py may be.
    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    package = str(Path(__file__).parents[2])
    given = [os.path.abspath(p) for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return subprocess.Popen(
        [sys.executable, "-m", "lungseg.checks.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | one_thread | {"PYTHONPATH": os.pathsep.join([package, *given])},
        cwd=package,
    )


def exit_code(results: Results, names: Sequence[str] = ()) -> int:
    """0: all passed; 1: something failed; 2: something could not be judged, is missing, or nothing was found."""
    verdicts = [check["verdict"] for result in results for check in result["checks"]]
    if "failed" in verdicts:
        return 1
    judged = all(result["checks"] and not result["error"] for result in results)
    complete = all(set(names) <= {check["name"] for check in result["checks"]} for result in results)
    return 0 if judged and complete and set(verdicts) == {"passed"} else 2


def as_json(results: Results, names: Sequence[str] = ()) -> str:
    """The verdicts for a program: every file with the same keys, every check with JSON_KEYS, empty where unknown."""
    files = [
        {
            "file": result["file"],
            "error": result["error"],
            "checks": [{key: check.get(key) or "" for key in JSON_KEYS} for check in result["checks"]],
        }
        for result in results
    ]
    return json.dumps({"exit_code": exit_code(results, names), "files": files}, indent=1)


def table(results: Results, names: Sequence[str] = (), width: int | None = None) -> str:
    """A row per file, a column per check, and the share that passed; numbers head columns that would be too wide.

    With names, these are the columns, and what a file lacks of them counts as not passed.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    columns = list(dict.fromkeys([*names] or [check["name"] for result in results for check in result["checks"]]))
    rows = [row(result, label, columns, len(names)) for result, label in zip(results, labels(results), strict=True)]
    lines = aligned([["file", *columns, "passed"], *rows])
    legend = "ok: passed   FAILED: wrong   blank: not yet written   ?: not judged   -: not in the file"
    if max(map(len, lines)) > width:
        numbers = [str(i) for i in range(1, len(columns) + 1)]
        short = [[first, *(SHORT_MARKS[mark] for mark in marks), last] for first, *marks, last in rows]
        lines = aligned([["file", *numbers, "passed"], *short])
        key = "   ".join(f"{number}:\N{NO-BREAK SPACE}{name}" for number, name in zip(numbers, columns, strict=True))
        legend = "ok: passed   X: wrong   _: not yet written   ?: not judged   -: not in the file"
        legend += "\n" + textwrap.fill(key, width).replace("\N{NO-BREAK SPACE}", " ")
    return "\n".join([*lines, "", legend, *errors_of(results, width), *slips_of(results)])


def row(result: dict[str, Any], label: str, columns: Sequence[str], asked: int) -> list[str]:
    """One file: its label, the mark of each check, and how many passed."""
    marks = {check["name"]: MARKS[check["verdict"]] for check in result["checks"]}
    passed = f"{list(marks.values()).count('ok')} of {asked or len(marks)}"
    last = "cannot be imported" if result["error"] else passed if marks else "nothing to check"
    return [label, *(marks.get(name, "-") for name in columns), last]


def labels(results: Results) -> list[str]:
    """The names of the files, with their folders if there are several."""
    paths = [Path(result["file"]) for result in results]
    return [path.name if len({p.parent for p in paths}) == 1 else f"{path.parent.name}/{path.name}" for path in paths]


def aligned(rows: list[list[str]]) -> list[str]:
    """The rows of a table as lines, with a rule below the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def errors_of(results: Results, width: int) -> list[str]:
    """Why files cannot be imported."""
    errors = [f"{label}: {r['error']}" for label, r in zip(labels(results), results, strict=True) if r["error"]]
    wrapped = [textwrap.fill(e, width, initial_indent=" " * 4, subsequent_indent=" " * 8) for e in errors]
    return ["", "Cannot be imported:", *wrapped] if errors else []


def slips_of(results: Results) -> list[str]:
    """Which mistakes the class makes most often."""
    count: dict[str, int] = {}
    for result in results:
        for check in result["checks"]:
            if check["verdict"] == "failed":
                key = f"{check['name']}: {check.get('slip') or how_it_failed(check.get('what', ''))}"
                count[key] = count.get(key, 0) + 1
    common = sorted(count.items(), key=lambda item: (-item[1], item[0]))[:10]
    return ["", "Mistakes, the most frequent first:", *(f"{n:4d}  {key}" for key, n in common)] if common else []


def how_it_failed(what: str) -> str:
    """In a word or two, for a mistake that has no name: the exception, no answer, a crash, or other."""
    if what.startswith("no answer after"):
        return "no answer in time"
    if what.startswith(("the code ended the program", "the code crashed the program")):
        return "the program ended"
    exception = re.match(r"(\w+(?:Error|Exception)):", what)
    return exception[1] if exception else "other"


def list_exercises() -> str:
    """The names that have a check, with what each is called with and returns."""
    from lungseg.checks.exercises import EXERCISES  # imports torch

    return "\n\n".join(f"{name}\n    {e.lesson.signature}\n    {e.lesson.page}" for name, e in EXERCISES.items())


def draw_first_mistake(results: Results, path: Path) -> str:
    """Write a picture of the first mistake that can be drawn; say what was written."""
    from lungseg.checks.drawing import draw  # imports Pillow
    from lungseg.files import whole_file

    for result in results:
        for check in result["checks"]:
            if check.get("picture"):
                with whole_file(path) as file:
                    draw(check["name"], check["picture"]).save(file, format="png")
                return f"{path}: {check['name']} of {result['file']}, expected, yours and the difference."
    return f"{path} was not written: there is no mistake that can be drawn."
