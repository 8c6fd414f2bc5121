"""Checks of the MLP and of stochastic depth."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, fill, first_difference, judge, random, row, versus
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.gradients import CUT_OFF, check_gradients
from lungseg.checks.networks.layers_of import Linear, apply, find_mlp

PAGE = "docs/nn/patches.md"
MLP = Lesson(
    "MLP",
    "MLP(dim, hidden_dim): module(x (..., dim)) -> (..., dim), with Linear(dim, hidden_dim) and Linear(hidden_dim, "
    "dim)",
    "each token passes a linear layer, an exact GELU x Phi(x), and a second linear layer.",
    PAGE,
    {
        "ReLU": "the activation is ReLU; it is GELU.",
        "SiLU": "the activation is SiLU (swish); it is GELU.",
        "tanh": "the activation is tanh; it is GELU.",
        "tanh approximation": "the GELU is its approximation by tanh; the published networks use the exact one, "
        "nn.GELU().",
        "no activation": "there is no activation: two linear layers without one are a single linear layer.",
        "activation at the end": "the activation comes after the second layer; it belongs between the two.",
        "activation twice": "there is an activation after the second layer too.",
        "residual inside": "x is added inside the MLP; the block adds it.",
        **CUT_OFF,
    },
)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": lambda x: x.clamp(min=0),
    "SiLU": lambda x: x / (1 + (-x).exp()),
    "tanh": torch.tanh,
    "tanh approximation": lambda x: x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "no activation": lambda x: x,
    "activation at the end": lambda x: x,
}
SIZES = [((1, 1), 1, 2), ((1, 2), 2, 3), ((2, 3), 2, 8), ((2, 2, 3), 3, 12), ((4,), 2, 5)]  # leading axes, dim, hidden


def gelu(x: Tensor) -> Tensor:
    """x times the probability that a standard normal number is below x."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def mlp_by_formula(layers: tuple[Linear, Linear], x: Tensor, slip: str = "") -> Tensor:
    """The MLP on (..., dim) in float64."""
    y = apply(layers[1], ACTIVATIONS.get(slip, gelu)(apply(layers[0], x)))
    if slip in ("activation at the end", "activation twice"):
        return gelu(y)
    return x + y if slip == "residual inside" else y


def check_mlp(build_: Callable[[int, int], nn.Module]) -> None:
    """Fail unless a two-layer perceptron with GELU is applied to each token. ViT, equation 3.

    Args:
        build_: (dim, hidden_dim) -> a module (..., dim) -> (..., dim).
    """

    @cache
    def module(case: tuple) -> nn.Module:
        return fill(build(MLP, build_, *case[1:]), scale=1.0).eval()

    def oracle(case: tuple, slip: str) -> Tensor:
        return mlp_by_formula(find_mlp(MLP, module(case), *case[1:]), random((*case[0], case[1])).double(), slip)

    def student(case: tuple) -> Tensor:
        with torch.no_grad():
            return as_tensor(MLP, call(MLP, module(case), random((*case[0], case[1]))))

    def describe(case: tuple, got: Tensor, want: Tensor) -> str:
        where = first_difference(got, want)[:-1]
        x = random((*case[0], case[1]))[where]
        return f"{title(case)}: the token {row(x)} becomes {versus(got[where], want[where])}."

    def title(case: tuple) -> str:
        return f"x {(*case[0], case[1])}, dim {case[1]}, hidden_dim {case[2]}"

    judge(MLP, student, SIZES, oracle, describe, title=title)
    check_gradients(MLP, module(SIZES[2]), random((2, 3, 2)))


# ---- stochastic depth -------------------------------------------------------------------------------------------

DROP = Lesson(
    "DropPath",
    "DropPath(rate): module(x (B, ...)) -> (B, ...)",
    "in training each image's branch is dropped with probability `rate`, as a whole, and what is kept is divided by 1 "
    "- rate, so that its mean is that of evaluation, where nothing is dropped.",
    PAGE,
    {
        "each number by itself": "single numbers are dropped, which is Dropout; a whole image of the batch is dropped "
        "or kept.",
        "one draw for the batch": "all images of the batch are dropped together; each image has its own draw.",
        "not rescaled": "what is kept is not divided by 1 - rate: the mean in training differs from that in "
        "evaluation.",
        "divided by rate": "what is kept is divided by rate instead of 1 - rate.",
        "multiplied instead of divided": "what is kept is multiplied by 1 - rate instead of divided.",
        "rate is that of keeping": "images are kept with probability `rate`; it is the probability of dropping.",
        "drops in evaluation": "images are dropped in evaluation too: test `self.training`.",
        "never drops": "nothing is ever dropped in training.",
        "drops everything": "every image is dropped.",
        "always the same images": "every call drops the same images: draw anew in each forward pass.",
    },
)


