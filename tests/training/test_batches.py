"""Batches from worker processes are those from none; so are the errors."""

import errno
import gc
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch.utils.data import Dataset, default_collate

from lungseg.training import batches as batches_module
from lungseg.training.batches import Loader, TrainBatches, held_out_batches, train_batches
from lungseg.training.distributed import Processes
from lungseg.training.step import to_device


def read_all(samples, **how):
    """Workers that are left to the garbage collector take 5 seconds each to end."""
    batches = Loader(samples, batch_size=3, **how)
    try:
        return list(batches)
    finally:
        if batches.num_workers:
            batches._iterator._shutdown_workers()


WORKERS = pytest.mark.parametrize("num_workers", [0, 2])


class Samples(Dataset):
    """Number i as an image, and whatever `read` does."""

    def __init__(self, read=lambda index: None):
        self.read = read

    def __len__(self):
        return 7

    def __getitem__(self, index):
        self.read(index)
        image = torch.full((1, 3, 4), float(index))
        return image, (image > 2).float(), f"slice{index}"


@WORKERS
def test_batches_are_those_of_torch(num_workers):
    found = list(Loader(Samples(), batch_size=3, num_workers=num_workers))
    assert [len(ids) for _, _, ids in found] == [3, 3, 1]
    for i, (image, target, ids) in enumerate(found):
        wanted = default_collate([Samples()[k] for k in range(3 * i, min(7, 3 * i + 3))])
        for tensor, theirs in zip((image, target), wanted[:2], strict=True):
            assert torch.equal(tensor, theirs) and tensor.dtype == theirs.dtype
        assert list(ids) == list(wanted[2])


@WORKERS
def test_an_epoch_can_be_left_and_begun_again(num_workers):
    batches = Loader(Samples(), batch_size=3, num_workers=num_workers)
    next(iter(batches))
    assert [len(ids) for _, _, ids in batches] == [3, 3, 1]
    assert len(batches) == 3


@pytest.mark.parametrize("shared", [True, False])
def test_batches_come_through_shared_memory_or_a_pipe_and_are_the_same(monkeypatch, shared):
    monkeypatch.setattr(batches_module, "shared_memory_suffices", lambda: shared)
    for i, (image, target, ids) in enumerate(Loader(Samples(), batch_size=1, num_workers=2)):
        assert image.is_shared() == target.is_shared() == shared
        assert (image == i).all() and ids == (f"slice{i}",) and image.dtype == target.dtype == torch.float32
        image += 1  # it can be written to


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="not Linux")
@pytest.mark.parametrize(("free", "files", "suffices"), [(2**40, 1024, True), (2**26, 1024, False), (2**40, 64, False)])
def test_little_shared_memory_and_few_open_files_are_left_alone(monkeypatch, free, files, suffices):
    """A container has 64 MB of the one, a cautious administrator allows few of the others."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    monkeypatch.setattr("resource.getrlimit", lambda kind: (files, files))
    assert batches_module.shared_memory_suffices() == suffices


def missing(index):
    if index == 4:
        open("/nowhere/slice4.png")


def odd(index):
    if index == 4:
        raise ValueError("slice4.png is not a PNG. Export it again.")


def too_large(index):
    if index == 4:
        np.empty(2**60)  # numpy's MemoryError takes arguments of its own: not every error can be sent


@WORKERS
@pytest.mark.parametrize("read", [missing, odd, too_large])
def test_an_error_is_the_same_with_workers_as_without(num_workers, read):
    with pytest.raises((OSError, ValueError, MemoryError)) as here:
        read(4)
    with pytest.raises(type(here.value)) as there:
        read_all(Samples(read), num_workers=num_workers)
    assert str(there.value) == str(here.value)
    if isinstance(here.value, OSError):
        assert (there.value.errno, there.value.filename) == (here.value.errno, here.value.filename)


def mistake(index):
    raise KeyError("ours")


def test_a_mistake_of_ours_keeps_the_traceback_of_the_worker():
    with pytest.raises(KeyError, match="in mistake"):
        read_all(Samples(mistake), num_workers=2)


def dies(index):
    if index == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)


def test_a_killed_worker_ends_the_epoch():
    """`lungseg.exits` makes a sentence of it: torch raises it wherever the program is when it learns of the death."""
    with pytest.raises(RuntimeError, match="DataLoader worker .* (is killed by signal|.*exited unexpectedly)"):
        for _ in Loader(Samples(dies), batch_size=3, num_workers=2):
            pass
        time.sleep(5)


PARENT = """
import os, signal, torch
from lungseg.training.batches import Loader

class Large(torch.utils.data.Dataset):
    def __len__(self):
        return 100
    def __getitem__(self, index):
        return torch.zeros(1, 1000, 1000), torch.zeros(1, 1000, 1000), "x"

