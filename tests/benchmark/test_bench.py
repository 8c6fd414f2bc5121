"""Which rows there are, and what happens when one cannot be measured."""

import numpy as np
import pytest
import torch

from lungseg.benchmark import bench as module
from lungseg.benchmark.bench import Bench, Case, compile_now, network_rows, other_rows, whole_rows
from lungseg.benchmark.limits import Limits
from lungseg.benchmark.timing import Timer
from lungseg.nn.unet import UNet

FLOAT, HALF = torch.float32, torch.bfloat16
TINY = Case(UNet, {"channels": (2, 4)}, (16, 16), batches=(1, 2), train=2)
LIMITS = Limits(1e9, 1e9, 1e9)


class Unknown:
    """In place of `PeakMemory`, which clears up the whole process each time."""

    def __init__(self, device):
        pass

    def of(self, work):
        work()
        return 2_000_000


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "PeakMemory", Unknown)
    monkeypatch.setattr(module, "copy_rate", lambda timer: 1e9)


@pytest.fixture
def bench(capsys):
    return Bench(Timer(torch.device("cpu"), repeats=1), limits={FLOAT: LIMITS, HALF: LIMITS})


def names(bench):
    return [line.split(" | ")[0].removeprefix("| ") for line in bench.lines]


def test_a_network_has_rows_for_each_batch_and_number_type(bench):
    network_rows(bench, "unet", TINY, {"float32": FLOAT, "bf16": HALF}, compiled=False)
    kinds = ["unet forward b1", "unet forward b2", "unet train b2"]
    assert names(bench) == kinds + [f"{kind}, bf16" for kind in kinds]
    assert all(line.count("|") == 10 for line in bench.lines)


def test_only_wanted_rows_are_measured(bench, capsys):
    bench.wanted = ("forward b2", "nothing")
    network_rows(bench, "unet", TINY, {"float32": FLOAT}, compiled=False)
    whole_rows(bench, {"unet": TINY, "swin": TINY}, 1)
    other_rows(bench, TINY)
    assert names(bench) == ["unet forward b2"]
    assert capsys.readouterr().out.splitlines() == bench.lines


def test_a_compiled_network_is_timed_in_turn_with_the_eager_one(bench, monkeypatch):
    compiled = []
    monkeypatch.setattr(UNet, "compile", lambda network: compiled.append(network), raising=False)
    bench.wanted = ("train",)
    network_rows(bench, "unet", TINY, {"float32": FLOAT}, compiled=True)
    assert names(bench) == ["unet train b2", "unet train b2, compiled"] and len(compiled) == 1


def test_whole_slices_scans_and_what_is_outside_networks(bench, monkeypatch):
    monkeypatch.setattr(module, "SIDE", 24)
    monkeypatch.setattr(module, "phantom_hu", lambda slices, side: np.zeros((slices, side, side), np.int16))
    monkeypatch.setattr(module, "random_pair", lambda side: (np.zeros((side, side), np.float32),) * 2)
    monkeypatch.setattr(module, "loader_work", lambda folder, side, num_workers: (lambda: side, 5))
    whole_rows(bench, {"unet": TINY, "swin": TINY}, 2)
    other_rows(bench, TINY, side=32)
    whole = [f"{what}, {network}" for network in ("unet", "swin") for what in ("slice 24 x 24", "scan 2 x 24 x 24")]
    assert names(bench) == [*whole, "augmentation 32 x 32", "loader 32 x 32", "checkpoint save"]


def test_a_row_that_lacks_memory_says_so_and_the_next_follows(bench, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "forward_work", too_large)
    network_rows(bench, "unet", TINY, {"float32": FLOAT}, compiled=False)
    assert [line.split(" | ")[1] for line in bench.lines[:2]] == ["too little memory"] * 2
    assert names(bench)[2] == "unet train b2" and all(line.count("|") == 10 for line in bench.lines)


def test_a_bug_is_not_taken_for_a_lack_of_memory(bench):
    with pytest.raises(TypeError), bench.row("unet"):
        raise TypeError("wrong")


def test_a_network_that_cannot_be_compiled_is_a_sentence():
    def fails():
        raise RuntimeError("no compiler\nmore lines")

    with pytest.raises(ValueError, match=r"^--compile: torch could not compile .* \(RuntimeError: no compiler\)\.$"):
        compile_now(fails)
