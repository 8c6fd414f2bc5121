"""What the command prints, for one file, for a class, as JSON, and with which exit code."""

import json

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


def test_names_that_were_asked_for_are_the_columns_and_count():
    files = [result("a/hw.py", PASSED, ("attention", "passed")), result("b/hw.py", PASSED)]
    lines = [line.split() for line in report.table(files, ["MLP", "attention"]).splitlines()]
    assert lines[0] == ["file", "MLP", "attention", "passed"]
    assert lines[2] == ["a/hw.py", "ok", "ok", "2", "of", "2"] and lines[3] == ["b/hw.py", "ok", "-", "1", "of", "2"]
    assert report.exit_code(files, ["MLP", "attention"]) == 2 and report.exit_code(files) == 0


def test_a_table_that_is_too_wide_has_numbered_columns():
    names = [f"function_number_{i}" for i in range(18)]
    files = [result("ann.py", *((name, "passed") for name in names)), result("bob.py", (names[0], "failed"))]
    table = report.table(files, width=100)
    lines = [line.split() for line in table.splitlines()]
    assert lines[0][:3] == ["file", "1", "2"] and lines[2][:2] == ["ann.py", "ok"] and lines[3][:2] == ["bob.py", "X"]
    assert "18: function_number_17" in table and max(map(len, table.splitlines())) <= 100


def test_mistakes_without_a_name_are_sorted_by_how_they_ended_and_errors_are_told():
    whats = ["TypeError: no", "no answer after 5 seconds: far", "the code crashed the program (SIGSEGV).", "is 3"]
    files = [result("a.py", error="SyntaxError: oh"), result("b.py", *(("MLP", "failed", "") for _ in whats))]
    for check, what in zip(files[1]["checks"], whats, strict=True):
        check["what"] = what
    table = report.table(files)
    assert "    a.py: SyntaxError: oh" in table
    for kind in ("TypeError", "no answer in time", "the program ended", "other"):
        assert f"   1  MLP: {kind}" in table


def test_json_has_the_same_keys_for_every_check():
    answer = json.loads(report.as_json([result("a.py", PASSED, WRONG), result("b.py", error="SyntaxError")]))
    assert answer["exit_code"] == 1 and [sorted(file) for file in answer["files"]] == [["checks", "error", "file"]] * 2
    assert all(tuple(check) == report.JSON_KEYS for check in answer["files"][0]["checks"])
    assert answer["files"][0]["checks"][0]["slip"] == "" and answer["files"][0]["checks"][1]["slip"] == "1/d"


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
