"""Check that a module learns: the gradients of its parameters and of its input, against small steps."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from lungseg.checks.calling import call
from lungseg.checks.judging import random
from lungseg.checks.lessons import Lesson, Wrong

CUT_OFF = {
    "gradient cut off": "the result is right, but a part of it is cut off from the gradient, by detach(), .data, "
    ".item(), numpy or no_grad: it would never learn.",
}


def check_gradients(lesson: Lesson, module: nn.Module, x: Tensor, *others: Any) -> None:
    """Fail unless backward gives the slope of the result along a random direction of each parameter and of x.

    In float64. Of a module that is bound to float32, where a slope is not known well, only a missing gradient is told.
    """
    try:
        double = deepcopy(module).double(), x.double()
        call(lesson, *double, *others)
    except Exception:
        compare_slopes(lesson, module, x, others, step=3e-3, exact=False)
    else:
        compare_slopes(lesson, *double, others, step=1e-4, exact=True)


def compare_slopes(lesson: Lesson, module: nn.Module, x: Tensor, others: Any, *, step: float, exact: bool) -> None:
    """Fail where there is a slope but no gradient or, if `exact`, another gradient."""
    x = x.clone().requires_grad_()

    def total() -> Tensor:
        result = call(lesson, module, x, *others)
        y = result[0] if isinstance(result, (tuple, list)) else result
        return y * random(y.shape, 30)

    module.zero_grad()
    terms = total()
    if not terms.requires_grad:
        raise Wrong(lesson, "the result has no gradient, so nothing is learnt.", slip="gradient cut off")
    terms.sum().backward()
    rounding = 1e-3 * float(terms.detach().abs().sum())
    for name, p in [("the input", x), *module.named_parameters()]:
        if not p.requires_grad:
            continue
        direction = random(p.shape, 31)
        given = 0.0 if p.grad is None else float((p.grad * direction).sum())
        wanted = slope(total, p, direction, step)
        none = p.grad is None or not p.grad.any()
        if (exact or none) and abs(given - wanted) > 0.05 * abs(wanted) + rounding:
            part = "no gradient" if none else "only a part of its gradient"
            raise Wrong(
                lesson,
                f"{part} reaches {name}. Along a random direction the slope of the result is {wanted:.3g}; "
                f"backward() gives {given:.3g}.",
                slip="gradient cut off",
            )


def slope(total: Callable[[], Tensor], p: Tensor, direction: Tensor, step: float) -> float:
    """The derivative along a direction, from a step forwards and one backwards."""
    with torch.no_grad():
        p.add_(step * direction)
        ahead = total().double().sum()
        p.sub_(2 * step * direction)
        behind = total().double().sum()
        p.add_(step * direction)
    return float(ahead - behind) / (2 * step)
