"""The command as a student and a teacher run it: verdicts, exit codes, and no abuse that passes silently.

The runs of `check` are under python -O, which removes assert statements: the checks must not consist of them. Each
loads torch, so many files are judged in one; those of `checked` are in the process of the tests.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked_worker import forked_worker

from lungseg.checks import report

ROOT = Path(__file__).parents[2]
RIGHT = "def cyclic_shift(x, shift_size):\n    return x.roll((-shift_size, -shift_size), (1, 2))\n"
WRONG = "def attention(q, k, v, *, bias=None):\n    return q\n"
ABUSES = """
import os, sys, ctypes, torch
def window_partition(x, window_size):
    sys.exit(0)
def window_reverse(windows, height, width):
    raise KeyboardInterrupt
def cyclic_shift(x, shift_size):
    ctypes.string_at(0)
def pad_to_multiple(x, multiple):
    while True:
        pass
def shifted_window_mask(height, width, window_size, shift_size):
    return torch.zeros(2**40)
def relative_position_index(window_size):
    for i in range(10**4):
        print("debugging", i)
    os.write(1, b"shouting")
    return 0
def split_heads(x, num_heads):
    os._exit(0)
def merge_heads(x):
    pass
def tokens_to_map(z, grid):
    raise NotImplementedError
from lungseg.nn.layers import MLP as ours
class MLP(ours):
    pass
"""
WRAPPED_NETWORK = """
from torch import nn
from lungseg.nn.unet import UNet as Ours
class UNet(nn.Module):
    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.net = Ours(in_channels, num_classes, channels=(4, 8))
    def forward(self, x):
        return self.net(x)
"""
NEIGHBOUR = """
from dataclasses import dataclass
import ann
@dataclass
class Shift:
    size: int
def cyclic_shift(x, shift_size):
    return ann.cyclic_shift(x, Shift(shift_size).size)
