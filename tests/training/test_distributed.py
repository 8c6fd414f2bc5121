"""The processes of a run: where each computes, and what they exchange."""

import contextlib
from collections import OrderedDict
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lungseg.losses import bce_loss
from lungseg.training.distributed import ALONE, Processes, start_processes
from lungseg.training.step import freeze, train_one_epoch


def test_one_process_is_a_group_of_its_own(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with start_processes("cpu") as alone:
        assert alone == ALONE and alone.is_main
        assert alone.gather("x") == ["x"] and alone.share(3) == 1.0
        model = nn.Linear(1, 1)
        assert alone.wrap(model) is model
        with alone.main_first():
            pass


@pytest.fixture
def group_of_one():
    """A real group, whose gradients DDP averages with nobody's."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_frozen_parts_do_not_keep_the_other_processes_waiting(group_of_one):
    """Two steps frozen and two of learning; DDP notices at the second step that gradients of the first are missing."""
    steps = [(torch.randn(2, 1, 4, 4), torch.ones(2, 1, 4, 4), ["a", "b"])] * 2
    after = []
    for wrap in (lambda model: model, partial(Processes(0, 2).wrap, may_freeze=True)):
        torch.manual_seed(0)
        model = nn.Sequential(OrderedDict(encoder=nn.Conv2d(1, 2, 1), head=nn.Conv2d(2, 1, 1)))
        optimizer, parallel = torch.optim.SGD(model.parameters(), lr=0.1), wrap(model)
        for frozen in (True, False):
            parts = freeze(model, ["encoder"], frozen)
            train_one_epoch(parallel, steps, bce_loss, optimizer, frozen=parts, accumulate=2)
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[1], after[0])
    parallel = Processes(0, 2).wrap(model)
    with pytest.raises(RuntimeError, match="find_unused_parameters"):
        train_one_epoch(parallel, steps, bce_loss, optimizer, frozen=freeze(model, ["encoder"], True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_asked_for_in_vain():
    with pytest.raises(ValueError, match="finds no GPU"), start_processes("cuda"):
        pass


@pytest.mark.parametrize("fails", [True, False])
def test_a_process_that_fails_on_a_gpu_does_not_wait_for_the_others(monkeypatch, fails):
    """With stand-ins for two GPUs and for nccl, whose usual end waits until all processes have come to it."""
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **kwargs: calls.append(args[0]))
    monkeypatch.setattr(dist, "is_initialized", lambda: calls[-1] != "abort")
    monkeypatch.setattr(dist, "barrier", lambda: calls.append("barrier"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: calls.append("destroy"))
    monkeypatch.setattr(dist.distributed_c10d, "_abort_process_group", lambda: calls.append("abort"), raising=False)
    with pytest.raises(ValueError) if fails else contextlib.nullcontext(), start_processes("cuda"):
        if fails:
            raise ValueError("the disk is full")
    assert calls == (["nccl", "abort"] if fails else ["nccl", "barrier", "destroy"])


@pytest.mark.parametrize(
    ("cuda", "mps", "asked", "size", "place"),
    [
        (False, True, "auto", 1, "mps"),
        (False, True, "mps", 1, "mps"),
        (False, True, "cpu", 1, "cpu"),
        (False, False, "auto", 1, "cpu"),
        (False, True, "auto", 2, "cpu"),
        (False, False, "mps", 1, "finds no Apple GPU"),
        (False, True, "mps", 2, "takes one process"),
        (False, True, "cuda", 1, "finds no GPU"),
    ],
)
def test_where_to_compute(monkeypatch, cuda, mps, asked, size, place):
    """With what torch would say on an Apple computer; of several processes only the choice is looked at."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setenv("WORLD_SIZE", str(size))
    started = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *args, **kwargs: started.append(kwargs))
    for name in ("barrier", "destroy_process_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda: None)
    try:
        with start_processes(asked) as processes:
            assert processes.device == torch.device(place) and processes.size == size
        assert all(group["timeout"] > timedelta(hours=1) for group in started) and len(started) == size - 1
    except ValueError as error:
        assert place in str(error)
