"""Without hypothesis, or without assert statements, nothing is checked: one sentence says so, never a traceback."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP_LINE = "pip install 'lungseg[checks]'"
WRONG = "def shifted_window_mask(height, width, window_size, shift_size):\n    return None\n"


@pytest.fixture
def python(tmp_path):
    """Run Python in a folder with a wrong student.py, on request as if hypothesis were not installed."""
    (tmp_path / "student.py").write_text(WRONG)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif os.environ.get('BLOCKED'):\n    sys.modules['hypothesis'] = None\n"
    )

    def run(*arguments, **variables):
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        env = os.environ | {"PYTHONPATH": paths} | variables
        return subprocess.run([sys.executable, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True)

    return run


def assert_refused_in_one_line(result, *parts):
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert all(part in result.stderr for part in parts), result.stderr


@pytest.mark.parametrize("argument", ["student.py", "nowhere.py", "--help"])
def test_without_hypothesis_the_command_names_the_pip_line(python, argument):
    result = python("-m", "lungseg.checks", argument, BLOCKED="1")
    assert_refused_in_one_line(result, "hypothesis", PIP_LINE)


@pytest.mark.parametrize(
    "line",
    [
        "import lungseg.checks",
        "from lungseg.checks.windows import check_shifted_window_mask",
        "from lungseg.checks.running import run_checks",
    ],
)
def test_without_hypothesis_an_import_names_the_pip_line(python, line):
    assert python("-c", line).returncode == 0
    result = python("-c", line, BLOCKED="1")
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and last.startswith("ModuleNotFoundError: lungseg.checks needs"), result.stderr
    assert PIP_LINE in last


def test_without_hypothesis_the_missing_module_has_its_name(python):
    code = "try:\n    import lungseg.checks\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
    assert python("-c", code, BLOCKED="1").stdout == "hypothesis\n"


def test_an_optimising_python_is_refused_by_the_command(python):
    assert python("-m", "lungseg.checks", "student.py").returncode == 1  # a wrong file fails, where asserts work
    assert_refused_in_one_line(python("-O", "-m", "lungseg.checks", "student.py"), "assert", "-O", "PYTHONOPTIMIZE")
    for level in "12":
        result = python("-m", "lungseg.checks", "student.py", PYTHONOPTIMIZE=level)
        assert_refused_in_one_line(result, "assert", "-O", "PYTHONOPTIMIZE")


@pytest.mark.parametrize(
    "line",
    [
        "from lungseg.checks.running import run_checks; import student; print(run_checks(student, {}))",
        "from lungseg.checks import check_shifted_window_mask; check_shifted_window_mask(lambda *sizes: None)",
    ],
)
def test_an_optimising_python_is_refused_in_a_notebook(python, line):
    result = python("-O", "-c", line)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and last.startswith("ImportError: lungseg.checks"), result.stderr
    assert "assert" in last and result.stdout == ""


def test_the_extras_bring_hypothesis():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith("hypothesis>=") for requirement in extras["checks"])
    assert "lungseg[checks]" in extras["test"]
