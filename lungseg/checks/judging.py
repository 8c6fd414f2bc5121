"""Comparing what a student's code returns with an oracle, and finding the mistake that explains the difference.

An oracle is a slow computation, written out with loops, that shares no code with ours; on request it also makes one of
the usual mistakes, the "slips". Where a result differs, the slip that reproduces it in every case is named.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lungseg.checks.lessons import Lesson, Wrong

TOLERANCE = 1e-4  # of numbers around 1: float32 rounding stays below 1e-5, and the tanh GELU differs by more
CASES_OF_A_DIAGNOSIS = 12


def judge(
    lesson: Lesson,
    student: Callable[[Any], Any],
    cases: Sequence[Any],
    oracle: Callable[[Any, str], Any],
    describe: Callable[[Any, Tensor, Tensor], str],
    *,
    numbers: Callable[[Any, Tensor, Tensor], str] | None = None,
    title: Callable[[Any], str] = str,
    tolerance: float = TOLERANCE,
) -> None:
    """Fail at the first case in which the student's result is not the oracle's, and look for the slip.

    Args:
        student: case -> the student's result, through `call`.
        cases: smallest first.
        oracle: (case, slip) -> the result; slip "" is the right one, others are keys of `lesson.slips`. None where
            a slip makes no sense for a case.
        describe: (case, got, want) -> what is wrong, in words; both have the right shape.
        numbers: the same -> the numbers around it.
        title: case -> what it is, where the result has a wrong shape.
    """
    for case in cases:
        want = torch.as_tensor(oracle(case, ""))
        got = as_tensor(lesson, student(case))
        if got.shape == want.shape and close(got, want, tolerance):
            continue
        slip = find_slip(lesson, student, [case, *cases], oracle, tolerance=tolerance)
        if got.shape != want.shape:
            shapes = f"{title(case)}: the result has shape {tuple(got.shape)}, expected {tuple(want.shape)}."
            raise Wrong(lesson, shapes, slip=slip)
        raise Wrong(
            lesson,
            describe(case, got, want),
            numbers=numbers(case, got, want) if numbers else "",
            slip=slip,
            picture=("matrix", matrix_of(want), matrix_of(got)),
        )


def find_slip(
    lesson: Lesson,
    student: Callable,
    cases: Sequence[Any],
    oracle: Callable,
    at_most: int = CASES_OF_A_DIAGNOSIS,
    tolerance: float = TOLERANCE,
) -> str:
    """The first slip that gives the student's numbers in every case that can tell; "" if none does."""
    answers = []
    for case in cases[:at_most]:
        try:
            answers.append((case, as_tensor(lesson, student(case)), torch.as_tensor(oracle(case, ""))))
        except Exception:  # the first error is told anyway; a diagnosis uses the cases that give numbers
            continue
    for slip in lesson.slips:
        differs = False
        for case, got, want in answers:
            of_slip = oracle(case, slip)
            if of_slip is None:
                continue
            of_slip = torch.as_tensor(of_slip)
            if not same(got, of_slip, tolerance):
                break
            differs |= not same(of_slip, want, tolerance)
        else:
            if differs:
                return slip
    return ""


def as_tensor(lesson: Lesson, result: Any, like: Tensor | None = None) -> Tensor:
    """What a student returned as a tensor (numpy arrays, numbers and lists of numbers are taken), or Wrong.

    With `like` it must have the dtype of that tensor.
    """
    if like is not None:
        result = as_tensor(lesson, result)
        if result.dtype != like.dtype:
            raise Wrong(lesson, f"the result is {result.dtype}, and x is {like.dtype}: moving tokens must keep it.")
        return result
    if isinstance(result, Tensor):
        return result.detach()
    try:
        return torch.as_tensor(np.asarray(result))
    except (TypeError, ValueError, RuntimeError):
        kind = type(result).__name__
        raise Wrong(lesson, f"the result is a {kind}, expected a tensor: {lesson.signature}") from None


def same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and close(a, b, tolerance)


def close(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> bool:
    return not bool(differs(got, want, tolerance).any())


def differs(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Where two tensors of one shape differ; NaN is equal to NaN."""
    a, b = got.double(), want.double()
    return ~(torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))


def first_difference(got: Tensor, want: Tensor, tolerance: float = TOLERANCE) -> tuple[int, ...]:
    return tuple(differs(got, want, tolerance).nonzero()[0].tolist())


def matrix_of(x: Tensor) -> np.ndarray:
    """The last two axes of a result as a small matrix, for `--draw`."""
    x = x.double()
    while x.ndim > 2:
        x = x[0] if x.shape[0] == 1 or x.ndim > 3 else x.flatten(1)
    return np.atleast_2d(x.numpy())[:32, :32]


# ---- small tools --------------------------------------------------------------------------------------------


def random(shape: Iterable[int], seed: int = 0) -> Tensor:
    """Normal numbers with one decimal, so that an answer can be recomputed by hand."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).mul(10).round().div(10)


def fill(module: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    """Give every parameter random values: untrained ones (biases of 0, norms of 1) would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return module


def row(values: Tensor | Iterable[float], digits: int = 3) -> str:
    """Numbers side by side, for a message: [0.25, -1.5, 0]."""
    values = values.detach().flatten().tolist() if isinstance(values, Tensor) else list(values)
    shown = [f"{v:.{digits}g}" if not isinstance(v, bool) else str(v) for v in values[:16]]
    return "[" + ", ".join(shown) + (", ..." if len(values) > 16 else "") + "]"


def versus(got: Tensor, want: Tensor) -> str:
    """ "[1, 2], expected [1, 3]", with as many digits as it takes to see the difference."""
    digits = next((n for n in range(3, 8) if row(got, n) != row(want, n)), 3)
    return f"{row(got, digits)}, expected {row(want, digits)}"
