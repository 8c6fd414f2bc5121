"""The folder of a run: never overwritten, its log never doubled, its randomness continued."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.training.log import RunLog, RunOptions, machine, rng_state, seed_everything, set_rng_state

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def draws():
    return random.random(), np.random.rand(), torch.rand(3).tolist()


def test_options_that_cannot_be():
    for options, words in (({"num_workers": -1}, "^num_workers=-1 must be"), ({"seed": 2**63}, "^seed=9.* must be")):
        with pytest.raises(ValueError, match=words):
            RunOptions(**options)


def test_the_same_seed_gives_the_same_draws():
    for seed in (0, 1, 2**40):
        seed_everything(seed, CPU)
        first = draws()
        seed_everything(seed, CPU)
        assert draws() == first
        seed_everything(seed + 1, CPU)
        assert draws() != first


def test_a_saved_state_continues_every_generator(tmp_path):
    seed_everything(5, CPU)
    random.gauss(0, 1), np.random.standard_normal(), torch.randn(3)  # each keeps half of a pair for later
    save_checkpoint(tmp_path / "rng.pt", {"rng": rng_state()})  # plain types only
    wanted = draws(), random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()
    seed_everything(6, CPU)
    set_rng_state(load_checkpoint(tmp_path / "rng.pt")["rng"])
    assert (draws(), random.gauss(0, 1), np.random.standard_normal(), torch.randn(3).tolist()) == wanted


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


def test_the_log_says_where_it_was_made():
    assert machine(CPU)["torch"] == torch.__version__
    assert "threads" in machine(CPU)["device"]


def test_the_generator_of_an_apple_gpu_is_part_of_the_state_where_there_is_one(monkeypatch):
    given = []
    assert "mps" not in rng_state() or torch.backends.mps.is_available()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.arange(3))
    monkeypatch.setattr(torch.mps, "set_rng_state", given.append)
    state = rng_state()
    set_rng_state(state)
    assert torch.equal(given[0], torch.arange(3))
    del state["mps"]  # of a run that began elsewhere
    set_rng_state(state)
    assert len(given) == 1
    assert machine(torch.device("mps"))["device"] == "Apple GPU"
