"""Repeated calls: who is called when, how often, and what the numbers say."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.benchmark.timing import LEAST, Spread, Timer

CPU = torch.device("cpu")
SECONDS = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=20)


@given(st.integers(1, 8), st.integers(1, 4))
def test_functions_take_turns_and_every_second_round_is_reversed(repeats, number):
    calls = []
    works = {f"work {i}": lambda i=i: calls.append(i) for i in range(number)}
    times = Timer(CPU, repeats, seconds=60).alternate(works)
    rounds = np.reshape(calls, (repeats, number)).tolist()
    forward = list(range(number))
    assert rounds == [forward if r % 2 == 0 else forward[::-1] for r in range(repeats)]
    assert list(times) == list(works) and all(len(t.values) == repeats for t in times.values())


def test_no_round_begins_when_the_time_is_over_but_a_few_are_made():
    calls = []
    Timer(CPU, repeats=50, seconds=1e-9).measure(lambda: calls.append(0))
    assert len(calls) == LEAST
    calls.clear()
    Timer(CPU, repeats=2, seconds=1e-9).measure(lambda: calls.append(0))
    assert len(calls) == 2


@given(SECONDS)
def test_a_spread_lies_in_the_order_of_its_percentiles(values):
    spread = Spread(tuple(values))
    assert min(values) <= spread.low <= spread.median <= spread.high <= max(values)


def test_the_percentiles_of_eleven_values():
    spread = Spread(tuple(float(v) for v in (10, 0, 9, 1, 8, 2, 7, 3, 6, 4, 5)))
    assert (spread.low, spread.median, spread.high) == (1, 5, 9)


@given(SECONDS, st.floats(0.1, 10))
def test_a_machine_that_slows_both_down_does_not_change_their_ratio(values, factor):
    theirs = Spread(tuple(factor * v for v in values))
    assert theirs.over(Spread(tuple(values))).values == pytest.approx([factor] * len(values))


def test_ratios_are_of_calls_in_the_same_round():
    assert Spread((2.0, 9.0)).over(Spread((1.0, 3.0))).values == (2.0, 3.0)
    with pytest.raises(ValueError):
        Spread((1.0,)).over(Spread((1.0, 2.0)))


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_the_clock_that_was_asked_for_is_read_around_the_call(clock, monkeypatch):
    order = []
    ticks = {"wall": iter([100.0, 103.0]), "cpu": iter([5.0, 7.0])}
    for name, function in (("wall", "perf_counter"), ("cpu", "process_time")):
        monkeypatch.setattr(f"time.{function}", lambda name=name: order.append(name) or next(ticks[name]))
    seconds = Timer(CPU, clock=clock).once(lambda: order.append("work"))
    assert (seconds, order) == ({"wall": 3.0, "cpu": 2.0}[clock], [clock, "work", clock])


@pytest.mark.gpu
def test_events_time_what_the_gpu_does():
    device = torch.device("cuda")
    a = torch.rand(4096, 4096, device=device)
    timer = Timer(device)
    timer.once(lambda: a @ a)
    one, ten = timer.once(lambda: a @ a), timer.once(lambda: [a @ a for _ in range(10)])
    assert ten > 3 * one > 0  # the calls themselves return at once
