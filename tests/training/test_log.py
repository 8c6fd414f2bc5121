"""The folder of a run: never overwritten, its log never doubled, its randomness continued."""

import json
import math
from pathlib import Path

import pytest

from lungseg.training.log import RunLog


def test_a_log_taken_up_again_has_each_line_once(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write(epoch=1, loss=0.5)
    position = log.position
    log.write(epoch=2, loss=0.25)  # the run is killed before the checkpoint that counts this line
    with open(log.path, "a") as file:
        file.write('{"epoch": 3, "lo')  # and in the middle of the next
    again = RunLog(log.path, position=position)
    again.write(epoch=2, loss=0.25)
    assert again.lines() == [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]


def test_a_log_that_lost_lines_is_not_continued(tmp_path):
    RunLog(tmp_path / "log.jsonl").write(epoch=1)
    with pytest.raises(ValueError, match="shorter than its checkpoint says"):
        RunLog(tmp_path / "log.jsonl", position=10**6)


def test_a_log_is_json_also_where_numbers_are_not_finite(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write(val={"dice": math.nan, "loss": math.inf}, data=Path("a/b"), digits=0.1 + 0.2)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(log.path.read_text(), parse_constant=refuse)
    assert line == {"val": {"dice": None, "loss": None}, "data": "a/b", "digits": 0.1 + 0.2}


def test_only_the_main_process_writes(tmp_path):
    log = RunLog(tmp_path / "log.jsonl", enabled=False)
    log.write(epoch=1)
    assert log.position == 0 and not log.path.exists()
