"""Peaks of memory: of tensors of known size, allocated and freed within a call."""

import gc

import pytest
import torch

from lungseg.benchmark import memory
from lungseg.benchmark.memory import PeakMemory

MIB = 2**20
LINUX = pytest.mark.skipif(not (memory.PROC / "clear_refs").exists(), reason="no /proc")


def hold(size):
    """Fill memory and free it."""

    def work():
        return torch.ones(size, dtype=torch.uint8).max()

    return work


@LINUX
def test_the_peak_is_that_of_the_call_and_not_of_one_before():
    peak = PeakMemory(torch.device("cpu"))
    large, small = peak.of(hold(32 * MIB)), peak.of(hold(8 * MIB))
    assert 30 * MIB < large < 40 * MIB
    assert 7 * MIB < small < 12 * MIB


@LINUX
def test_what_was_there_before_does_not_count_and_what_came_later_does():
    before = torch.ones(8 * MIB, dtype=torch.uint8)
    peak = PeakMemory(torch.device("cpu"))
    after = torch.ones(16 * MIB, dtype=torch.uint8)
    assert 15 * MIB < peak.of(lambda: before.max() + after.max()) < 22 * MIB


def test_a_system_that_does_not_tell_leaves_the_peak_unknown_and_makes_the_call(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROC", tmp_path / "gone")
    calls = []
    assert PeakMemory(torch.device("cpu")).of(lambda: calls.append(0)) is None
    assert calls == [0]


def test_an_entry_is_found_and_its_unit_is_bytes(monkeypatch, tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n")
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert (memory.resident("VmHWM"), memory.resident("VmRSS")) == (300 * 1024, 200 * 1024)
    with pytest.raises(OSError, match="VmPeak"):
        memory.resident("VmPeak")


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_torchs_allocator():
    device = torch.device("cuda")
    before = torch.ones(MIB, device=device)
    peak = PeakMemory(device)
    work = lambda: (torch.ones(3 * MIB, device=device), None)[1]  # noqa: E731
    assert 12 * MIB <= peak.of(work) < 16 * MIB
    assert peak.of(lambda: before.shape) == 0
    gc.collect()
