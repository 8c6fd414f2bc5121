"""Checks of the conversion of Hounsfield units (HU) to [0, 1] and to grey levels, value by value."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, row
from lungseg.checks.lessons import Lesson, Wrong

PAGE = "docs/data/ct.md"
LUNG = (-1000, 400)
COMMON = {
    "min-max of the image": "each image is stretched from its own minimum to its own maximum: the same tissue then "
    "gets another value in every image. Use the limits of the HU window.",
    "centre and width": "the HU window is read as (centre, width); here it is (low, high).",
    "window ignored": "the window is always -1000 to 400: use the argument hu_window.",
    "inverted": "low and high are exchanged: air must become black.",
    "offset forgotten": "`low` is not subtracted before dividing by the width of the window.",
    "divided by high": "divided by `high` instead of the width of the window, high - low.",
    "wraps in int16": "the product is computed in int16, which ends at 32767, and wraps around: convert to float "
    "first.",
}
UNIT = Lesson(
    "hu_to_unit",
    "hu_to_unit(hu, hu_window=(-1000, 400)) -> float, same shape, in [0, 1]",
    "(hu - low) / (high - low), clipped to [0, 1], with (low, high) = hu_window: HU are a physical scale, so one "
    "window for all images keeps the meaning of a value.",
    PAGE,
    {
        "not clipped": "values outside the window leave [0, 1]: clip.",
        "clipped below only": "values above the window exceed 1: clip at both ends.",
        "clipped above only": "values below the window become negative: clip at both ends.",
        **COMMON,
        "-1 to 1": "the result is from -1 to 1; expected 0 to 1.",
        "grey levels": "the result is from 0 to 255; expected 0 to 1.",
        "integers": "the result holds integers, so everything between 0 and 1 is lost.",
    },
)
GREY = Lesson(
    "hu_to_grey",
    "hu_to_grey(hu, hu_window=(-1000, 400), bits=8) -> uint8 (bits=16: uint16), same shape",
    "(hu - low) / (high - low) * (2**bits - 1), clipped to 0 .. 2**bits - 1 and rounded to the nearest level, before "
    "the cast to integers.",
    PAGE,
    {
        "clipped after the cast": "values outside the window wrap around in uint8 (256 becomes 0): clip before the "
        "cast.",
        "truncated": "the cast cuts off the decimals: round first.",
        "times 256": "multiplied by 2**bits instead of 2**bits - 1.",
        "256 bins": "the window is cut into 2**bits bins; expected the nearest of 2**bits levels.",
        "bits ignored": "the levels always end at 255: use the argument `bits`.",
        **COMMON,
        "unit": "the result is from 0 to 1; expected grey levels.",
        "hu cast first": "the HU are rounded to integers first.",
    },
)


class Values(NamedTuple):
    """HU in rows, the window, the bits of the grey, and the type of the array."""

    hu: Sequence[Sequence[float]]
    window: tuple[int, int] = LUNG
    bits: int = 8
    dtype: str = "float32"

    def __str__(self) -> str:
        kind = f" as {self.dtype}" if self.dtype != "float32" else ""
        return f"HU {row([x for r in self.hu for x in r], 6)}{kind}, hu_window {self.window}"

    def array(self, kind: str) -> Any:
        made = np.array(self.hu, dtype=self.dtype)
        return torch.from_numpy(made) if kind == "tensor" else made


LUNGS, SOFT = [[-1000.0, 400.0], [-300.0, 50.0]], [[-160.0, 240.0, 45.0, 30.0]]
CASES = [
    Values([[-1000.0, 400.0]]), Values([[0.0, 200.0]]), Values(LUNGS), Values([[-865.0, -717.0, 111.0]]),
    Values([[-2000.0, 0.0]]), Values([[1000.0, -500.0]]), Values([[-3024.0, 3071.0, 500.0], [-700.0, -1050.0, 600.0]]),
    Values(SOFT, (-160, 240)), Values([[-900.0, -100.0, 300.0]], (-160, 240)),
    Values([[-600.0, 25.0, 3000.0]], dtype="int16"),
]  # fmt: skip
OF_GREY = [*CASES, Values([[-1000.0, 400.0, 111.0]], bits=16), Values([[-1000.6, -0.6, 30.4]])]


def wrap(value: float, bits: int = 16) -> int:
    """An integer as int16 stores it."""
    return (int(value) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


def unit_of(x: float, case: Values, slip: str = "") -> float | None:
    """The position of one value in the window, before clipping."""
    low, high = map(float, LUNG if slip == "window ignored" else case.window)
    if slip == "min-max of the image":
        values = [v for r in case.hu for v in r]
        low, high = min(values), max(values)
    if slip == "centre and width":
        low, high = low - high / 2, low + high / 2
    if low == high:
        return None
    return {
        "inverted": (high - x) / (high - low),
        "offset forgotten": x / (high - low),
        "divided by high": (x - low) / high if high else None,
    }.get(slip, (x - low) / (high - low))


def units_by_loops(case: Values, slip: str = "") -> Tensor | None:
    """Each HU value on the scale from 0 to 1, one after the other."""
    values = []
    for x in (v for r in case.hu for v in r):
        u = unit_of(x, case, slip)
        if u is None or (slip == "wraps in int16" and case.dtype != "int16"):
            return None
        low = -math.inf if slip in ("not clipped", "clipped above only") else 0.0
        high = math.inf if slip in ("not clipped", "clipped below only") else 1.0
        u = min(max(u, low), high)
        values.append({"-1 to 1": 2 * u - 1, "grey levels": 255 * u}.get(slip, u))
    return torch.tensor(values, dtype=torch.float64).reshape(len(case.hu), -1)


def greys_by_loops(case: Values, slip: str = "") -> Tensor | None:
    """Each HU value as a grey level, one after the other."""
    levels = 255 if slip == "bits ignored" else 2**case.bits - 1
    values = []
    for x in (v for r in case.hu for v in r):
        x = float(int(x)) if slip == "hu cast first" else x
        u = unit_of(x, case, slip)
        if u is None:
            return None
        grey = u * (levels + 1 if slip in ("times 256", "256 bins") else levels)
        if slip == "unit":
            grey = min(u, 1)
        if slip == "wraps in int16" and case.dtype == "int16":
            low, high = case.window
            grey = wrap((min(max(x, low), high) - low) * levels) / (high - low)
        if slip == "clipped after the cast":
            values.append(round(grey) % (levels + 1))
            continue
        grey = min(max(grey, 0), levels + 1 if slip == "times 256" else levels)
        grey = int(grey) if slip in ("truncated", "256 bins") else round(grey)
        values.append(grey % (levels + 1) if slip in ("times 256", "wraps in int16") else grey)
    return torch.tensor(values, dtype=torch.float64).reshape(len(case.hu), -1)


def kind_taken(lesson: Lesson, function: Callable) -> str:
    """Whether the function computes with arrays or only with tensors; or Wrong with the error it raises for arrays."""
    errors = []
    for kind in ("array", "tensor"):
        try:
            call(lesson, function, CASES[0].array(kind), LUNG)
            return kind
        except Wrong as error:
            errors.append(error)
    raise errors[0]


def describe(case: Values, got: Tensor, want: Tensor) -> str:
    i, j = first_difference(got, want, 1e-6)
    return f"{case}: {case.hu[i][j]:g} HU became {got[i, j].item():.6g}, expected {want[i, j].item():.6g}."


def numbers(case: Values, got: Tensor, want: Tensor) -> str:
    i, j = first_difference(got, want, 1e-6)
    low, high = case.window
    unit = f"({case.hu[i][j]:g} - {low}) / ({high} - {low}) = {(case.hu[i][j] - low) / (high - low):.6g}"
    return f"{unit}\nexpected {row(want, 6)}\nyours    {row(got, 6)}"


def check_hu_to_unit(hu_to_unit: Callable) -> None:
    """Fail unless `hu_to_unit(hu, hu_window)` maps the window linearly to [0, 1] and clips, in every image alike.

    Args:
        hu_to_unit: (hu (H, W) array or tensor, float32 or int16, (low, high)) -> the same shape, floats.
    """
    kind = kind_taken(UNIT, hu_to_unit)

    def student(case: Values) -> Tensor:
        given = (
            [case.array(kind)] if case.window == LUNG and case.dtype == "float32" else [case.array(kind), case.window]
        )
        return as_tensor(UNIT, call(UNIT, hu_to_unit, *given))

    if not (some := student(Values(LUNGS))).is_floating_point():
        raise Wrong(UNIT, f"the result is {some.dtype}, expected floats.", numbers="-300 HU must become 0.5",
                    slip="integers")  # fmt: skip
    judge(UNIT, student, CASES, units_by_loops, describe, numbers=numbers, tolerance=1e-6)


def check_hu_to_grey(hu_to_grey: Callable) -> None:
    """Fail unless `hu_to_grey(hu, hu_window, bits)` gives the nearest of 2**bits levels, and clips before the cast.

    Args:
        hu_to_grey: (hu (H, W) array or tensor, float32 or int16, (low, high), bits) -> the same shape, uint8 (uint16).
    """
    kind = kind_taken(GREY, hu_to_grey)

    def student(case: Values) -> Tensor:
        bits = {} if case.bits == 8 else {"bits": case.bits}
        return as_tensor(GREY, call(GREY, hu_to_grey, case.array(kind), case.window, **bits))

    judge(GREY, student, OF_GREY, greys_by_loops, describe, numbers=numbers, tolerance=1e-6)
    if (dtype := student(CASES[0]).dtype) != torch.uint8:
        raise Wrong(GREY, f"the result is {dtype}, expected torch.uint8 or numpy.uint8 for 8 bits.")
    if (wide := student(OF_GREY[-2])).is_floating_point():
        raise Wrong(GREY, f"the result is {wide.dtype}, expected integers for 16 bits.")
