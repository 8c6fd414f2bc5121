"""How a script ends: with one sentence and an exit code if its user can fix the error, with a traceback if it is a bug.

    def main(argv=None): return run_main("predict.py", lambda: predict(argv), stopped="...", too_little_memory="...")
    if __name__ == "__main__": leave(main())

0 done   2 the user can fix it   130 Ctrl-C   141 the reader of the output has gone (predict.py ... | head -1)
"""

import errno
import io
import os
import re
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch

T = TypeVar("T")

CTRL_C, READER_GONE = 128 + 2, 128 + 13  # what a shell reports after SIGINT and SIGPIPE
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NO_FILES = (errno.EMFILE, errno.ENFILE)
COMPILER = ("torch._dynamo", "torch._inductor")  # whose errors are of their own types
UNREPEATABLE = " does not have a deterministic implementation"
WORKER_DIED = re.compile(r"DataLoader worker .* (?:killed by signal: ([\w ]+)|exited unexpectedly)")
NO_MEMORY = re.compile(  # torch says it with a RuntimeError, in other words on each device
    "can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|ALLOC_FAILED"
    "|Storage size calculation overflowed|Invalid buffer size",
    re.IGNORECASE,
)


@dataclass
class Outcome:
    """What a script ends with: the result of its work, or an exit code."""

    result: Any = None


@contextmanager
def exit_code(name: str, *, stopped: Callable[[], str] | str, too_little_memory: str) -> Iterator[Outcome]:
    """Turn errors inside the `with` that the user can fix into one line on standard error and an exit code.

        with exit_code("predict.py", stopped="...", too_little_memory="...") as outcome:
            outcome.result = work()
        return outcome.result

    Args:
        name: of the script; begins each sentence.
        stopped: what is left after Ctrl-C or on a full disk, and how to continue: "predictions was not written."
        too_little_memory: what to change then: "Lower --batch-size."

    Yields:
        An `Outcome` for the result of the work. After an error its result is 2 (ValueError, FloatingPointError,
        OSError, too little memory), 130 (Ctrl-C) or 141 (the reader of the output has gone). Any other error is a bug
        of ours and keeps its traceback.
    """
    protect_streams()

    def what_is_left() -> str:
        return stopped if isinstance(stopped, str) else stopped()

    def say_stopped() -> None:
        new_line = "\n" if sys.stderr.isatty() else ""  # the terminal has printed ^C
        say(f"{new_line}{name}: stopped. {what_is_left()}")

    outcome = Outcome()
    with one_line_warnings(name), second_ctrl_c_ends_at_once(say_stopped):
        try:
            yield outcome
            sys.stdout.flush()  # here, where an error is still a sentence
        except KeyboardInterrupt:
            say_stopped()
            outcome.result = CTRL_C
        except Exception as error:
            if isinstance(error, BrokenPipeError) and give_up_broken_streams():
                outcome.result = READER_GONE
                return
            sentence = explanation(error, what_is_left, too_little_memory)
            if sentence is None:
                raise
            say(f"{name}: {one_line(sentence)}")
            give_up_broken_streams()
            outcome.result = 2


def run_main(name: str, work: Callable[[], T], *, stopped: Callable[[], str] | str, too_little_memory: str) -> T | int:
    """The result of `work`, or an exit code: `exit_code` for a script whose work is one call."""
    with exit_code(name, stopped=stopped, too_little_memory=too_little_memory) as outcome:
        outcome.result = work()
    return outcome.result


