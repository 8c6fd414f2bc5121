"""Verdicts as lines, as a table of a class, as JSON and as an exit code."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MARKS = {"passed": "ok", "failed": "FAILED", "not yet written": "blank", "not judged": "?"}
Results = list[dict[str, Any]]  # per file: "file", and "error" or "checks", a list of answers


class Silent:
    """Shows nothing while the checks run."""

    def event(self, event: dict[str, Any]) -> None:
        pass


class Lines(Silent):
    """Prints the name of a check before it runs, and its verdict after it."""

    def event(self, event: dict[str, Any]) -> None:
        if "error" in event:
            print(f"{event['file']}: cannot be imported: {event['error']}", file=sys.stderr)
        elif event.get("names") == []:
            print(
                f"{event['file']}: defines nothing that has a check. `python -m lungseg.checks --list` prints the "
                f"names.",
                file=sys.stderr,
            )
        elif "begin" in event:
            print(f"{event['begin']} ... ", end="", flush=True)
        elif "verdict" in event:
            print(MARKS.get(event["verdict"], "") if event["verdict"] == "failed" else event["verdict"])
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


def exit_code(results: Results) -> int:
    """0: all passed; 1: something failed; 2: something could not be judged, or there is nothing to judge."""
    verdicts = [check["verdict"] for result in results for check in result["checks"]]
    if "failed" in verdicts:
        return 1
    judged = all(result["checks"] and not result["error"] for result in results)
    return 0 if judged and set(verdicts) == {"passed"} else 2


def table(results: Results) -> str:
    """A row per file, a column per check, and the share that passed."""
    names = list(dict.fromkeys(check["name"] for result in results for check in result["checks"]))
    rows = [["file", *names, "passed"]]
    for result in results:
        marks = {check["name"]: MARKS[check["verdict"]] for check in result["checks"]}
        passed = f"{list(marks.values()).count('ok')} of {len(marks)}"
        last = "cannot be imported" if result["error"] else passed if marks else "nothing to check"
        rows.append([Path(result["file"]).name, *(marks.get(name, "-") for name in names), last])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    legend = "ok: passed   FAILED: wrong   blank: not yet written   ?: not judged   -: not in the file"
    return "\n".join([*lines, "", legend, *slips_of(results)])


def slips_of(results: Results) -> list[str]:
    """Which mistakes the class makes most often."""
    count: dict[str, int] = {}
    for result in results:
        for check in result["checks"]:
            if check["verdict"] == "failed":
                key = f"{check['name']}: {check.get('slip') or 'other'}"
                count[key] = count.get(key, 0) + 1
    common = sorted(count.items(), key=lambda item: (-item[1], item[0]))[:10]
    return ["", "Mistakes, the most frequent first:", *(f"{n:4d}  {key}" for key, n in common)] if common else []


def list_exercises() -> str:
    """The names that have a check, with what each is called with and returns."""
    from lungseg.checks.exercises import EXERCISES  # imports torch

    return "\n\n".join(f"{name}\n    {e.lesson.signature}\n    {e.lesson.page}" for name, e in EXERCISES.items())


def draw_first_mistake(results: Results, path: Path) -> str:
    """Write a picture of the first mistake that can be drawn; say what was written."""
    from lungseg.checks.drawing import draw  # imports Pillow

    for result in results:
        for check in result["checks"]:
            if check.get("picture"):
                draw(check["name"], check["picture"]).save(path)
                return f"{path}: {check['name']} of {result['file']}, expected, yours and the difference."
    return f"{path} was not written: there is no mistake that can be drawn."
