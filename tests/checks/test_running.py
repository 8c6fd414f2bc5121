"""What a student, or a teacher, sees when the checks are run on a file."""

import inspect

import pytest

from lungseg import checks
from lungseg.checks.__main__ import main
from lungseg.nn import windows


@pytest.fixture
def student(tmp_path):
    def write(text):
        file = tmp_path / "student.py"
        file.write_text(text)
        return str(file)

    return write


def test_a_right_file_passes(student, capsys):
    assert main([student(inspect.getsource(windows))]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "passed check_window_round_trip",
        "passed check_shifted_window_mask",
        "passed check_relative_position_index",
    ]


def test_a_wrong_mask_fails_with_the_smallest_counterexample(student, capsys):
    wrong = "import torch\ndef shifted_window_mask(height, width, window_size, shift_size):\n    n = window_size ** 2\n"
    wrong += "    return torch.ones(-(-height // window_size) * -(-width // window_size), n, n, dtype=torch.bool)\n"
    assert main([student(wrong)]) == 1
    out = capsys.readouterr().out
    assert "FAILED check_shifted_window_mask" in out
    assert "case=(1, 1, 2, 0)" in out  # one token and three of padding: fits on a blackboard
    assert "may_attend=True" in out


def test_a_function_that_ends_the_program_has_not_passed(student, capsys):
    assert main([student("import sys\ndef relative_position_index(window_size):\n    sys.exit(0)\n")]) == 1
    assert "SystemExit" in capsys.readouterr().out


def test_an_error_inside_the_students_code_is_reported_with_its_line(student, capsys):
    assert main([student("def relative_position_index(window_size):\n    return 1 / 0\n")]) == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError" in out and "student.py, line 2" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = 1\n", "defines none of the functions"), ("import nothing_of_that_name\n", "cannot be imported")],
)
def test_a_file_without_anything_to_check_is_refused_in_a_sentence(student, capsys, text, message):
    assert main([student(text)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_refused_in_a_sentence(capsys):
    assert main(["nowhere.py"]) == 2
    assert "is not a Python file" in capsys.readouterr().err


def test_what_a_file_imports_is_not_its_own_work(student, capsys):
    assert main([student("from lungseg.nn.windows import relative_position_index\n")]) == 2
    assert "defines none of the functions" in capsys.readouterr().err


def test_half_of_a_pair_is_reported_with_what_is_missing(student, capsys):
    assert main([student("def window_partition(x, window_size):\n    return x\n")]) == 1
    assert "window_partition is checked together with window_reverse" in capsys.readouterr().out


def test_a_file_may_hold_dataclasses_and_import_its_neighbours(student, tmp_path, capsys):
    (tmp_path / "neighbour.py").write_text("from lungseg.nn.windows import relative_position_index as index\n")
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\nimport neighbour\n"
    text += "@dataclass\nclass Size:\n    side: int\n"
    text += "def relative_position_index(window_size):\n    return neighbour.index(Size(window_size).side)\n"
    assert main([student(text)]) == 0
    assert capsys.readouterr().out == "passed check_relative_position_index\n"


def test_a_file_that_ends_the_program_has_not_passed(student, capsys):
    assert main([student("import sys\nsys.exit()\n")]) == 2
    assert "cannot be imported: SystemExit" in capsys.readouterr().err


def test_the_package_offers_its_checks_by_name():
    assert all(callable(getattr(checks, name)) for name in checks.__all__ if name != "CHECKS")
    defined = {name for name in vars(checks) if name.startswith("check_") and name != "check_requirements"}
    assert defined == {name for name in checks.__all__ if name.startswith("check_")}
    assert {check.__name__ for check in checks.CHECKS.values()} <= defined
