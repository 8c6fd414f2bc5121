"""The course: blanks say so, solutions pass, nothing is overwritten."""

import json
import re
from pathlib import Path

import pytest
from forked_worker import forked_worker
from mutants import SOLUTIONS

from lungseg.checks import course, report

ROOT = Path(__file__).parents[2]
STEPS = course.read_steps()


def solution(step):
    """The solution of a step: a file of that name, or those of what it asks for."""
    whole = SOLUTIONS / step.file
    files = [whole] if whole.is_file() else [SOLUTIONS / f"{name}.py" for name in course.NAMES[step.number]]
    return "\n\n".join(file.read_text() for file in files)


def test_the_steps_are_numbered_and_say_what_to_read():
    assert [step.number for step in STEPS] == list(course.NAMES) == list(range(1, 26))
    for step in STEPS:
        assert re.fullmatch(rf"step{step.number:02d}_\w+\.py", step.file)
        assert (ROOT / step.page).is_file() and 5 <= step.minutes <= 60
        assert all(re.search(rf"^(def|class) {name}\b", step.text, re.M) for name in course.NAMES[step.number])
        compile(step.text, step.file, "exec")


def test_a_starter_and_its_solution_have_the_same_signatures():
    head = re.compile(r"^ *(?:def|class) .*$", re.M)
    for step in STEPS:
        if (SOLUTIONS / step.file).is_file():
            in_solution = head.findall(solution(step))
            assert all(line in in_solution for line in head.findall(step.text)), step.file


def test_the_course_from_blanks_to_the_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "start_worker", forked_worker)
    folder = tmp_path / "course"
    assert course.main(folder) == 2
    assert "25 exercises" in capsys.readouterr().out
    assert course.main(folder) == 2
    out = capsys.readouterr().out
    assert out.count("not yet written") == 25 and "0 of 18; next:" in out and "0 of 7: steps 19 to 25, in any" in out
    for step in STEPS:
        if step.number != 18:
            (folder / step.file).write_text(solution(step))
    (folder / "step04_pad_to_multiple.py").write_text("def pad_to_multiple(x, multiple):\n    return x\n")
    (folder / "step06_relative_index.py").unlink()
    (folder / "run").mkdir()
    log = [
        {"recipe": {"network": str(folder / "step16_swin_unet.py")}},
        {"val": {"dice": None}},
        {"val": {"dice": 0.8}},
    ]
    (folder / "run" / "log.jsonl").write_text("\n".join(map(json.dumps, log)))
    assert course.main(folder) == 1
    out = capsys.readouterr().out
    assert "step06_relative_index.py was missing and is written again" in out
    assert "next: " + str(folder / "step04_pad_to_multiple.py") in out and "shape" in out
    assert f"python -m lungseg.checks {folder / 'step04_pad_to_multiple.py'} --draw wrong.png" in out
    assert "7 of 7: steps 19 to 25 are done." in out
    assert re.search(r"step18_train_the_demo.py +passed", out)
    assert (folder / "step04_pad_to_multiple.py").read_text().endswith("return x\n")  # never overwritten


@pytest.mark.parametrize(("network", "dice", "message"), [("other.py", 0.9, "another network"),
                                                          ("step16_swin_unet.py", 0.1, "Dice is 0.10")])  # fmt: skip
def test_a_training_of_another_network_or_too_short_does_not_count(tmp_path, network, dice, message):
    (tmp_path / "run").mkdir()
    lines = [{"recipe": {"network": network}}, {"val": {"dice": dice}}]
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    verdict, answer = course.verdict_of_training(tmp_path)
    assert verdict == "failed" and message in answer


def test_a_mistake_after_a_blank_is_shown_as_well():
    verdicts = dict.fromkeys(range(1, 26), ("not yet written", "")) | {22: ("failed", "too smooth"), 1: ("passed", "")}
    out = course.progress(Path("c"), STEPS, verdicts)
    assert "1 of 18; next: c/step02" in out and "0 of 7; next: c/step19" in out
    assert "And step22_elastic.py failed:\n    too smooth\n" in out


def test_no_line_of_a_starter_is_too_long():
    assert all(len(line) <= 120 for step in STEPS for line in step.text.splitlines())


def test_a_folder_with_other_things_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("")
    assert course.main(tmp_path) == 2
    assert "Give a new folder" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1
