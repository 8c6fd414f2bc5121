"""Batches of samples, read by worker processes if asked for; what goes wrong there is told as if it went wrong here."""

import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

ENOUGH_BYTES, ENOUGH_FILES = 2**30, 512  # containers often have 2^26
TOLD = (ValueError, OSError, MemoryError)  # what a user can mend; a mistake of ours keeps the traceback of the worker


class Loader(DataLoader):
    """torch's DataLoader over samples (image, target, id); yields image (B, ...), target (B, ...) and the B ids.

    Differently from torch's:

    - An error of `TOLD` in a worker process is raised here as it is, not as a text that ends in a traceback.
    - Where shared memory or open files are short, as in most containers, workers send arrays through a pipe. That is
      slower, and needs neither space in /dev/shm nor an open file for every tensor.
    - More workers than processors are no reason for a warning.

    Args:
        num_workers: processes that read; 0 reads in this one.
        pin: put each batch where a CUDA GPU can fetch it while the program goes on.
        batches: `batch_sampler=`, or `batch_size=` and `sampler=`, as of DataLoader.
    """

    def __init__(self, dataset: Dataset, *, num_workers: int = 0, pin: bool = False, **batches: Any):
        super().__init__(
            Reader(dataset),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin,
            collate_fn=partial(packed, shared=shared_memory_suffices()),
            worker_init_fn=end_with_parent,
            generator=torch.Generator(),  # its own: else each epoch would draw from the generator of the drop-outs
            **batches,
        )

    def check_worker_number_rationality(self) -> None:
        """torch would warn of two workers on one processor, where they may still wait for a disk at the same time."""

    def _get_iterator(self) -> Any:  # of torch, which calls it at the beginning of the first epoch
        return Workers(self) if self.num_workers else super()._get_iterator()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Sequence[str]]]:
        for parcel in super().__iter__():
            if isinstance(parcel, Failure):
                raise parcel.error
            image, target = map(torch.as_tensor, parcel.parts)
            yield image, target, parcel.ids


class Workers(_MultiProcessingDataLoaderIter):
    """torch's worker processes, which may fail to start: each needs memory, open files and some bytes of /dev/shm."""

    def __init__(self, loader: Loader):
        try:
            super().__init__(loader)
        except OSError as error:
            self._shutdown = True  # torch would end workers that it does not have yet, and print a traceback
            for worker in getattr(self, "_workers", ()):
                worker.terminate()
            raise ValueError(
                f"{loader.num_workers} processes to read the data could not be started ({error.strerror}). "
                f"Lower --num-workers; 0 reads in the main process."
            ) from None


class Reader(Dataset):
    """Lists of samples of `dataset`; in place of one that cannot be read, why."""

    def __init__(self, dataset: Dataset):
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
        self.parts = [torch.stack(part) for part in (images, targets)]
        if not shared:
            self.parts = [part.numpy() for part in self.parts]

    def pin_memory(self) -> "Parcel":
        """Called by a thread of DataLoader, where that was asked for."""
        self.parts = [torch.as_tensor(part).pin_memory() for part in self.parts]
        return self


def end_with_parent(worker: int) -> None:
    """Let a worker process end when the main process has ended, however that did.

    torch's own watch does not help a worker that waits for a lock which the main process held when it was killed.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def packed(samples: "list | Failure", shared: bool) -> Parcel | Failure:
    return samples if isinstance(samples, Failure) else Parcel(samples, shared)


def shared_memory_suffices() -> bool:
    """Whether tensors of a few batches for each worker fit into /dev/shm, and may each keep a file open."""
    if not os.path.isdir("/dev/shm"):  # not Linux, where torch shares memory otherwise
        return True
    import resource  # not on Windows

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return shutil.disk_usage("/dev/shm").free >= ENOUGH_BYTES and files >= ENOUGH_FILES
