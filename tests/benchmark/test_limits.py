"""The rates of a machine: from a timer that says how long each thing takes."""

from itertools import cycle

import pytest
import torch

from lungseg.benchmark.limits import Limits, Sizes, copy_rate, measure_limits
from lungseg.benchmark.timing import Timer

TINY = Sizes(side=4, channels=2, pixels=5, batch=3, copied=1000)


SECONDS = cycle([4.0, 2.0, 3.0])


class Told(Timer):
    """Computes, and says that its three calls of each work took four, two and three seconds."""

    def once(self, work):
        work()
        return next(SECONDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_are_operations_over_the_fastest_time(dtype):
    timer = Told(torch.device("cpu"), repeats=3)
    limits = measure_limits(timer, dtype, sizes=TINY)
    assert limits == Limits(2 * 4**3 / 2, 2 * 9 * 2 * 2 * 3 * 25 / 2, 2 * 1000 / 2)
    assert copy_rate(timer, 500) == 500


def test_limits_are_printed_with_units():
    text = str(Limits(matmul=2.5e12, convolution=99e9, copy=21.84e9))
    assert text == "matmul 2,500 GFLOP/s, convolution 99 GFLOP/s, copy 21.8 GB/s"
