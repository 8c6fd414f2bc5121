"""What the command prints, for one file, for a class, as JSON, and with which exit code."""

from lungseg.checks import report


def result(file, *checks, error=""):
    return {
        "file": file,
        "error": error,
        "checks": [dict(zip(("name", "verdict", "slip"), c, strict=False)) for c in checks],
    }


PASSED, WRONG = ("MLP", "passed"), ("attention", "failed", "1/d")
BLANK, UNKNOWN = ("MLP", "not yet written"), ("MLP", "not judged")


def test_exit_codes():
    assert report.exit_code([result("a.py", PASSED)]) == 0
    assert report.exit_code([result("a.py", PASSED, WRONG), result("b.py", error="no")]) == 1
    assert report.exit_code([result("a.py", PASSED), result("b.py", BLANK)]) == 2
    assert report.exit_code([result("a.py", UNKNOWN)]) == 2
    assert report.exit_code([result("a.py", PASSED), result("b.py")]) == 2  # nothing to check in b
    assert report.exit_code([result("a.py", PASSED), result("b.py", error="SyntaxError")]) == 2
    assert report.exit_code([]) == 0 or report.exit_code([]) == 2


def test_the_table_of_a_class_has_a_row_per_file_and_a_column_per_check():
    files = [result("x/ann.py", PASSED, WRONG), result("x/bob.py", WRONG), result("x/eve.py", error="SyntaxError")]
    table = report.table(files)
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["file", "MLP", "attention", "passed"]
    assert lines[2] == ["ann.py", "ok", "FAILED", "1", "of", "2"]
    assert lines[3] == ["bob.py", "-", "FAILED", "0", "of", "1"]
    assert "eve.py" in table and "cannot be imported" in table
    assert "   2  attention: 1/d" in table  # two students made this mistake


def test_the_list_names_every_check():
    words = report.list_exercises()
    assert "shifted_window_mask(height, width, window_size, shift_size)" in words and "docs/nn/windows.md" in words


def test_a_file_that_cannot_be_judged_is_told_so_in_a_line(capsys):
    lines = report.Lines()
    lines.event({"file": "a.py", "error": "SyntaxError: invalid syntax"})
    lines.event({"file": "b.py", "names": []})
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 2
    assert "a.py: cannot be imported: SyntaxError" in err and "b.py: defines nothing that has a check" in err
