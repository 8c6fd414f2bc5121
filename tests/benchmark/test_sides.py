"""Two sides, in this process and in processes of their own: the same answers, and errors that arrive."""

import multiprocessing
import os
import warnings

import numpy as np
import pytest
import torch

from lungseg.benchmark import sides
from lungseg.benchmark.sides import Side, Subject, two_sides
from lungseg.benchmark.timing import Timer
from lungseg.exits import lacks_memory
from lungseg.nn.unet import UNet

TIMER = Timer(torch.device("cpu"), repeats=2)
PAIR = np.zeros((32, 32), np.float32), np.zeros((32, 32), np.uint8)
OURS = Subject(None, UNet, {"channels": (2, 4)}, threads=1)
FLOAT = torch.float32


class Peer(torch.nn.Module):
    """Predicts, and cannot be trained."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, image):
        if self.training:
            raise TypeError("only for prediction\nsays this line")
        return self.weight * image


class TwoArgumentsError(RuntimeError):
    """Cannot be unpickled."""

    def __init__(self, text, number):
        super().__init__(text)


class FailsLater(torch.nn.Module):
    """Works for some calls."""

    def __init__(self, calls, error):
        super().__init__()
        self.calls, self.error = calls, error

    def forward(self, image):
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return image


@pytest.fixture(autouse=True)
def _no_warming_up(monkeypatch):
    """It takes longer than the rest, and is only for the memory that is printed."""
    monkeypatch.setattr(sides, "warm_up", lambda device: None)


@pytest.fixture
def theirs(monkeypatch):
    """A peer that needs no module."""
    monkeypatch.setattr(sides, "random_pair", lambda side: PAIR)  # drawing a phantom takes longer
    monkeypatch.setattr(sides, "peer_network", lambda _: Peer())
    monkeypatch.setattr(sides, "call_factory", lambda name: {"p:f": lambda image, target: image, "p:n": 3}[name])
    return Subject("p:f", UNet, {})


@pytest.fixture
def by_fork(monkeypatch):
    """Start processes by a fork of this one, which has loaded torch already."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(sides.multiprocessing, "get_context", lambda _: context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork where there are threads; here they do nothing
        yield


@pytest.mark.parametrize("as_run", [False, True])
def test_both_sides_are_prepared_timed_and_told_when_they_fail(as_run, theirs, by_fork, tmp_path, monkeypatch):
    monkeypatch.setattr(sides, "keep_freed_memory", lambda: (tmp_path / str(os.getpid())).touch())
    with two_sides(OURS, theirs, TIMER, as_run=as_run) as both:
        assert list(both) == ["ours", "theirs"]
        for side in both.values():
            side.prepare("forward", (1, 1, 8, 8), FLOAT)
            assert side.time() > 0
        both["ours"].prepare("train", (1, 1, 8, 8), FLOAT)
        with pytest.raises(ValueError, match=r"^--against p:f: train fails: TypeError: only for prediction$"):
            both["theirs"].prepare("train", (1, 1, 8, 8), FLOAT)
        both["theirs"].prepare("forward", (2, 1, 8, 8), FLOAT)  # it goes on
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) == as_run  # ours alone keeps freed memory


@pytest.mark.parametrize("as_run", [False, True])
@pytest.mark.parametrize(
    ("calls", "error", "kind", "words"),
    [
        (0, TwoArgumentsError("out of memory", 1), (RuntimeError, MemoryError), "out of memory"),
        (1, SystemExit(3), ValueError, "^--against p:f: forward fails: SystemExit: 3$"),
        (2, TwoArgumentsError("expired", 1), ValueError, "^--against p:f: forward fails: TwoArgumentsError: expired$"),
    ],
)
def test_a_peer_may_fail_at_any_call(calls, error, kind, words, as_run, theirs, by_fork, monkeypatch):
    monkeypatch.setattr(sides, "peer_network", lambda _: FailsLater(calls, error))
    with two_sides(OURS, theirs, TIMER, as_run=as_run) as both, pytest.raises(kind, match=words) as raised:
        both["theirs"].prepare("forward", (1, 1, 8, 8), FLOAT)
        assert calls == 2
        both["theirs"].time()
    assert lacks_memory(raised.value) == (calls == 0)


def test_a_process_that_has_ended_is_reported(theirs, by_fork):
    with two_sides(OURS, theirs, TIMER, as_run=True) as both:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        with pytest.raises(ValueError, match="The process of ours has ended"):
            both["ours"].time()


def test_the_mode_of_a_network_is_that_of_its_work():
    side = Side(OURS, TIMER)
    side.prepare("train", (1, 1, 8, 8), FLOAT)
    assert side.model.training
    side.prepare("forward", (1, 1, 8, 8), FLOAT)
    assert not side.model.training


def test_two_augmentations_take_the_same_pair(theirs):
    seen = []
    mine, other = Side(Subject(None, None, {}), TIMER), Side(Subject("p:f", None, {}), TIMER)
    for side in (mine, other):
        side.prepare("augmentation", (32, 32), FLOAT)
        seen.append(side.work())
    assert seen[0][0].shape == seen[1].shape == (32, 32)
    with pytest.raises(ValueError, match=r"--against p:n: expected a function of \(image, target\).*got int"):
        Side(Subject("p:n", None, {}), TIMER).prepare("augmentation", (32, 32), FLOAT)


@pytest.mark.parametrize("keep", [False, True])
def test_a_process_keeps_freed_memory_if_its_subject_says_so(keep, monkeypatch):
    calls = []
    monkeypatch.setattr(sides, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(sides.signal, "signal", lambda *_: None)
    here, there = multiprocessing.Pipe()
    here.close()  # nobody asks: the process ends
    sides.serve(there, Subject(None, UNet, {}, keep_memory=keep), TIMER)
    assert len(calls) == keep
