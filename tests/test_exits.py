"""Whatever ends a script that its user can fix: one line and an exit code; a bug of ours: a traceback."""

import errno
import io
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.exits import leave, one_line, run_main

ROOT = Path(__file__).resolve().parent.parent


def ended(work):
    return run_main("x.py", work, stopped=lambda: "out was not written.", too_little_memory="Lower --batch-size.")


def raising(error):
    def work():
        raise error

    return work


COMPILER_FAILED = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
NO_COMPILER = COMPILER_FAILED("InvalidCxxCompiler: ...")
NO_COMPILER.inner_exception = RuntimeError("No working C++ compiler found.\nand many more lines")
FULL = OSError(errno.ENOSPC, "No space left on device", "out/last.pt")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("the file is odd."), 2, "the file is odd."),
        (ValueError("state does not fit:\n\tmissing a\n\tmissing b"), 2, "state does not fit: missing a missing b"),
        (FloatingPointError("the loss became nan."), 2, "the loss became nan."),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), 2, "a.png: No such file or directory."),
        (OSError(errno.EXDEV, "Cross-device link", "a", None, "b"), 2, "a -> b: Cross-device link."),
        (OSError("cannot identify image file"), 2, "cannot identify image file"),
        (FULL, 2, "out/last.pt: No space left on device. Make room first. out was not written."),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2, "Broken pipe"),  # of a process, not of the output
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3145728 bytes."), 2,
         "too little memory: 3.0 MiB were asked for at once. Lower --batch-size."),
        (MemoryError(), 2, "too little memory. Lower --batch-size."),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, "too little memory. Lower --batch-size."),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU"), 2,
         "too little GPU memory: 2.00 GiB were asked for at once. Lower --batch-size."),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB"), 2, "too little memory. Lower --batch-size."),
        (COMPILER_FAILED("Cannot find a working triton installation."), 2,
         "torch cannot compile the network here (Cannot find a working triton installation). Leave out --compile."),
        (NO_COMPILER, 2,
         "torch cannot compile the network here (No working C++ compiler found). Leave out --compile."),
        (RuntimeError("max_pool3d_with_indices_backward_cuda does not have a deterministic implementation, but you"), 2,
         "the GPU has no algorithm for max_pool3d_with_indices_backward_cuda that repeats its digits. Unset "
         "CUBLAS_WORKSPACE_CONFIG."),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."), 2,
         "a process that reads the data was ended by a signal (Bus error). Lower --num-workers: each needs memory. "
         "out was not written."),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), 2,
         "a process that reads the data ended. Lower --num-workers: each needs memory. out was not written."),
        (RuntimeError("Too many open files. Communication with the workers is no longer possible."), 2,
         "too many open files. Allow more (ulimit -n), or use --num-workers 0. out was not written."),
        (OSError(errno.EMFILE, "Too many open files"), 2,
         "too many open files. Allow more (ulimit -n), or use --num-workers 0. out was not written."),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)"), 2,
         "shared memory (/dev/shm) is full. Use --num-workers 0. out was not written."),
        (KeyboardInterrupt(), 130, "stopped. out was not written."),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line_and_a_code(capsys, error, code, said):
    assert ended(raising(error)) == code
    assert capsys.readouterr() == ("", f"x.py: {said}\n")


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(10**15),
        lambda: torch.empty(10**10, 10**10),
        lambda: np.empty(10**16),
        lambda: bytes(10**16),
        lambda: torch.nn.Linear(10**9, 10**9),
    ],
)
def test_every_allocator_that_fails_is_understood(capsys, allocate):
    """No machine has so much, so these fail at once, as they really fail."""
    assert ended(allocate) == 2
    said = capsys.readouterr().err
    assert said.startswith("x.py: too little memory") and said.endswith(". Lower --batch-size.\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("size mismatch"), TypeError(), KeyError("x")])
def test_a_mistake_of_ours_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        ended(raising(error))


@pytest.mark.parametrize("result", [0.25, None, {"dice": 1.0}, 0])
def test_a_result_is_handed_on(result):
    assert ended(lambda: result) is result


@given(st.text())
def test_no_message_has_two_lines(text):
    assert len(one_line(text).splitlines()) <= 1


def test_a_warning_for_the_user_is_one_line_and_one_for_programmers_says_where(capsys):
    def work():
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = lambda *args: sys.stderr.write(warnings.formatwarning(*args[:4]))
            warnings.warn("slices of\n2 sizes", stacklevel=1)
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    ended(work)
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert first == "x.py: warning: slices of 2 sizes"
    assert "test_exits.py:" in second and "DeprecationWarning" in second


# ---- streams ----------------------------------------------------------------------------------------------------


def broken_pipe():
    """A stream whose reader has gone, as after `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize("flush", [True, False])
def test_output_that_nobody_reads_ends_quietly(monkeypatch, capsys, flush):
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert ended(lambda: print("line", flush=flush)) == 141
    assert capsys.readouterr().err == ""  # and closing the stream raised nothing


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_into_a_full_disk_is_a_sentence(monkeypatch, capsys):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert ended(lambda: print("line")) == 2
    assert "x.py: output: No space left on device." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_without_a_stream_the_work_is_done_all_the_same(monkeypatch, name):
    def work():
        print("to nobody")
        raise ValueError("said to nobody")

    monkeypatch.setattr(sys, name, None)  # as Python does for `>&-`
    assert ended(work) == 2
    getattr(sys, name).close()


def test_a_terminal_that_knows_ascii_only_gets_codes(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as out, open(tmp_path / "err", "w", encoding="ascii") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        odd = os.fsdecode(b"lunge\xff-\xc3\xbc")  # a byte that is no UTF-8, and an umlaut
        assert ended(lambda: print(odd)) is None
        assert ended(raising(ValueError(odd))) == 2
    assert (tmp_path / "out").read_text() == "lunge\\udcff-\\xfc\n"
    assert (tmp_path / "err").read_text() == "x.py: lunge\\udcff-\\xfc\n"


# ---- signals ----------------------------------------------------------------------------------------------------

TWICE = """
import os, signal, sys
from lungseg.exits import leave, run_main

def work():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:  # cleaning up takes its time, and somebody is impatient
        os.kill(os.getpid(), signal.SIGINT)

leave(run_main("x.py", work, stopped="out was not written.", too_little_memory=""))
"""


def test_ctrl_c_twice_is_one_line_too():
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "x.py: stopped. out was not written.\n")


@pytest.mark.parametrize("script", "train_swin train_unetr train_resnet train_unet train_rrc_unet compare".split())
def test_ctrl_c_while_torch_is_imported_is_no_traceback(tmp_path, script):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")  # found before torch
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    argv = [sys.executable, str(ROOT / f"examples/{script}.py")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_handler_of_ctrl_c_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    assert ended(lambda: os.kill(os.getpid(), signal.SIGINT)) == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert ended(lambda: os.kill(os.getpid(), signal.SIGINT)) is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("outcome", "code"), [(0.5, 0), (None, 0), ({"a": 1.0}, 0), (2, 2), (130, 130)])
def test_the_process_ends_with_the_code_or_with_success(outcome, code):
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stop:
            leave(outcome)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == code


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_has_gone_is_noticed_also_where_nothing_is_buffered(name, monkeypatch, capsys):
    """As with PYTHONUNBUFFERED=1: after the error there is nothing left to write, so another flush raises none."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = io.TextIOWrapper(os.fdopen(writer, "wb", buffering=0), write_through=True)
    monkeypatch.setattr(sys, name, stream)
    assert ended(lambda: print("line", file=getattr(sys, name))) == 141
    stream.close()
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")
