"""Training in one process or several: `torchrun --nproc_per_node=2 examples/train_swin.py ...`.

Each process holds the whole network and computes the gradient of its share of every batch; DDP averages the gradients,
so all processes take the same step. A single process is the case size = 1 of the same code.
"""

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

# How long a process waits for the others. nccl itself gives up after ten minutes, but the main process may need longer
# to draw phantoms, to read all data once, or to score the test images; torchrun notices a process that has ended.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among those of a run: number `rank` of `size`, computing on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Only this process writes files and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in the order of their ranks; every process gets the list."""
        values = [value]
        if self.size > 1:
            values = [None] * self.size
            dist.all_gather_object(values, value)
        return values

    def share(self, images: int) -> float | Tensor:
        """Weight of our mean loss over `images` images; with it, DDP's average is the mean over all images.

        DDP sums the gradients and divides by `size`. If process r has n_r of the n images, its weight is
        n_r * size / n, which is 1 for equal shares. On a GPU it is a tensor, so that nothing waits for it.
        """
        if self.size == 1:
            return 1.0
        total = torch.tensor(float(images), device=self.device)
        dist.all_reduce(total)
        return images * self.size / total

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first, then in the others: for files that it writes and they read."""
        if self.size > 1 and not self.is_main:
            dist.barrier()
        try:
            yield
        finally:  # also after an error: the others would wait forever
            if self.size > 1 and self.is_main:
                dist.barrier()

    def wrap(self, model: nn.Module, *, may_freeze: bool = False) -> nn.Module:
        """The network whose `backward` averages gradients over the processes.

        Args:
            may_freeze: parts of it will be frozen for some epochs; DDP must not wait for their gradients.
        """
        if self.size == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=may_freeze)


ALONE = Processes()


def sync_gradients(model: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """With DDP, exchange gradients in the last part of a batch only; without DDP there is nothing to exchange."""
    return contextlib.nullcontext() if now or not isinstance(model, DistributedDataParallel) else model.no_sync()


@contextlib.contextmanager
def start_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the process group that torchrun describes in the environment, if there is one; leave it at the end.

    Args:
        device: "cpu", "cuda", "mps" (the GPU of an Apple computer), or "auto" for the GPU where there is one. With
            several processes on one machine, each takes the CUDA GPU of its local rank; they communicate through nccl
            on GPUs and gloo on the CPU. Apple's GPU takes one process only.

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
                f"Process {local} of this machine needs a GPU of its own, but there are {torch.cuda.device_count()}. "
                f"Start torchrun with --nproc_per_node={torch.cuda.device_count()}."
            )
        torch.cuda.set_device(place)
    if size == 1:
        yield Processes(device=place)
        return
    dist.init_process_group("nccl" if use_gpu else "gloo", device_id=place if use_gpu else None, timeout=PATIENCE)
    try:
        yield Processes(rank, size, place)
        dist.barrier()  # a process that leaves early would cut the others off during their last exchange
    except BaseException:
        if use_gpu:
            abort_group()
        raise
    finally:
        gc.collect()  # DDP keeps the group in a reference cycle; freed at interpreter exit, it might abort
        if dist.is_initialized():
            dist.destroy_process_group()


def abort_group() -> None:
    """End nccl's group without the others: destroying it would wait for them, and they wait for this process."""
    if hasattr(dist.distributed_c10d, "_abort_process_group"):  # from torch 2.6 on
        dist.distributed_c10d._abort_process_group()


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
