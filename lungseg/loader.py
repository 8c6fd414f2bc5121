"""Batches of samples, read by worker processes if asked for; what goes wrong there is told as if it went wrong here."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

TOLD = (ValueError, OSError, MemoryError)  # what a user can mend; a mistake of ours keeps the traceback of the worker


class Loader(DataLoader):
    """torch's DataLoader over samples (image, target, id); yields image (B, ...), target (B, ...) and the B ids.

    Differently from torch's:

    - An error of `TOLD` in a worker process is raised here as it is, not as a text that ends in a traceback.
    - Workers send arrays through a pipe, not tensors in shared memory. That is one more copy (4 ms for a batch of
      16 x 256 x 256), and needs neither space in /dev/shm, of which containers have little, nor an open file for
      every tensor.
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
            collate_fn=packed,
            worker_init_fn=partial(end_with, os.getpid()),
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
            image, target = map(torch.as_tensor, parcel.arrays)
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
    """A batch on its way from a worker process."""

    def __init__(self, samples: list[tuple[Tensor, Tensor, str]]):
        images, targets, self.ids = zip(*samples, strict=True)
        self.arrays = [np.stack([tensor.numpy() for tensor in part]) for part in (images, targets)]

    def pin_memory(self) -> "Parcel":
        """Called by a thread of DataLoader, where that was asked for."""
        self.arrays = [torch.from_numpy(array).pin_memory() for array in self.arrays]
        return self


def end_with(parent: int, worker: int) -> None:
    """Let a worker process end within a second when the main process was killed.

    torch's own watch does not help a worker that waits for a lock which the main process held when it was killed.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def packed(samples: "list | Failure") -> Parcel | Failure:
    return samples if isinstance(samples, Failure) else Parcel(samples)
