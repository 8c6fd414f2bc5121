"""What the machine itself can do: the rates of a large matrix product, a large convolution and a large copy.

They are measured in the same process as what is compared with them, with the same number of threads. Each is the
fastest of several calls: a limit is what can be reached.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lungseg.benchmark.timing import Timer


@dataclass(frozen=True)
class Limits:
    """Rates of a device in one number type.

    Attributes:
        matmul, convolution: arithmetic operations per second; a multiplication and an addition are two.
        copy: bytes per second, those that are read and those that are written together.
    """

    matmul: float
    convolution: float
    copy: float

    def __str__(self) -> str:
        rates = f"matmul {self.matmul / 1e9:,.0f} GFLOP/s, convolution {self.convolution / 1e9:,.0f} GFLOP/s"
        return f"{rates}, copy {self.copy / 1e9:,.1f} GB/s"


@dataclass(frozen=True)
class Sizes:
    """What is computed to measure the rates: large enough that starting a call costs nothing beside it."""

    side: int  # of two square matrices
    channels: int  # in and out of a 3 x 3 convolution
    pixels: int  # side of its images
    batch: int
    copied: int  # bytes


SIZES = {  # by the type of device. The copy is larger than the caches.
    "cpu": Sizes(side=1024, channels=128, pixels=64, batch=1, copied=2**27),
    "cuda": Sizes(side=8192, channels=256, pixels=128, batch=32, copied=2**30),
}


@torch.no_grad()
def measure_limits(timer: Timer, dtype: torch.dtype = torch.float32, *, sizes: Sizes | None = None) -> Limits:
    """Measure the three rates on the timer's device.

    Args:
        dtype: of the product and the convolution.
        sizes: what to compute; None takes that of the device.
    """
    device = timer.device
    sizes = sizes or SIZES[device.type]
    how: dict[str, Any] = {"dtype": dtype, "device": device}
    a, b = torch.rand(sizes.side, sizes.side, **how), torch.rand(sizes.side, sizes.side, **how)
    matmul = 2 * sizes.side**3 / fastest(timer, lambda: a @ b)

    image = torch.rand(sizes.batch, sizes.channels, sizes.pixels, sizes.pixels, **how)
    kernel = torch.rand(sizes.channels, sizes.channels, 3, 3, **how)
    operations = 2 * 9 * sizes.channels**2 * sizes.batch * sizes.pixels**2
    seconds = []
    for layout in (torch.contiguous_format, torch.channels_last):  # the faster one is the limit
        x, w = image.to(memory_format=layout), kernel.to(memory_format=layout)
        seconds.append(fastest(timer, partial(torch.conv2d, x, w, padding=1)))

    return Limits(matmul, operations / min(seconds), copy_rate(timer, sizes.copied))


def copy_rate(timer: Timer, size: int | None = None) -> float:
    """Bytes per second, read and written, of a copy of `size` bytes on the timer's device."""
    size = size or SIZES[timer.device.type].copied
    source = torch.ones(size, dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    return 2 * size / fastest(timer, lambda: target.copy_(source))


def fastest(timer: Timer, work: Callable[[], object]) -> float:
    work()
    return min(timer.measure(work).values)
