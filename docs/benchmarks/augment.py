"""How long does one augmentation of a 256 x 256 pair take, against a bare bilinear scipy warp of it?

python docs/benchmarks/augment.py [calls]

The two are timed alternately, call by call, on one thread; the ratio is the median over neighbouring calls. It is
printed twice: in a fresh process, where the C library gives the memory of each call back to the system and every
page must be fetched again, and after one larger array was freed, as happens in any training process: from then
on glibc keeps that much.
"""

import os
import statistics
import sys
from collections.abc import Callable
from time import perf_counter

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported

import numpy as np
from scipy.ndimage import map_coordinates

from lungseg.data.augment import Augmentation
from lungseg.data.elastic import elastic_displacement


def milliseconds(function: Callable[[], object]) -> float:
    start = perf_counter()
    function()
    return 1000 * (perf_counter() - start)


def main(calls: int = 300) -> None:
    rng = np.random.default_rng(0)
    image = rng.random((256, 256), dtype=np.float32)
    target = (image > 0.9).astype(np.uint8)
    field = np.indices(image.shape) + elastic_displacement(image.shape, alpha=3, sigma=24, rng=rng)
    field = field.astype(np.float32)  # as ours; float64 takes scipy about the same time
    everything = Augmentation(elastic_probability=1)  # by default every second picture is bent

    def bare():
        return map_coordinates(image, field, order=1), map_coordinates(target, field, order=1)

    def ours():
        return everything(image, target, rng)

    bare(), ours()  # once unmeasured: caches
    for memory in ("fresh process", "larger array freed"):
        times = [(milliseconds(bare), milliseconds(ours)) for _ in range(calls)]
        bare_ms, ours_ms = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(b / a for a, b in times)
        print(f"{memory}: bare warp of the pair {bare_ms:.2f} ms, ours {ours_ms:.2f} ms, ratio {ratio:.2f}")
        np.ones(2**23, np.uint8)  # 8 MiB, freed at once


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