loader = Loader(Large(), batch_size=2, num_workers=2)
next(iter(loader))
loader._iterator._workers_done_event._cond.acquire()  # what the main process holds while it ends its workers
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_killed_parent():
    """Though they wait for a lock that it will never let go, and for a reader of what they have sent."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    try:
        process.communicate(timeout=30)  # until the last process that could write there has ended
        assert process.returncode == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        pytest.fail("workers live on")


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("which", [0, 1])
def test_workers_that_cannot_be_started_are_one_sentence(monkeypatch, which):
    """The first, or one after others."""
    start, started = multiprocessing.Process.start, []

    def limited(process):
        if len(started) == which:
            raise OSError(errno.EMFILE, "Too many open files")
        started.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.Process, "start", limited)
    with pytest.raises(ValueError, match=r"2 processes to read the data could not be started \(Too many open files\)"):
        list(Loader(Samples(), batch_size=3, num_workers=2))
    gc.collect()
    for process in started:
        process.join(10)
        assert process.exitcode is not None


def test_more_workers_than_processors_are_no_reason_for_a_warning(recwarn):
    list(Loader(Samples(), batch_size=3, num_workers=len(os.sched_getaffinity(0)) + 1))
    assert not recwarn.list


@pytest.mark.gpu
@WORKERS
@pytest.mark.parametrize("shared", [True, False])
def test_batches_for_a_gpu_are_pinned_and_arrive_unchanged(num_workers, shared, device, monkeypatch):
    """Also through a pipe, where there is no shared memory."""
    monkeypatch.setattr("lungseg.training.batches.shared_memory_suffices", lambda: shared)
    pin = device.type == "cuda"
    plain = list(Loader(Samples(), batch_size=3))
    pinned = Loader(Samples(), batch_size=3, num_workers=num_workers, pin=pin)
    for (image, target, ids), (expected, its_target, its_ids) in zip(pinned, plain, strict=True):
        assert image.is_pinned() == target.is_pinned() == pin and ids == its_ids
        assert torch.equal(to_device(image, device).cpu(), expected)
        assert torch.equal(to_device(target, device).cpu(), its_target)
    if num_workers:
        pinned._iterator._shutdown_workers()  # or the garbage collector takes 5 seconds


counts, sizes = st.integers(1, 60), st.integers(1, 20)


def epoch_of(num_images, batch_size, size, epoch=0, seed=0):
    """The batches of each process."""
    shares = []
    for rank in range(size):
        batches = TrainBatches(num_images, batch_size, seed=seed, processes=Processes(rank, size))
        batches.set_epoch(epoch)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    return shares


@given(counts, sizes, st.integers(0, 3))
def test_an_epoch_holds_every_image_once_in_batches_of_nearly_equal_size(num_images, batch_size, epoch):
    (batches,) = epoch_of(num_images, batch_size, 1, epoch)
    assert sorted(itertools.chain(*batches)) == list(range(num_images))
    lengths = {len(b) for b in batches}
    assert max(lengths) <= batch_size and max(lengths) - min(lengths) <= 1
    assert len(batches) == (num_images + batch_size - 1) // batch_size


@given(counts, sizes, st.integers(2, 5), st.integers(0, 3))
def test_the_shares_of_a_batch_add_up_to_the_batch_of_one_process(num_images, batch_size, size, epoch):
    assume(num_images // -(-num_images // batch_size) >= size)
    (whole,) = epoch_of(num_images, batch_size, 1, epoch)
    shares = epoch_of(num_images, batch_size, size, epoch)
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(parts), "a process without an image would leave the others waiting"
        assert sorted(itertools.chain(*parts)) == sorted(batch)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_order_depends_on_seed_and_epoch_alone():
    first = epoch_of(30, 7, 1, epoch=4, seed=1)
    assert epoch_of(30, 7, 1, epoch=4, seed=1) == first  # not on what was read before
    assert epoch_of(30, 7, 1, epoch=5, seed=1) != first
    assert epoch_of(30, 7, 1, epoch=4, seed=2) != first


def test_more_processes_than_images_in_a_batch_are_refused():
    with pytest.raises(ValueError, match="3 training images in batches of 2 leave some of 2 processes"):
        TrainBatches(3, 2, seed=0, processes=Processes(0, 2))


class Numbers(Dataset):
    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.tensor([index]), torch.zeros(1), str(index)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_held_out_images_go_to_exactly_one_process(num_workers):
    for size in (1, 2, 3):
        shares = [
            held_out_batches(Numbers(), 4, num_workers=num_workers, processes=Processes(rank, size))
            for rank in range(size)
        ]
        ids = [id_ for share in shares for _, _, ids in share for id_ in ids]
        assert sorted(map(int, ids)) == list(range(11))


def test_reading_batches_leaves_the_global_generator_alone():
    """Otherwise the dropout of an epoch would depend on how often the validation set was evaluated."""
    before = torch.get_rng_state()
    for loader in (train_batches(Numbers(), 4, seed=0), held_out_batches(Numbers(), 4)):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)
