"""One check, one process: however a student's code ends, there is an answer, and never a silent pass."""

import ctypes
import os
import sys
import time

import pytest

pytest.importorskip("resource")  # not on Windows
from lungseg.checks import worker


@pytest.fixture(autouse=True)
def one_thread():
    """Forking is safe here: the jobs below compute nothing with threads."""


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (lambda: os._exit(0), "ended the program (exit code 0)"),
        (lambda: os._exit(3), "ended the program (exit code 3)"),
        (lambda: ctypes.string_at(0), "crashed the program (SIGSEGV)"),
        (lambda: os.kill(os.getpid(), 9), "crashed the program (SIGKILL)"),
        (lambda: time.sleep(60), "no answer after 0.5 seconds"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_does_not_answer_has_failed(job, message):
    answer = worker.isolated(job, time_limit=0.5 if "answer" in message else 20)
    assert answer["verdict"] == "failed" and message in answer["message"]


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), ValueError("no"), RecursionError()])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_error_while_importing_is_told(error):
    def job():
        raise error

    answer = worker.isolated(job, time_limit=20)
    assert answer["verdict"] == "no import" and type(error).__name__ in answer["message"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_is_printed_is_kept_up_to_a_limit():
    def job():
        for i in range(100_000):
            print("line", i)
        os.write(1, b"straight to the terminal")
        sys.stderr.write("more")
        return {"verdict": "passed"}

    answer = worker.isolated(job, time_limit=20)
    assert answer["verdict"] == "passed" and answer["printed"].startswith("line 0\nline 1\n")
    assert len(answer["printed"]) <= worker.KEPT_OUTPUT


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have no such limit")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_terabytes_are_refused():
    def job():
        bytearray(4 * 2**40)
        return {"verdict": "passed"}

    assert "MemoryError" in worker.isolated(job, time_limit=20)["message"]
