"""Check of early stopping, against a loop over the values of all epochs so far."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import build, call
from lungseg.checks.judging import close, find_slip, first_difference
from lungseg.checks.lessons import Lesson, Wrong

STOPPING = Lesson(
    "EarlyStopping",
    'EarlyStopping(patience, mode, min_delta=0.0, min_epochs=0), mode "max" or "min"; update(value) -> whether it is '
    "the best so far; attributes best, best_epoch (from 1), stop",
    "an epoch is the best if it improves on the best before by more than min_delta; stop is True at the end of the "
    "`patience`-th epoch in a row without a new best, but never before min_epochs. NaN is never the best.",
    "docs/training.md",
    {
        "one epoch late": "training stops one epoch late: stop when `patience` epochs have passed, not one more.",
        "one epoch early": "training stops one epoch early: the best epoch itself does not count as waiting.",
        "mode exchanged": '"max" and "min" are exchanged: with "max", larger is better.',
        "mode ignored": 'larger is always better, or smaller always: use the argument `mode`; a loss needs "min".',
        "counter not reset": "the counter of epochs without improvement is not set back to 0 by a new best.",
        "tie is an improvement": "an equal value counts as a new best: it must be better, so that the earlier epoch "
        "stays.",
        "compared with the epoch before": "the value is compared with that of the epoch before, not with the best so "
        "far.",
        "NaN becomes the best": "NaN becomes the best value: every comparison with NaN is False, so `not worse` is "
        "True.",
        "a best of 0 is none": "a best of 0 is taken for none, as in `if not self.best`: test `is None`.",
        "first NaN stays the best": "a NaN in the first epoch is kept as the best: nothing compares as better than "
        "NaN.",
        "min_delta ignored": "any improvement counts: it must be larger than min_delta.",
        "min_delta relative": "min_delta is taken as a fraction of the best; it is in the units of the value.",
        "min_delta with the wrong sign": "a value that is worse by less than min_delta counts as an improvement.",
        "min_delta reached is enough": "an improvement of exactly min_delta counts: it must be larger.",
        "best moves without improvement": "`best` follows every better value, also by less than min_delta: a slow "
        "rise then never counts as an improvement. Change it only with a new best.",
        "min_epochs ignored": "training may stop before min_epochs.",
        "min_epochs one late": "with min_epochs epochs done, training may stop; yours needs one more.",
        "best forgotten during min_epochs": "the first min_epochs values are not considered: the best may be among "
        "them.",
        "waiting starts after min_epochs": "epochs without improvement are counted only after min_epochs.",
        "never stops": "`stop` never becomes True.",
        "epochs from 0": "the epochs are numbered from 0: best_epoch counts from 1.",
        "best epoch is the last": "best_epoch is the last epoch, not the best one.",
        "best is the last": "best is the last value, not the best one.",
        "always best": "update always returns True.",
    },
)
NAN = math.nan


class Run(NamedTuple):
    """The values of the epochs, and the settings."""

    values: Sequence[float]
    patience: int
    mode: str = "max"
    min_delta: float = 0.0
    min_epochs: int = 0

    def __str__(self) -> str:
        given = [f"min_delta={self.min_delta:g}"] * bool(self.min_delta) + [f"min_epochs={self.min_epochs}"] * bool(
            self.min_epochs
        )
        settings = ", ".join([f"patience={self.patience}", f'mode="{self.mode}"', *given])
        return f"EarlyStopping({settings}), values {', '.join(f'{v:g}' for v in self.values)}"


RUNS = [
    Run([0.5], 2), Run([0.5, 0.6], 2), Run([0.6, 0.5], 2), Run([0.5, 0.4], 2, "min"), Run([0.4, 0.5, 0.6], 2, "min"),
    Run([0.5, 0.4, 0.3], 2), Run([0.5, 0.5, 0.5], 2), Run([0.5, 0.4, 0.45, 0.3], 3),
    Run([0.3, 0.2, 0.5, 0.4, 0.6, 0.5], 3),
    Run([0.5, 0.4], 1), Run([0.5, 0.2, 0.6, 0.4, 0.5], 2), Run([-0.5, -0.75, -1.0], 2), Run([NAN, 0.5, NAN, 0.6], 3),
    Run([0.5, NAN, NAN], 2), Run([NAN, NAN], 2), Run([0.5, 0.4, NAN, 0.3], 2, "min"),
    Run([0.0, 0.0, 0.0], 2), Run([0.0, 0.25, 0.125], 3), Run([0.5, 0.0, 0.25, 0.125], 3, "min"),
    Run([0.5, 0.5625, 0.625, 0.75], 2, "max", 0.125),
    Run([0.5, 0.625, 0.75], 2, "max", 0.125), Run([0.5, 0.4375, 0.25, 0.1875, 0.125], 2, "min", 0.125),
    Run([4.0, 4.25, 4.5, 5.0], 3, "max", 0.125), Run([0.5, 0.45, 0.55, 0.65, 0.6], 3, "max", 0.0625),
    Run([0.9, 0.5, 0.4, 0.3, 0.2], 2, "max", 0.0, 5), Run([0.9, 0.5, 0.4, 0.3], 2, "max", 0.0, 3),
    Run([0.5, 0.9, 0.4, 0.3], 2, "max", 0.0, 4),
    Run([0.9, 0.5, 0.4, 0.3], 3, "max", 0.0, 2),
]  # fmt: skip
COLUMNS = ("is_best", "stop", "best", "best_epoch")


def run_by_loops(case: Run, slip: str = "") -> Tensor:
    """(epochs, 4): what update returns, and stop, best and best_epoch after it; up to the epoch that stops."""
    want = epochs_by_loops(case, "")
    stops = [i for i, row in enumerate(want) if row[1]]
    last = stops[0] + 1 if stops else len(want)
    return torch.tensor(epochs_by_loops(case, slip)[:last], dtype=torch.float64)


def epochs_by_loops(case: Run, slip: str) -> list[list[float]]:
    sign = {"mode exchanged": {"max": -1, "min": 1}, "mode ignored": {"max": 1, "min": 1}}.get(
        slip, {"max": 1, "min": -1}
    )[case.mode]
    best, reference, best_epoch, waited = NAN, NAN, 0, 0
    rows: list[list[float]] = []
    for epoch, value in enumerate(case.values, 1):
        before = slip == "compared with the epoch before"
        nothing = best_epoch == 0 or (slip == "a best of 0 is none" and best == 0)
        is_best = improves(case, value, reference, sign, slip, first=epoch == 1 if before else nothing)
        if slip == "best forgotten during min_epochs" and epoch <= case.min_epochs:
            is_best = False
        waited = 0 if is_best else waited + (slip != "waiting starts after min_epochs" or epoch > case.min_epochs)
        if slip == "counter not reset":
            waited = sum(not row[0] for row in rows) + (not is_best)
        if is_best:
            best, best_epoch = value, epoch
        moves = slip == "best moves without improvement" and sign * (value - best) > 0
        best = value if moves or before else best
        reference = best
        patience = case.patience + (slip == "one epoch late") - (slip == "one epoch early")
        least = (
            0
            if slip == "min_epochs ignored"
            else case.min_epochs + (slip == "min_epochs one late" and case.min_epochs > 0)
        )
        stop = waited >= patience and epoch >= least and slip != "never stops"
        number = best_epoch - 1 if best_epoch == 0 or slip == "epochs from 0" else best_epoch
        rows.append([
            float(is_best or slip == "always best"), float(stop), value if slip == "best is the last" else best,
            epoch if slip == "best epoch is the last" else number,
        ])  # fmt: skip
    return rows


def improves(case: Run, value: float, best: float, sign: int, slip: str, first: bool) -> bool:
    """Whether a value is better than the best so far."""
    if math.isnan(value):
        return slip == "NaN becomes the best" or (first and slip == "first NaN stays the best")
    if first:
        return True
    if slip == "min_delta relative":
        return sign * (value - best) > case.min_delta * abs(best)
    gain = sign * (value - best)
    least = {"min_delta ignored": 0.0, "min_delta with the wrong sign": -case.min_delta}.get(slip, case.min_delta)
    if slip == "tie is an improvement" or (slip == "min_delta reached is enough" and case.min_delta):
        return gain >= least
    return gain > least


def check_early_stopping(cls: Callable[..., Any]) -> None:
    """Fail unless `EarlyStopping(patience, mode, ...)` finds the best epoch, and stops on time.

    After each `update(value)` its result, `stop`, `best` and `best_epoch` are compared with a loop over all values so
    far, up to the epoch that stops. Before there is a best, `best` and `best_epoch` may be anything.
    """

    def student(case: Run, whole: bool = False) -> Tensor:
        extra = {k: v for k, v in (("min_delta", case.min_delta), ("min_epochs", case.min_epochs)) if v}
        stopping = build(STOPPING, cls, case.patience, case.mode, **extra)
        rows = []
        expecteds = epochs_by_loops(case, "") if whole else run_by_loops(case).tolist()
        for expected, value in zip(expecteds, case.values, strict=False):
            is_best = call(STOPPING, stopping.update, value)
            rows.append([float(bool(is_best)), *(attribute(stopping, name, expected) for name in COLUMNS[1:])])
        return torch.tensor(rows, dtype=torch.float64)

    def describe(case: Run, got: Tensor, want: Tensor) -> str:
        i, k = first_difference(got, want)
        said = (
            f"update({case.values[i]:g}) returned" if k == 0 else f"after update({case.values[i]:g}), {COLUMNS[k]} is"
        )
        kind = bool if k < 2 else float
        wanted = int(want[i, k]) if k == 3 else kind(want[i, k])
        return f"{case}: in epoch {i + 1}, {said} {kind(got[i, k])}, expected {wanted}."

    def numbers(case: Run, got: Tensor, want: Tensor) -> str:
        lines = ["epoch  value   expected: best so far, stop   yours"]
        for i, value in enumerate(case.values[: len(want)]):
            both = [f"{bool(m[i, 0])!s:5} {bool(m[i, 1])!s:5}" for m in (want, got)]
            lines.append(f"{i + 1:5}  {value:<7g} {both[0]:27} {both[1]}")
        return "\n".join(lines)

    def oracle(case: Run, slip: str) -> Tensor | None:
        two_ways = slip == "one epoch early" and math.isnan(
            case.values[0]
        )  # whether the wait starts before a first best
        return None if two_ways else run_by_loops(case, slip)

    for case in RUNS:
        want = run_by_loops(case)
        if not close(got := student(case), want):
            slip = find_slip(STOPPING, student, RUNS, oracle, len(RUNS))
            if slip == "one epoch late" and not student(Run([0.5] * 9, 2), whole=True)[:, 1].any():
                slip = "never stops"
            raise Wrong(STOPPING, describe(case, got, want), numbers=numbers(case, got, want), slip=slip)


def attribute(stopping: Any, name: str, expected: Sequence[float]) -> float:
    """An attribute as a number; before there is a best epoch, whatever is expected."""
    if not hasattr(stopping, name):
        raise Wrong(STOPPING, f"after update there is no attribute {name!r}.")
    value = getattr(stopping, name)
    if name != "stop" and expected[3] < 0 and (value is None or math.isinf(value) or value in (0, -1)):
        return expected[COLUMNS.index(name)]
    try:
        return (-1.0 if name == "best_epoch" else math.nan) if value is None else float(value)
    except (TypeError, ValueError):
        raise Wrong(STOPPING, f"after update, {name} is a {type(value).__name__}, expected a number.") from None