"""
FILES = {
    "ann.py": RIGHT,
    "bob.py": WRONG,
    "abuses.py": ABUSES,
    "neighbour.py": NEIGHBOUR,
    "nothing.py": "x = 1\n",
    "no_import.py": "import nothing_of_that_name\n",
    "ends.py": "import sys\nsys.exit(0)\n",
    "ends_hard.py": "import os\nos._exit(0)\n",
    "no_python.py": "def f(:\n",
    "ours.py": "from lungseg.nn.windows import cyclic_shift\n",
    "wraps.py": "from lungseg.nn.windows import cyclic_shift as f\ndef cyclic_shift(x, s):\n    return f(x, s)\n",
    "wraps_network.py": WRAPPED_NETWORK,
}


def check(*arguments):
    command = [sys.executable, "-O", "-m", "lungseg.checks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.fixture
def checked(monkeypatch, capsys):
    """`check` without another start of Python."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    from lungseg.checks.__main__ import main  # changes the order of sys.path

    monkeypatch.setattr(report, "start_worker", forked_worker)

    def run(*arguments):
        code = main([*map(str, arguments)])
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A class of files."""
    path = tmp_path_factory.mktemp("class")
    for name, text in FILES.items():
        (path / name).write_text(text)
    return path


@pytest.fixture(scope="module")
def judged(folder):
    """file name -> what the JSON says of it."""
    done = check(folder, "--json", "--time-limit", 5)
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["exit_code"] == 1
    return {Path(result["file"]).name: result for result in report["files"]}


def test_right_and_wrong_files_are_told_apart(judged):
    (right,), (wrong,) = judged["ann.py"]["checks"], judged["bob.py"]["checks"]
    assert (right["name"], right["verdict"]) == ("cyclic_shift", "passed")
    assert (wrong["name"], wrong["verdict"], wrong["page"]) == ("attention", "failed", "docs/nn/attention.md")
    assert "The rule: attention is softmax" in wrong["message"]


def test_no_abuse_passes_silently(judged):
    checks = {c["name"]: c for c in judged["abuses.py"]["checks"]}
    expected = {
        "window_partition": "ended the program (SystemExit)",
        "window_reverse": "ended the program (KeyboardInterrupt)",
        "cyclic_shift": "crashed the program (SIGSEGV)",
        "pad_to_multiple": "no answer after 5 seconds",
        "shifted_window_mask": "",  # where the system has a limit of memory, it says so; else the shape is wrong
        "relative_position_index": "has shape ()",
        "split_heads": "ended the program (exit code 0)",
    }
    for name, words in expected.items():
        assert checks[name]["verdict"] == "failed" and words in " ".join(checks[name]["message"].split()), checks[name]
    assert len(checks["relative_position_index"]["printed"]) < 1000
    assert checks["merge_heads"]["verdict"] == checks["tokens_to_map"]["verdict"] == "not yet written"
    assert checks["MLP"]["verdict"] == "not judged" and "our own MLP" in checks["MLP"]["message"]


@pytest.mark.parametrize(
    ("file", "error"),
    [("no_import.py", "ModuleNotFoundError"), ("ends.py", "SystemExit"), ("ends_hard.py", "exit code 0"),
     ("no_python.py", "SyntaxError"), ("nothing.py", ""), ("ours.py", "")],
)  # fmt: skip
def test_a_file_without_anything_to_judge_has_no_verdicts(judged, file, error):
    assert judged[file]["checks"] == [] and error in judged[file]["error"]


@pytest.mark.parametrize("file", ["wraps.py", "wraps_network.py"])
def test_a_file_that_only_wraps_ours_is_told_so(judged, file):
    (answer,) = judged[file]["checks"]
    assert answer["verdict"] == "not judged" and "it calls our own" in answer["message"]


def test_a_file_may_import_its_neighbours(judged):
    assert [c["verdict"] for c in judged["neighbour.py"]["checks"]] == ["passed"]


def test_a_student_sees_the_answer_and_a_picture(checked, tmp_path):
    (tmp_path / "student.py").write_text(RIGHT + WRONG)
    done = checked(tmp_path / "student.py", "--draw", tmp_path / "wrong.png")
    assert done.returncode == 1 and (tmp_path / "wrong.png").is_file()
    assert "cyclic_shift ... passed\nattention ... FAILED\n" in done.out
    assert "Read: docs/nn/attention.md" in done.out and "Traceback" not in done.out + done.err


def test_our_own_file_passes_by_name(checked, tmp_path):
    done = checked(ROOT / "lungseg/nn/windows.py", "cyclic_shift", "shifted_window_mask")
    assert (done.returncode, done.err) == (0, "")
    assert done.out == "cyclic_shift ... passed\nshifted_window_mask ... passed\n"


def test_a_teacher_sees_a_table(checked, tmp_path):
    for name in ("ann.py", "bob.py", "no_import.py"):
        (tmp_path / name).write_text(FILES[name])
    done = checked(tmp_path)
    assert done.returncode == 1
    assert "ann.py" in done.out and "cannot be imported" in done.out and "attention: other" in done.out


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    done = check("--course", tmp_path / "file" / "course")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "Give another path" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("nowhere.py",), ("x.py", "--course", "y"), ("x.py", "--time-limit", "0"), ("x.py", "--draw", "picture.jpg"),
     ("x.py", "--draw", "nowhere/x.png"), ("--course", "y", "--json")],
)  # fmt: skip
def test_a_wrong_command_line_is_refused_in_a_sentence(arguments):
    done = check(*arguments)
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr


def test_files_named_like_modules_are_harmless_where_they_lie(tmp_path):
    for name in ("random.py", "torch.py"):
        (tmp_path / name).write_text(RIGHT)
    command = [sys.executable, "-m", "lungseg.checks", "torch.py"]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cyclic_shift ... passed\n", "")


SLEEPS = """
import os, time
def cyclic_shift(x, shift_size):
    open("pid", "w").write(str(os.getpid()))
    time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_runs_on_when_the_command_is_stopped(tmp_path, how):
    (tmp_path / "student.py").write_text(SLEEPS)
    command = [sys.executable, "-m", "lungseg.checks", "student.py"]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text())
        running.send_signal(how)
        wait_for(lambda: not Path("/proc", (tmp_path / "pid").read_text()).exists())
        assert running.stderr is not None and b"Traceback" not in running.stderr.read()


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_a_folder_for_each_student_gives_a_table_too(checked, tmp_path):
    for folder in ("ann", "bob", ".ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hw.py").write_text(RIGHT)
    done = checked(tmp_path)
    assert done.returncode == 0 and "ann/hw.py" in done.out and "checkpoints" not in done.out


def test_a_name_that_is_misspelt_or_missing_is_told(checked, tmp_path):
    file = tmp_path / "step03_cyclic_shift.py"
    file.write_text(RIGHT)
    done = checked(file, "cyclic_shift", "cyclic_shft")
    assert done.returncode == 2 and "has no check for cyclic_shft" in done.err and "passed" in done.out
    for near in ("step03.py", "step03_cyclic_shif.py"):
        assert f"no such file. Is it {file}?" in checked(tmp_path / near).err
