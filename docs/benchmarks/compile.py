"""torch.compile on a CPU: how long compiling takes, and how long a training step takes then.

    python docs/benchmarks/compile.py              a small U-Net
    python docs/benchmarks/compile.py --swin       a small Swin-UNet

Steps of the plain and of the compiled network alternate, on one thread. Compiling is measured in wall time, because the
C++ compiler is a process of its own; steps in CPU time.
"""

import statistics
import sys
import time

import torch
from torch import Tensor, nn

from lungseg.losses import dice_bce_loss
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.training.machine import keep_freed_memory

STEPS = 15


def main(*words: str) -> int:
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    image, target = torch.rand(4, 1, 64, 64), (torch.rand(4, 1, 64, 64) < 0.1).float()
    plain: nn.Module = UNet(channels=(8, 16, 32))
    if words == ("--swin",):
        plain = SwinUNet(embed_dim=24, depths=(2, 2), num_heads=(2, 4))
    compiled = torch.compile(plain)
    start = time.perf_counter()
    step(compiled, image, target)
    print(f"{type(plain).__name__}: first compiled step {time.perf_counter() - start:.0f} s")
    seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
    for _ in range(STEPS):
        for name, network in (("plain", plain), ("compiled", compiled)):
            before = time.process_time()
            step(network, image, target)
            seconds[name].append(time.process_time() - before)
    best = {name: min(times) for name, times in seconds.items()}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"speed compiled / plain: best {best['plain'] / best['compiled']:.2f}, "
          f"median {middle['plain'] / middle['compiled']:.2f}")  # fmt: skip
    return 0


def step(network: nn.Module, image: Tensor, target: Tensor) -> None:
    """Forward and backward; no optimizer, which is not compiled."""
    network.zero_grad()
    dice_bce_loss(network(image), target).backward()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
