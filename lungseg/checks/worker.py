"""python -m lungseg.checks.worker: runs the checks of some files, each in a process of its own, and reports in JSON.

`python -m lungseg.checks` starts it. It imports torch once and then forks: a student's code never runs in this process,
so whatever it does (sys.exit, a segmentation fault, an endless loop, terabytes) ends one check and becomes a verdict.
"""

import faulthandler
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from lungseg.checks import calling
from lungseg.checks.exercises import EXERCISES
from lungseg.checks.lessons import NotJudged, NotWritten, Wrong
from lungseg.python_file import import_file

MEMORY = 6 * 2**30  # bytes that a check may allocate beyond what torch already has
KEPT_OUTPUT = 500  # characters of what a student's code prints
OUTPUTS: list[int] = []  # the descriptor that verdicts are written to
Answer = dict[str, Any]


class FirstLines(io.StringIO):
    """Standard output of a student's code: its beginning is kept, however much is printed."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, KEPT_OUTPUT - self.tell())])
        return len(text)


def judge_name(path: Path, name: str) -> Answer:
    """Import the file and run the check of one name; the answer as a dictionary."""
    calling.REFUSE_OURS = not path.resolve().is_relative_to(calling.PACKAGE)  # our own files are judged, too
    try:
        EXERCISES[name].check(getattr(import_file(path), name))
    except NotWritten:
        return {"verdict": "not yet written", "message": ""}
    except NotJudged as reason:
        return {"verdict": "not judged", "message": str(reason)}
    except Wrong as wrong:
        return {"verdict": "failed", "message": str(wrong), "what": wrong.what, "slip": wrong.slip,
                "page": wrong.lesson.page, "picture": plain(wrong.picture)}  # fmt: skip
    return {"verdict": "passed", "message": ""}


def find_names(path: Path) -> Answer:
    """The names that have a check and that the file itself defines; what it imports is not its own work."""
    module = import_file(path)
    own = [name for name in EXERCISES if getattr(getattr(module, name, None), "__module__", None) == module.__name__]
    return {"verdict": "found", "names": own}


def plain(value: Any) -> Any:
    """Arrays as lists, for JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value


# ---- one check, one process -----------------------------------------------------------------------------------------


def isolated(job: Callable[..., Answer], *arguments: Any, time_limit: float) -> Answer:
    """Run a job in a forked process with limits on time and memory; every way it can end is an answer."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=in_child, args=(theirs, job, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not answers(ours, time_limit):
            return failed(f"no answer after {time_limit:g} seconds: an endless loop, or far too slow?")
        return json.loads(ours.recv_bytes())
    except (EOFError, OSError, ValueError):
        process.join(5)
        return failed(how_it_ended(process.exitcode))
    finally:
        stop(process)


def answers(connection: Connection, time_limit: float) -> bool:
    """Wait for an answer; if whoever asked has gone (Ctrl-C, a closed terminal), end this program with its child."""
    asker, end = os.getppid(), time.monotonic() + time_limit
    while not connection.poll(max(0.0, min(0.5, end - time.monotonic()))):
        if os.getppid() != asker:
            raise SystemExit
        if time.monotonic() >= end:
            return False
    return True


def failed(what: str) -> Answer:
    return {"verdict": "failed", "message": what, "what": what, "slip": "", "page": ""}


def how_it_ended(exitcode: int | None) -> str:
    """A sentence for a process that ended without an answer."""
    if exitcode is None:
        return "the code broke the program that checks it: does it replace a builtin of Python or torch?"
    if exitcode < 0:
        return f"the code crashed the program ({signal.Signals(-exitcode).name})."
    return f"the code ended the program (exit code {exitcode}) before the check was finished."


def stop(process: Any) -> None:
    """End the process and those it started; they form a group of their own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.kill()
    process.join()


def in_child(answer_to: Connection, job: Callable[..., Answer], *arguments: Any) -> None:
    """The child: silence, limits, the job, and its answer."""
    os.setsid()
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for inherited in OUTPUTS:  # a process that outlives the check must not hold the way to whoever waits for verdicts
        os.close(inherited)
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    sys.stdout = sys.stderr = printed = FirstLines()
    limit_memory()
    try:
        answer = job(*arguments)
    except BaseException as error:  # raised while the file is imported, or by a fault of a check
        line = calling.students_line(error).replace("\n ", ",")
        answer = {"verdict": "no import", "message": f"{type(error).__name__}: {error}{line}"}
    if printed.getvalue():
        answer["printed"] = printed.getvalue()
    answer_to.send_bytes(json.dumps(answer).encode())
    os._exit(0)  # without waiting for threads that the student's code may have started


def limit_memory() -> None:
    """A student's terabytes become a MemoryError; where the system has no such limit, nothing happens."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (OSError, ValueError):
        pass


# ---- all checks of some files ---------------------------------------------------------------------------------------


def run(paths: Sequence[Path], names: Sequence[str], time_limit: float, tell: Callable[[Answer], None]) -> None:
    """Judge every file; `tell` gets what begins and what ended, in order."""
    for path in paths:
        found = isolated(find_names, path, time_limit=time_limit)
        if found["verdict"] != "found":
            tell({"file": str(path), "error": found["message"]})
            continue
        chosen = [name for name in found["names"] if not names or name in names]
        tell({"file": str(path), "names": chosen})
        for name in chosen:
            tell({"file": str(path), "begin": name})
            answer = isolated(judge_name, path, name, time_limit=time_limit)
            if answer["verdict"] == "no import":
                answer["verdict"] = "not judged"
            tell({"file": str(path), "name": name} | answer)


def main() -> None:
    """Read the order from standard input (JSON) and write one JSON object per line."""
    order = json.loads(sys.stdin.read())
    os.chdir(order["folder"])
    OUTPUTS.append(os.dup(1))
    output = os.fdopen(OUTPUTS[0], "w")

    def tell(event: Answer) -> None:
        print(json.dumps(event), file=output, flush=True)

    run([Path(p) for p in order["files"]], order["names"], order["time_limit"], tell)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):  # the one who asked has stopped or gone
        os._exit(130)
