"""Batches of samples: which ones in which order, read by worker processes if asked for.

An error in a worker process is raised in the main process as if it had happened there.
"""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lungseg.data.samples import Samples
from lungseg.training.distributed import ALONE, Processes

ENOUGH_BYTES, ENOUGH_FILES = 2**30, 512  # containers often have 2^26
TOLD = (ValueError, OSError, MemoryError)  # what the user can fix; a bug of ours keeps the traceback of the worker


class Loader(DataLoader):
    """torch's DataLoader over samples (image, target, id); yields image (B, ...), target (B, ...) and the B ids.

    Unlike torch's:

    - An error of `TOLD` in a worker process is raised here unchanged, not as text that ends in a traceback.
    - Where shared memory or open files are scarce, as in most containers, workers send arrays through a pipe. That is
      slower, but needs neither space in /dev/shm nor an open file per tensor.
    - More workers than processors cause no warning.

    Args:
        num_workers: processes that read; 0 reads in this one.
        pin: put each batch into pinned memory, from which a CUDA GPU can copy it while the program continues.
        batches: `batch_sampler=`, or `batch_size=` and `sampler=`, as of DataLoader.
    """

    def __init__(self, dataset: Samples, *, num_workers: int = 0, pin: bool = False, **batches: Any):
        super().__init__(
            Reader(dataset),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin,
            collate_fn=partial(packed, shared=shared_memory_suffices()),
            worker_init_fn=end_with_parent,
            generator=torch.Generator(),  # its own: otherwise each epoch would draw from dropout's generator
            **batches,
        )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of training batches (`TrainBatches`), whose order depends on it."""
        assert isinstance(self.batch_sampler, TrainBatches)
        self.batch_sampler.set_epoch(epoch)

    def check_worker_number_rationality(self) -> None:
        """torch would warn about two workers on one processor; but they may wait for a disk at the same time."""

    def _get_iterator(self) -> Any:  # of torch, which calls it at the beginning of the first epoch
        return Workers(self) if self.num_workers else super()._get_iterator()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:  # type: ignore[override]
        for parcel in super().__iter__():
            if isinstance(parcel, Failure):
                raise parcel.error
            image, target = map(torch.as_tensor, parcel.parts)
            yield image, target, parcel.ids


class Workers(_MultiProcessingDataLoaderIter):
    """torch's worker processes; starting them can fail, because each needs memory, open files and some of /dev/shm."""

    def __init__(self, loader: Loader):
        try:
            super().__init__(loader)
        except OSError as error:
            self._shutdown = True  # otherwise torch ends workers that it does not have yet, and prints a traceback
            for worker in getattr(self, "_workers", ()):
                worker.terminate()
            raise ValueError(
                f"{loader.num_workers} processes to read the data could not be started ({error.strerror}). "
                f"Lower --num-workers; 0 reads in the main process."
            ) from None


class Reader(Dataset):
    """Lists of samples of `dataset`; the error instead, if one cannot be read."""

    def __init__(self, dataset: Samples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: Sequence[int]) -> "list | Failure":
        try:
            return [self.dataset[index] for index in indices]
        except TOLD as error:
            return Failure(error)


class Failure:
    """An error on its way from a worker process."""

    def __init__(self, error: Exception):
        self.error = error


class Parcel:
    """A batch on its way from a worker process: tensors go through shared memory, arrays through the pipe itself."""

    def __init__(self, samples: list[tuple[Tensor, Tensor, str]], shared: bool):
        images, targets, self.ids = zip(*samples, strict=True)
        self.parts: list[Any] = [torch.stack(part) for part in (images, targets)]
        if not shared:
            self.parts = [part.numpy() for part in self.parts]

    def pin_memory(self) -> "Parcel":
        """Called by a thread of DataLoader, if `pin_memory` is on."""
        self.parts = [torch.as_tensor(part).pin_memory() for part in self.parts]
        return self


def end_with_parent(worker: int) -> None:
    """End a worker process when the main process has ended, for whatever reason.

    torch's own watch does not help a worker that waits for a lock which the main process held when it was killed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # we are a worker

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def packed(samples: "list | Failure", shared: bool) -> Parcel | Failure:
    return samples if isinstance(samples, Failure) else Parcel(samples, shared)


def shared_memory_suffices() -> bool:
    """Whether the tensors of a few batches per worker fit into /dev/shm, each with a file open."""
    if not os.path.isdir("/dev/shm"):  # not Linux: torch shares memory in another way
        return True
    import resource  # not on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return shutil.disk_usage("/dev/shm").free >= ENOUGH_BYTES and files >= ENOUGH_FILES


# ---- which samples, in which order -------------------------------------------------------------------------------


class TrainBatches(Sampler[list[int]]):
    """The batches of one epoch, as lists of indices: what this process reads for each optimizer step.

    All images in an order that depends only on (seed, epoch), split into batches of nearly equal size (at most
    batch_size, differing by at most one: a last batch of two images would make a step as large as any other).
    Of each batch, process r of n takes the images r, r + n, r + 2n, ...: together the processes see every image once,
    and the batches are the same for any number of processes.

    Raises:
        ValueError: if some process would have no image in some batch.
    """

    def __init__(self, num_images: int, batch_size: int, *, seed: int, processes: Processes = ALONE):
        self.num_images, self.seed, self.processes, self.epoch = num_images, seed, processes, 0
        self.num_batches = -(-num_images // batch_size)  # rounded up
        if num_images // self.num_batches < processes.size:
            raise ValueError(
                f"{num_images} training images in batches of {batch_size} leave some of {processes.size} processes "
                f"without an image. Use fewer processes, or a batch size of at least {2 * processes.size}."
            )

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: each has its own order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_images)
        for batch in np.array_split(order, self.num_batches):
            yield batch[self.processes.rank :: self.processes.size].tolist()


def train_batches(
    dataset: Samples, batch_size: int, *, seed: int, num_workers: int = 0, processes: Processes = ALONE
) -> Loader:
    """This process's share of the shuffled batches; call `.set_epoch(epoch)` before each epoch."""
    batches = TrainBatches(len(dataset), batch_size, seed=seed, processes=processes)
    return Loader(dataset, batch_sampler=batches, num_workers=num_workers, pin=processes.device.type == "cuda")


def held_out_batches(
    dataset: Samples, batch_size: int, *, num_workers: int = 0, processes: Processes = ALONE
) -> Loader:
    """This process's share of a validation or test set: every slice goes to exactly one process, none twice."""
    ours = range(processes.rank, len(dataset), processes.size)
    pin = processes.device.type == "cuda"
    return Loader(dataset, batch_size=batch_size, sampler=ours, num_workers=num_workers, pin=pin)
