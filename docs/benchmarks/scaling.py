"""How work, time and memory of a network grow with the side of an image and with the batch.

    python docs/benchmarks/scaling.py              both tables of docs/scaling.md, minutes
    python docs/benchmarks/scaling.py --sides 64 128 256 --csv scaling.csv

Small networks, one forward pass on one thread. FLOPs are counted (a multiplication and an addition are two), so they
are the same on any machine. Times are the best of some repetitions, in CPU time, so that a busy machine disturbs them
less. Memory is what a process that does nothing else needs beyond what it began with.
"""

import argparse
import csv
import multiprocessing
import resource
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unetr import UNETR

SIDES = [64, 112, 128, 224, 256, 448, 512, 896, 1024]
BATCHES = [1, 2, 4, 8, 16]
BATCH_SIDE = 128  # of the images in the table of batches
SWIN = {"embed_dim": 24, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}  # patches of 4 x 4 pixels
NETWORKS = {
    "Swin 7": lambda side: SwinUNet(**SWIN, window_size=7),
    "Swin 8": lambda side: SwinUNet(**SWIN, window_size=8),
    "UNETR": lambda side: UNETR(
        img_size=side, patch_size=16, embed_dim=96, depth=4, num_heads=3, feature_size=4, skip_layers=(1, 2, 3)
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", help="also write all rows to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = table("side", [(side, side, 1) for side in args.sides], args.repeats)
    print()
    rows += table("batch", [(batch, BATCH_SIDE, batch) for batch in args.batches], args.repeats)
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("network", "side", "batch", "flops", "cpu_seconds", "mib"), *rows])
    return 0


def table(axis: str, cases: list[tuple[int, int, int]], repeats: int) -> list[tuple]:
    """Print a row for each case (first column, side, batch); per pixel kFLOP and ns, in all MiB, of each network."""
    columns = [f"{name}: {what}" for name in NETWORKS for what in ("kFLOP per pixel", "ns per pixel", "MiB")]
    print(f"| {axis} | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    rows = []
    for first, side, batch in cases:
        cells, pixels = [], batch * side * side
        for name in NETWORKS:
            with multiprocessing.get_context("fork").Pool(1) as pool:  # its peak of memory is its own
                flops, seconds, mib = pool.apply(measure, (name, side, batch, repeats))
            rows.append((name, side, batch, flops, seconds, mib))
            cells += [f"{flops / pixels / 1e3:.1f}", f"{seconds / pixels * 1e9:.0f}", f"{mib:.0f}"]
        print(f"| {first} | {' | '.join(cells)} |", flush=True)
    return rows


@torch.inference_mode()
def measure(name: str, side: int, batch: int, repeats: int) -> tuple[int, float, float]:
    """FLOPs, CPU seconds and MiB of one forward pass."""
    torch.manual_seed(0)
    network: nn.Module = NETWORKS[name](side).eval()
    image = torch.rand(batch, 1, side, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    network(image)
    mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024  # KiB on Linux
    times = []
    for _ in range(repeats):
        start = time.process_time()
        network(image)
        times.append(time.process_time() - start)
    return count_flops(name, side, batch), min(times), mib


def count_flops(name: str, side: int, batch: int) -> int:
    """FLOPs of the matrix products and convolutions of one forward pass, which is not carried out."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        NETWORKS[name](side).eval()(torch.empty(batch, 1, side, side))
    return counter.get_total_flops()


if __name__ == "__main__":
    raise SystemExit(main())