def check_drop_path(build_: Callable[[float], nn.Module]) -> None:
    """Fail unless whole images are dropped, at the right rate, with the mean kept. Huang et al. 2016, equation 2."""
    torch.manual_seed(0)
    for shape in ((2, 3), (4, 2, 2), (2, 3, 2, 2)):
        x = random(shape, 1) + 3  # no zeros
        for rate in (0.0, 0.25, 0.75):
            for training in (False, True):
                if training and rate:
                    continue
                y = as_tensor(DROP, call(DROP, build(DROP, build_, rate).train(training), x))
                if y.shape != x.shape or not torch.equal(y, x):
                    mode = "training" if training else "evaluation"
                    raise Wrong(
                        DROP,
                        f"rate {rate} in {mode}: x must come out unchanged, but {row(x[0])} became {row(y[0])}.",
                        slip="drops in evaluation" if rate and not training else "",
                    )
    for rate in (0.25, 0.75):
        for shape in ((400, 3, 2), (400, 2, 3, 2)):
            check_dropped_images(build(DROP, build_, rate).train(), rate, shape)


def check_dropped_images(module: nn.Module, rate: float, shape: tuple[int, ...]) -> None:
    """In training: each image of a batch is 0 or x / (1 - rate), and `rate` of them are 0."""
    x = random(shape, 2) + 4
    y = as_tensor(DROP, call(DROP, module, x))
    if y.shape != x.shape:
        raise Wrong(DROP, f"the result has shape {tuple(y.shape)}, expected {tuple(x.shape)}.")
    zero = (y == 0).flatten(1)
    mixed = (zero.any(1) & ~zero.all(1)).nonzero().flatten().tolist()
    if mixed:
        b = mixed[0]
        raise Wrong(
            DROP,
            f"rate {rate} in training: image {b} became {row(y[b])}: partly dropped.",
            slip="each number by itself",
        )
    kept = ~zero.all(1)
    check_share(module, x, kept, rate)
    factor = (y[kept] / x[kept]).double()
    if not torch.allclose(factor, torch.full_like(factor, 1 / (1 - rate)), rtol=1e-4):
        slips = {1.0: "not rescaled", 1 / rate: "divided by rate", 1 - rate: "multiplied instead of divided"}
        slip = next((s for f, s in slips.items() if abs(factor.mean().item() - f) < 1e-4), "")
        raise Wrong(
            DROP,
            f"rate {rate} in training: a kept image is multiplied by {factor.flatten()[0]:.4g}, expected "
            f"1 / (1 - rate) = {1 / (1 - rate):.4g}.",
            slip=slip,
        )


def check_share(module: nn.Module, x: Tensor, kept: Tensor, rate: float) -> None:
    """About `rate` of 400 images are dropped, and others in the next call."""
    share = kept.double().mean().item()
    if kept.all() or not kept.any():
        others = [bool((as_tensor(DROP, call(DROP, module, x)) == 0).all()) for _ in range(12)]
        together = {bool(not kept.any()), *others} == {True, False}
        slip = "one draw for the batch" if together else "never drops" if kept.all() else "drops everything"
        raise Wrong(DROP, f"rate {rate} in training: {int(kept.sum())} of 400 images are kept.", slip=slip)
    if abs(share - (1 - rate)) > 0.12:  # more than 5 standard deviations of a binomial of 400
        slip = "rate is that of keeping" if abs(share - rate) < 0.12 else ""
        raise Wrong(
            DROP,
            f"rate {rate} in training: {share:.0%} of 400 images are kept, expected about {1 - rate:.0%}.",
            slip=slip,
        )
    again = ~(as_tensor(DROP, call(DROP, module, x)) == 0).flatten(1).all(1)
    if torch.equal(again, kept):
        raise Wrong(DROP, f"rate {rate} in training: two calls dropped the same images.", slip="always the same images")
