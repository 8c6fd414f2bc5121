"""Training with one or several processes: `torchrun --nproc_per_node=2 examples/train_swin.py ...`.

Each process holds the whole network and computes the gradient of its share of every batch; DDP averages the
gradients, so all take the same step. One process is the case size = 1 of the same code.
"""

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, Sampler

from lungseg.training.batches import Loader


@dataclass(frozen=True)
class Processes:
    """Who we are among the processes of a run: number `rank` of `size`, computing on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Only this process writes files and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in the order of their ranks, known to all."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def share(self, images: int) -> float | Tensor:
        """Weight of our mean loss over `images` images, so that DDP's average is the mean over all images.

        DDP adds up the gradients and divides by `size`; with n_r of n images in process r the weight is
        n_r * size / n. It is 1 for equal shares. On a GPU it stays there, as a tensor.
        """
        if self.size == 1:
            return 1.0
        total = torch.tensor(float(images), device=self.device)
        dist.all_reduce(total)
        return images * self.size / total

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go through the block alone, then the others: for what it writes and they read."""
        if self.size > 1 and not self.is_main:
            dist.barrier()
        try:
            yield
        finally:  # also after an error, or the others would wait for ever
            if self.size > 1 and self.is_main:
                dist.barrier()

    def wrap(self, model: nn.Module, *, may_freeze: bool = False) -> nn.Module:
        """The network whose `backward` averages gradients over the processes.

        Args:
            may_freeze: parts of it will stand still for some epochs. Else DDP would wait for their gradients for ever.
        """
        if self.size == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=may_freeze)


ALONE = Processes()


@contextlib.contextmanager
def start_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the group that torchrun describes in the environment, if there is one; leave it at the end.

    Args:
        device: "cpu", "cuda", "mps" (the GPU of an Apple computer), or "auto" for the GPU where there is one. With
            several processes on one machine, each takes the CUDA GPU of its local rank; they talk through nccl on GPUs
            and gloo on the CPU. Apple's GPU takes one process only.

    Raises:
        ValueError: if a GPU was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda was given, but torch finds no GPU. Use --device cpu, or install a CUDA torch.")
    use_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    rank, local = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
    size = int(os.environ.get("WORLD_SIZE", 1))
    place = torch.device("cuda", local) if use_gpu else torch.device("cpu")
    if not use_gpu and use_apple_gpu(device, size):
        place = torch.device("mps")
    if use_gpu:
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"Process {local} of this machine wants a GPU of its own, but there are {torch.cuda.device_count()}. "
                f"Start torchrun with --nproc_per_node={torch.cuda.device_count()}."
            )
        torch.cuda.set_device(place)
    if size == 1:
        yield Processes(device=place)
        return
    dist.init_process_group("nccl" if use_gpu else "gloo", device_id=place if use_gpu else None)
    try:
        yield Processes(rank, size, place)
        dist.barrier()  # who leaves first would cut the others off in the middle of their last exchange
    finally:
        gc.collect()  # DDP keeps the group in a cycle of references; freed at the interpreter's end, it might abort
        dist.destroy_process_group()


def use_apple_gpu(device: str, size: int) -> bool:
    """Whether to compute on the GPU of an Apple computer (Metal Performance Shaders), if there is no CUDA.

    Raises:
        ValueError: if it was asked for and there is none, or for several processes.
    """
    available = torch.backends.mps.is_available()
    if device == "mps" and not available:
        raise ValueError("--device mps was given, but torch finds no Apple GPU. Use --device cpu.")
    if device == "mps" and size > 1:
        raise ValueError("--device mps takes one process, not several. Start the script without torchrun.")
    return available and size == 1 and device in ("auto", "mps")


class TrainBatches(Sampler[list[int]]):
    """The batches of one epoch, as lists of indices: what this process reads for each optimizer step.

    All images in an order that depends on (seed, epoch) alone, cut into batches of nearly equal size (at most
    batch_size, differing by at most one: a last batch of two images would make a step as large as any other).
    Of each batch, process r of n takes the images r, r + n, r + 2n, ...: together they hold every image once,
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
        """Say which epoch begins: each has its own order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_images)
        for batch in np.array_split(order, self.num_batches):
            yield batch[self.processes.rank :: self.processes.size].tolist()


def train_batches(
    dataset: Dataset, batch_size: int, *, seed: int, num_workers: int = 0, processes: Processes = ALONE
) -> Loader:
    """This process's share of the shuffled batches; call `.batch_sampler.set_epoch(epoch)` before each epoch."""
    batches = TrainBatches(len(dataset), batch_size, seed=seed, processes=processes)
    return Loader(dataset, batch_sampler=batches, num_workers=num_workers, pin=processes.device.type == "cuda")


def held_out_batches(
    dataset: Dataset, batch_size: int, *, num_workers: int = 0, processes: Processes = ALONE
) -> Loader:
    """This process's share of a validation or test set: every slice goes to exactly one process, none twice."""
    ours = range(processes.rank, len(dataset), processes.size)
    pin = processes.device.type == "cuda"
    return Loader(dataset, batch_size=batch_size, sampler=ours, num_workers=num_workers, pin=pin)
