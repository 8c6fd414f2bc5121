"""Time and memory of predicting a whole scan: one sliding window per call, in batches, and without what is outside.

    python docs/benchmarks/scans.py                                  a few slices of it, minutes
    python docs/benchmarks/scans.py --slices 300                     what docs/scans_pipeline.md shows

The scan is a phantom chest of 512 x 512 pixels of 0.7 mm and 300 mm length, however many slices it is cut into. The
networks have the sizes of examples/compare.py, with random weights. Each row is a process of its own on one thread:
its CPU time, without starting, and its peak memory.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from lungseg.checkpoint import InputSpec
from lungseg.data.phantoms.scene import phantom_volume
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.predictor import Predictor
from lungseg.scan_prediction import predict_in_parts
from lungseg.training.machine import keep_freed_memory

NETWORKS = {  # as in examples/compare.py
    "U-Net": (UNet, {"channels": (16, 32, 64, 128, 256)}),
    "Swin-UNet": (
        SwinUNet,
        {"patch_size": 4, "embed_dim": 48, "depths": (2, 2, 2), "num_heads": (3, 6, 12), "window_size": 8},
    ),
}
ROWS = [(1, "all"), (8, "all"), (8, "body"), (8, "lungs")]  # windows per call, where lesions are searched
MM = 300.0  # length of the chest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--window", type=int, nargs="+", default=[64])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    args = parser.parse_args()
    spacing_mm = (MM / args.slices, 0.7, 0.7)
    hu, _ = phantom_volume(
        np.random.default_rng(0), shape=(args.slices, 512, 512), spacing_mm=spacing_mm, num_nodules=2
    )
    print("| network | sliding window | per call | searched | computed | CPU s per slice | times as fast | peak |")
    print("|---|---|---|---|---|---|---|---|")
    for name in args.networks:
        for window in args.window:
            first = None
            for batch_size, search in ROWS:
                words = name, window, batch_size, search, hu, spacing_mm
                fresh = multiprocessing.get_context("spawn")  # a new process: its peak is its own
                with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                    seconds, computed, every, peak = pool.submit(predict, *words).result()
                first = first or seconds
                print(
                    f"| {name} | {window} | {batch_size} | {search} | {computed / every:.0%} of {every} | "
                    f"{seconds / args.slices:.2f} | {first / seconds:.2f} | {peak:,.0f} MiB |",
                    flush=True,
                )
    return 0


def predict(
    name: str, window: int, batch_size: int, search: str, hu: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[float, int, int, float]:
    """CPU seconds, windows computed, all windows, and the peak memory of the process in MiB."""
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(0)
    build, arguments = NETWORKS[name]
    about = InputSpec((window, window), (1.0, 1.0), (-1000.0, 400.0), None)
    predictor = Predictor(build(**arguments).eval(), about, batch_size=batch_size, search=search)
    predictor.probs(predictor.grey(hu[0, :window, :window]))  # the first call is slower
    before = predictor.count.computed
    start = time.process_time()
    where = predictor.search_mask(hu, spacing_mm)
    predict_in_parts(predictor, hu, None, 0.5, where=where)
    seconds = time.process_time() - start
    computed = predictor.count.computed - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return seconds, computed, computed + predictor.count.skipped, peak


if __name__ == "__main__":
    raise SystemExit(main())
