"""The rows of the benchmark: which works there are for a network, for whole slices and scans, and outside networks."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lungseg.benchmark.costs import count_costs
from lungseg.benchmark.limits import Limits, copy_rate
from lungseg.benchmark.memory import PeakMemory
from lungseg.benchmark.rows import Row, table_line
from lungseg.benchmark.timing import Timer, Work
from lungseg.benchmark.works import (
    augmentation_work,
    checkpoint_work,
    forward_work,
    loader_work,
    phantom_hu,
    random_image,
    random_pair,
    scan_work,
    slice_work,
    train_work,
    untrained_predictor,
)
from lungseg.exits import in_one_line, lacks_memory

SIDE = 512  # of a whole slice
WHOLE = ("unet", "swin")  # the networks that are applied to whole slices and scans


@dataclass(frozen=True)
class Case:
    """A network, and what it is given: forward passes with each of the `batches`, training steps with `train`.

    Attributes:
        spatial: sides of its images.
        channels: of its images.
    """

    network: type[nn.Module]
    arguments: dict[str, Any]
    spatial: tuple[int, ...]
    channels: int = 1
    batches: tuple[int, ...] = (1, 8)
    train: int = 4


@dataclass
class Bench:
    """What all rows share, and the lines that were printed.

    Attributes:
        timer: device, repeats and clock.
        wanted: a row is measured if its name contains one of these texts; () are all.
        limits: of the machine, by number type.
    """

    timer: Timer
    wanted: tuple[str, ...] = ()
    limits: dict[torch.dtype, Limits] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.timer.device

    def wants(self, name: str) -> bool:
        return not self.wanted or any(text in name for text in self.wanted)

    def print(self, text: str) -> None:
        print(text, flush=True)
        self.lines.append(text)

    @contextmanager
    def row(self, name: str) -> Iterator[None]:
        """A row that lacks memory says so, and the others follow."""
        try:
            yield
        except Exception as error:
            if not lacks_memory(error):
                raise
            self.print(table_line((name, "too little memory", *[""] * 7)))


# ---- networks ---------------------------------------------------------------------------------------------------


def network_rows(bench: Bench, name: str, case: Case, precisions: Mapping[str, torch.dtype], *, compiled: bool) -> None:
    """Forward passes and a training step in each number type; with `compiled`, also of the compiled network."""
    for precision, dtype in precisions.items():
        suffix = "" if dtype == torch.float32 else f", {precision}"
        kinds = [(f"{name} forward b{batch}{suffix}", forward_work, batch) for batch in case.batches]
        kinds += [(f"{name} train b{case.train}{suffix}", train_work, case.train)]
        kinds = [kind for kind in kinds if bench.wants(kind[0])]
        memory = PeakMemory(bench.device) if kinds else None
        for row, make, batch in kinds:
            assert memory is not None
            with bench.row(row):
                torch.manual_seed(0)
                model = case.network(**case.arguments).to(bench.device).train(make is train_work)
                image = random_image((batch, case.channels, *case.spatial), bench.device)
                works = {row: make(model, image, dtype)}
                if compiled:
                    twin = deepcopy(model)
                    twin.compile()
                    works[f"{row}, compiled"] = compile_now(make(twin, image, dtype))
                torch_rows(bench, works, batch, bench.limits[dtype], memory)


def compile_now(work: Work) -> Work:
    """Call a work once, which compiles its network; a ValueError if that fails."""
    try:
        work()
    except Exception as error:
        if lacks_memory(error):
            raise
        raise ValueError(f"--compile: torch could not compile the network ({in_one_line(error)}).") from None
    return work


def torch_rows(bench: Bench, works: Mapping[str, Work], items: int, limits: Limits, memory: PeakMemory) -> None:
    """Count, warm up, measure memory, and time works that compute the same in turn; the first is the eager one."""
    costs = count_costs(next(iter(works.values())))
    peaks = {name: memory.of(work) for name, work in works.items()}
    for name, seconds in bench.timer.alternate(works).items():
        bench.print(table_line(Row(name, seconds, items, peaks[name], limits, costs).cells()))


# ---- whole slices and scans -------------------------------------------------------------------------------------


def whole_rows(bench: Bench, cases: Mapping[str, Case], slices: int) -> None:
    """A whole slice of 512 x 512, and a scan of `slices` such slices, by sliding window."""
    for name in WHOLE:
        case = cases[name]
        rows: dict[str, tuple[Callable[..., Work], int]] = {
            f"slice {SIDE} x {SIDE}, {name}": (slice_work, 1),
            f"scan {slices} x {SIDE} x {SIDE}, {name}": (scan_work, slices),
        }
        for row, (make, items) in rows.items():
            if bench.wants(row):
                with bench.row(row):
                    memory, hu = PeakMemory(bench.device), phantom_hu(slices, SIDE)
                    predictor = untrained_predictor(case.network(**case.arguments).to(bench.device), case.spatial)
                    torch_rows(bench, {row: make(predictor, hu)}, items, bench.limits[torch.float32], memory)


# ---- outside the networks ---------------------------------------------------------------------------------------


def other_rows(bench: Bench, case: Case, *, side: int = 256, num_workers: int = 0) -> None:
    """Augmentation, loader and checkpoint, on the CPU.

    Args:
        case: whose network is saved.
        side: of the slices.
        num_workers: processes that read them.
    """
    timer = replace(bench.timer, device=torch.device("cpu"))
    rows = (f"augmentation {side} x {side}", f"loader {side} x {side}", "checkpoint save")

    def measure(row: str, work: Work, items: int, moved: int = 0) -> None:
        peak = PeakMemory(timer.device).of(work)  # also warms up
        limits = Limits(math.nan, math.nan, copy_rate(timer) if moved else math.nan)
        bench.print(table_line(Row(row, timer.measure(work), items, peak, limits, moved=moved).cells()))

    with tempfile.TemporaryDirectory() as home:
        if bench.wants(rows[0]):
            measure(rows[0], augmentation_work(*random_pair(side)), 1)
        if bench.wants(rows[1]):
            measure(rows[1], *loader_work(Path(home) / "slices", side=side, num_workers=num_workers))
        if bench.wants(rows[2]):
            work, size = checkpoint_work(Path(home), case.network(**case.arguments))
            measure(rows[2], work, 1, 2 * size)  # read and written
