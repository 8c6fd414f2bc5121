"""Times of repeated calls: the median and the spread, of one function or of several that take turns.

Two functions that are to be compared take turns call by call. A machine that becomes slower for a while then slows
both, and the ratio of two neighbouring calls changes little.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

Work = Callable[[], object]
LEAST = 3  # calls, however long they take: fewer have no spread


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity, in the order in which they were taken."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def low(self) -> float:
        """The 10th percentile."""
        return float(np.percentile(self.values, 10))

    @property
    def high(self) -> float:
        """The 90th percentile."""
        return float(np.percentile(self.values, 90))

    def over(self, other: "Spread") -> "Spread":
        """The ratio of each value to that of the other in the same round."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))


@dataclass(frozen=True)
class Timer:
    """How calls are repeated and timed.

    Attributes:
        device: where the calls compute. On a CUDA GPU, events in its queue are timed, not the calls that fill the
            queue.
        repeats: largest number of timed calls of a function.
        seconds: after this time no further round begins, once there were `LEAST`.
        clock: of a CPU: "wall", or "cpu" for the processor time of all threads of this process, which other processes
            change less.
    """

    device: torch.device
    repeats: int = 20
    seconds: float = 4.0
    clock: Literal["wall", "cpu"] = "wall"

    def once(self, work: Work) -> float:
        """Call `work`; return the seconds it took."""
        if self.device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000
        now = time.process_time if self.clock == "cpu" else time.perf_counter
        began = now()
        work()
        return now() - began

    def alternate(self, works: Mapping[str, Work]) -> dict[str, Spread]:
        """Time several functions in rounds: each is called once in a round, in the other order in every second round.

        Nothing is warmed up here: call each function before.

        Returns:
            name -> the seconds of its calls; value i of each is of round i.
        """
        return self.rounds({name: partial(self.once, work) for name, work in works.items()})

    def rounds(self, measures: Mapping[str, Callable[[], float]]) -> dict[str, Spread]:
        """`alternate` for functions that return the seconds of their work themselves, as another process does."""
        seconds: dict[str, list[float]] = {name: [] for name in measures}
        order, began = list(measures), time.perf_counter()
        for number in range(self.repeats):
            if number >= LEAST and time.perf_counter() - began > self.seconds:
                break
            for name in order:
                seconds[name].append(measures[name]())
            order.reverse()
        return {name: Spread(tuple(values)) for name, values in seconds.items()}

    def measure(self, work: Work) -> Spread:
        """The seconds of repeated calls of one function, which was called before."""
        return self.alternate({"": work})[""]