def leave(outcome: Any) -> NoReturn:
    """End the process with what main() returned: an exit code, or a result, which means success."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while Python cleans up: no traceback
    sys.exit(outcome if isinstance(outcome, int) else 0)


# ---- from an error to a sentence --------------------------------------------------------------------------------


def explanation(error: Exception, what_is_left: Callable[[], str], remedy: str) -> str | None:
    """What went wrong and what to do, for an error that the user can fix; None for a bug of ours."""
    if lacks_memory(error):
        gpu = "GPU " if isinstance(error, torch.OutOfMemoryError) else ""
        return f"too little {gpu}memory{asked_for(str(error))}. {remedy}"
    if isinstance(error, OSError):
        files = [os.fsdecode(f) for f in (error.filename, error.filename2) if isinstance(f, str | bytes)]
        reason = error.strerror or str(error)
        if error.errno in DISK_FULL:
            return f"{' -> '.join(files) or 'output'}: {reason}. Make room first. {what_is_left()}"
        if error.errno in NO_FILES:
            return about_workers("Too many open files", what_is_left)
        return f"{' -> '.join(files)}: {reason}." if files else reason
    if isinstance(error, NotImplementedError) and "MPS" in str(error):  # an operation that torch lacks on Apple's GPUs
        what = str(error).splitlines()[0].rstrip(".")
        remedy = "Use --device cpu, or set PYTORCH_ENABLE_MPS_FALLBACK=1"  # this moves such parts to the CPU
        return f"the Apple GPU cannot compute a part of this ({what}). {remedy}."
    if isinstance(error, RuntimeError):
        return about_torch(error) or about_workers(str(error), what_is_left)
    return str(error) if isinstance(error, ValueError | FloatingPointError) else None


def about_torch(error: RuntimeError) -> str | None:
    """What torch cannot do on this machine, though it was asked for."""
    what, unrepeatable, _ = str(error).partition(UNREPEATABLE)
    if unrepeatable:
        return f"the GPU has no algorithm for {what} that repeats its digits. Unset CUBLAS_WORKSPACE_CONFIG."
    if type(error).__module__.startswith(COMPILER):
        reason = str(getattr(error, "inner_exception", error)).strip().split("\n")[0].rstrip(".")
        return f"torch cannot compile the network here ({reason}). Leave out --compile."
    return None


def in_one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its text, for errors of code that is not ours."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def about_workers(text: str, what_is_left: Callable[[], str]) -> str | None:
    """What torch reports about worker processes: it raises their errors wherever the program is by then."""
    if died := WORKER_DIED.search(text):
        how = f"was ended by a signal ({died[1]})" if died[1] else "ended"
        return f"a process that reads the data {how}. Lower --num-workers: each needs memory. {what_is_left()}"
    if "Too many open files" in text:
        return f"too many open files. Allow more (ulimit -n), or use --num-workers 0. {what_is_left()}"
    if "No space left on device" in text:
        return f"shared memory (/dev/shm) is full. Use --num-workers 0. {what_is_left()}"
    return None


def lacks_memory(error: BaseException) -> bool:
    """Whether any allocator failed: Python's, numpy's, torch's on the CPU or on a GPU, the system's."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)) is not None


def asked_for(text: str) -> str:
    """How much memory was requested, if the error message says so: ": 36.0 GiB were asked for at once"."""
    if match := re.search(r"allocate (\d+) bytes", text):
        number = int(match[1])
        unit, size = ("GiB", number / 2**30) if number > 2**29 else ("MiB", number / 2**20)
        return f": {size:,.1f} {unit} were asked for at once"
    if match := re.search(r"allocate ([\d.]+ [KMGTPE]iB)", text):
        return f": {match[1]} were asked for at once"
    return ""


def one_line(text: object) -> str:
    """The text on one line; some libraries write messages of many lines."""
    return " ".join(str(text).split())


# ---- streams and signals ----------------------------------------------------------------------------------------


def protect_streams() -> None:
    """Make sure that printing raises no error and never writes into a data file.

    The number of a closed stream (`>&-`) goes to the next file that is opened, and what C libraries print would land in
    that file: open /dev/null in its place. A character that the terminal cannot show (an accent on an ASCII terminal, a
    byte of a path that is not UTF-8) is printed as its code.
    """
    number = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    while number <= 2:
        number = os.open(os.devnull, os.O_RDWR)
    os.close(number)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def give_up_broken_streams() -> bool:
    """Redirect streams without a reader to /dev/null; otherwise Python writes to them again at exit, and complains."""
    broken = False
    for stream in (sys.stdout, sys.stderr):
        if reader_has_gone(stream):
            broken = True
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
    return broken


def reader_has_gone(stream: Any) -> bool:
    """Whether a pipe has lost its reader; also if the stream is unbuffered and has nothing left to write."""
    try:
        stream.flush()
        ends = select.poll()  # not on Windows
        ends.register(stream.fileno(), 0)  # 0: errors are reported unasked
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in ends.poll(0))
    except OSError as error:
        return not isinstance(error, io.UnsupportedOperation)  # a stream without a number, in a notebook
    except (AttributeError, ValueError):
        return False


def say(sentence: str) -> None:
    """Print to standard error; if that is closed, do nothing."""
    with suppress(OSError, ValueError):
        print(sentence, file=sys.stderr, flush=True)


@contextmanager
def one_line_warnings(name: str) -> Iterator[None]:
    """Print a warning for the user like an error message, without a line of our code below it."""
    as_python_does = warnings.formatwarning

    def in_one_line(message: Any, category: type[Warning], *where: Any, **line: Any) -> str:
        if not issubclass(category, UserWarning):
            return as_python_does(message, category, *where, **line)
        return f"{name}: warning: {one_line(message)}\n"

    warnings.formatwarning = in_one_line
    try:
        yield
    finally:
        warnings.formatwarning = as_python_does


@contextmanager
def second_ctrl_c_ends_at_once(last_words: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt as usual; a second one, during the clean-up, ends at once."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler  # ignored: a background job of a script
    ):
        yield
        return
    owner = os.getpid()

    def at_once(*_: Any) -> None:
        if os.getpid() == owner:  # not a worker process, which has inherited this
            last_words()
        os._exit(CTRL_C)

    def first(*_: Any) -> None:
        signal.signal(signal.SIGINT, at_once)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
