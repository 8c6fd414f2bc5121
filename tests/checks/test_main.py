"""The command as a student and a teacher run it: verdicts, exit codes, and no abuse that passes silently.

All under python -O, which removes assert statements: the checks must not consist of them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def check(*arguments):
    command = [sys.executable, "-O", "-m", "lungseg.checks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def student(tmp_path):
    def write(text, name="student.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_right_file_passes(student):
    done = check(student(RIGHT + WRONG), "cyclic_shift")  # only this name
    assert (done.returncode, done.stdout, done.stderr) == (0, "cyclic_shift ... passed\n", "")


def test_a_wrong_file_gets_an_answer_and_a_picture(student, tmp_path):
    done = check(student(RIGHT + WRONG), "--draw", tmp_path / "wrong.png")
    assert done.returncode == 1 and (tmp_path / "wrong.png").is_file()
    assert "cyclic_shift ... passed" in done.stdout and "attention ... FAILED" in done.stdout
    assert "The rule: attention is softmax" in done.stdout and "Read: docs/nn/attention.md" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_no_abuse_passes_silently(student):
    done = check(student(ABUSES), "--json", "--time-limit", 6)
    assert done.returncode == 1 and done.stderr == ""
    checks = {c["name"]: c for c in json.loads(done.stdout)["files"][0]["checks"]}
    expected = {
        "window_partition": "ended the program (SystemExit)",
        "window_reverse": "ended the program (KeyboardInterrupt)",
        "cyclic_shift": "crashed the program (SIGSEGV)",
        "pad_to_multiple": "no answer after 6 seconds",
        "shifted_window_mask": "",
        "relative_position_index": "shape () instead",
        "split_heads": "ended the program (exit code 0)",
    }
    for name in expected:
        assert checks[name]["verdict"] == "failed", checks[name]
    for name in expected.keys() - {"shifted_window_mask", "relative_position_index"}:
        assert expected[name] in checks[name]["message"].replace("\n      ", " "), checks[name]
    assert len(checks["relative_position_index"]["printed"]) < 1000
    assert checks["merge_heads"]["verdict"] == checks["tokens_to_map"]["verdict"] == "not yet written"
    assert checks["MLP"]["verdict"] == "not judged" and "our own MLP" in checks["MLP"]["message"]


UNJUDGED = {
    "nothing.py": ("x = 1\n", ""),
    "no_import.py": ("import nothing_of_that_name\n", "ModuleNotFoundError"),
    "ends.py": ("import sys\nsys.exit(0)\n", "SystemExit"),
    "ends_hard.py": ("import os\nos._exit(0)\n", "exit code 0"),
    "no_python.py": ("def f(:\n", "SyntaxError"),
    "ours.py": ("from lungseg.nn.windows import cyclic_shift\n", ""),
    "wraps.py": (
        "from lungseg.nn.windows import cyclic_shift as f\ndef cyclic_shift(x, s):\n    return f(x, s)\n",
        "our own",
    ),
}


def test_files_that_cannot_be_judged_have_exit_code_2(student, tmp_path):
    for name, (text, _) in UNJUDGED.items():
        student(text, name)
    done = check(tmp_path, "--json")
    assert done.returncode == 2 and done.stderr == ""
    for result in json.loads(done.stdout)["files"]:
        name = Path(result["file"]).name
        answers = result["error"] + "".join(c["message"] for c in result["checks"])
        assert UNJUDGED[name][1] in answers, (name, answers)
        assert not any(c["verdict"] == "passed" for c in result["checks"])


@pytest.mark.parametrize("name", ["nothing.py", "no_import.py"])
def test_a_single_file_that_cannot_be_judged_is_told_so(student, name):
    done = check(student(UNJUDGED[name][0]))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and done.stdout == ""


def test_a_folder_gives_a_table(student, tmp_path):
    for name, text in (("ann.py", RIGHT), ("bob.py", WRONG), ("eve.py", "import nothing_of_that_name\n")):
        student(text, name)
    done = check(tmp_path)
    assert done.returncode == 1
    assert "ann.py" in done.stdout and "cannot be imported" in done.stdout and "attention: other" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("nowhere.py",), ("x.py", "--course", "y"), ("x.py", "--time-limit", "0"),
                                       ("x.py", "--draw", "picture.jpg"), ("--course", "y", "--json")])  # fmt: skip
def test_a_wrong_command_line_is_refused_in_a_sentence(arguments):
    done = check(*arguments)
    assert done.returncode == 2 and done.stderr and "Traceback" not in done.stderr


def test_a_folder_for_each_student_gives_a_table_too(student, tmp_path):
    for folder in ("ann", "bob", ".ipynb_checkpoints"):
        (tmp_path / folder).mkdir()
        student(RIGHT, f"{folder}/hw.py")
    done = check(tmp_path)
    assert done.returncode == 0 and "ann/hw.py" in done.stdout and "checkpoints" not in done.stdout


def test_a_name_that_is_misspelt_or_missing_is_told(student, tmp_path):
    file = student(RIGHT, "step03_cyclic_shift.py")
    done = check(file, "cyclic_shift", "cyclic_shft")
    assert done.returncode == 2 and "has no check for cyclic_shft" in done.stderr and "passed" in done.stdout
    for near in ("step03.py", "step03_cyclic_shif.py"):
        assert f"no such file. Is it {file}?" in check(tmp_path / near).stderr


def test_a_file_may_import_its_neighbours(student):
    student(RIGHT, "helper.py")
    text = "from dataclasses import dataclass\nimport helper\n@dataclass\nclass S:\n    s: int\n"
    done = check(
        student(text + "def cyclic_shift(x, shift_size):\n    return helper.cyclic_shift(x, S(shift_size).s)\n")
    )
    assert done.stdout == "cyclic_shift ... passed\n"
