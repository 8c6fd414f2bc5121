"""Checks of the MLP, of stochastic depth, and of UNETR's way from tokens to maps."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, fill, first_difference, judge, random, row
from lungseg.checks.layers_of import Linear, apply, find_mlp
from lungseg.checks.lessons import Lesson, Wrong

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
    made: dict = {}

    def module(case: tuple) -> nn.Module:
        if case not in made:
            made[case] = fill(build(MLP, build_, *case[1:]), scale=1.0).eval()
        return made[case]

    def oracle(case: tuple, slip: str) -> Tensor:
        return mlp_by_formula(find_mlp(MLP, module(case), *case[1:]), random((*case[0], case[1])).double(), slip)

    def student(case: tuple) -> Tensor:
        with torch.no_grad():
            return as_tensor(MLP, call(MLP, module(case), random((*case[0], case[1]))))

    def describe(case: tuple, got: Tensor, want: Tensor) -> str:
        where = first_difference(got, want)[:-1]
        x = random((*case[0], case[1]))[where]
        return (
            f"dim {case[1]}, hidden_dim {case[2]}: the token {row(x)} becomes {row(got[where])}, "
            f"expected {row(want[where])}."
        )

    judge(MLP, student, SIZES, oracle, describe)


# ---- stochastic depth -------------------------------------------------------------------------------------------

DROP = Lesson(
    "DropPath",
    "DropPath(rate): module(x (B, ...)) -> (B, ...)",
    "in training each image's branch is dropped with probability `rate`, as a whole, and what is kept is divided by "
    "1 - rate, so that its mean is that of evaluation, where nothing is dropped.",
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
        check_dropped_images(build(DROP, build_, rate).train(), rate)


def check_dropped_images(module: nn.Module, rate: float) -> None:
    """In training: each image of a batch is 0 or x / (1 - rate), and `rate` of them are 0."""
    x = random((400, 3, 2), 2) + 4
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


# ---- UNETR's hidden states --------------------------------------------------------------------------------------

TO_MAP = Lesson(
    "tokens_to_map",
    "tokens_to_map(z (B, N, K), grid) -> (B, K, *grid), grid = (H, W) in tokens",
    "tokens are in reading order: token r * W + c becomes row r, column c, with its channels moved to the front.",
    "docs/nn/unetr.md",
    {
        "only reshaped": "reshaped without moving the channels first: channels and tokens are mixed.",
        "rows and columns swapped": "tokens are laid out column by column; they are in reading order.",
        "channels last": "the channels stayed last; a convolution wants them after the batch axis.",
    },
)
SKIPS = Lesson(
    "hidden_states",
    "hidden_states(blocks, z (B, N, K), layers) -> list of (B, N, K): the tokens after each of these blocks",
    "blocks are counted from 1: z3 is what comes out of the third block, and every block reads what the one before it "
    "returned.",
    "docs/nn/unetr.md",
    {
        "counted from 0": "blocks are counted from 0: yours are one block too late.",
        "before the block": "the tokens are taken before the block instead of after it.",
        "blocks in parallel": "every block reads the first tokens instead of those of the block before it.",
        "only the last": "every entry is what the last block returned.",
        "order": "the entries are in another order than `layers`.",
    },
)


class Grid(NamedTuple):
    """Tokens of B images on a grid of H x W, K channels each."""

    B: int
    H: int
    W: int
    K: int

    def tokens(self) -> Tensor:
        sides = (self.B, self.H * self.W, self.K)
        return torch.arange(1.0, 1 + math.prod(sides)).reshape(sides)


GRIDS = [Grid(*c) for c in [(1, 1, 2, 2), (1, 2, 1, 2), (1, 2, 2, 1), (1, 2, 3, 2), (2, 3, 2, 3)]]


def map_by_loops(case: Grid, slip: str = "") -> Tensor:
    z, (B, H, W, K) = case.tokens(), case
    if slip == "only reshaped":
        return z.reshape(B, K, H, W)
    swapped = slip == "rows and columns swapped"
    rows = [[z[:, c * H + r if swapped else r * W + c] for c in range(W)] for r in range(H)]
    map_ = torch.stack([torch.stack(line, 1) for line in rows], 1)  # (B, H, W, K)
    return map_ if slip == "channels last" else map_.movedim(3, 1)


def check_tokens_to_map(tokens_to_map: Callable) -> None:
    """Fail unless tokens in reading order become a map of channels. UNETR, Figure 2 (the reshaping before each skip)."""

    def describe(case: Grid, got: Tensor, want: Tensor) -> str:
        b, _, r, c = first_difference(got, want)
        return (
            f"{case.H} x {case.W} tokens: row {r}, column {c} of image {b} has the channels {row(got[b, :, r, c])}, "
            f"expected those of token {r * case.W + c}, {row(want[b, :, r, c])}."
        )

    def student(case: Grid) -> Tensor:
        return as_tensor(TO_MAP, call(TO_MAP, tokens_to_map, case.tokens(), (case.H, case.W)))

    judge(TO_MAP, student, GRIDS, map_by_loops, describe)


class Scale(nn.Module):
    """A block that can be followed by hand: z -> factor * z + 1."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z + 1


def states_by_loops(case: tuple[int, Sequence[int]], slip: str = "") -> Tensor:
    depth, layers = case
    states = [torch.ones(1, 1, 1)]
    for i in range(depth):
        states.append(Scale(i + 2)(states[0 if slip == "blocks in parallel" else -1]))
    move = {"counted from 0": 1, "before the block": -1}.get(slip, 0)
    numbers = [depth if slip == "only the last" else k + move for k in layers]
    chosen = [states[k] for k in numbers if k <= depth]  # counted from 0, the last block is never reached
    return torch.cat([torch.zeros(0), *(c.flatten() for c in (chosen[::-1] if slip == "order" else chosen))])


def check_hidden_states(hidden_states: Callable) -> None:
    """Fail unless the tokens after the named blocks are returned, blocks counted from 1. UNETR, equations 2 and 3."""

    def student(case: tuple[int, Sequence[int]]) -> Tensor:
        depth, layers = case
        blocks = nn.ModuleList(Scale(i + 2) for i in range(depth))
        states = call(SKIPS, hidden_states, blocks, torch.ones(1, 1, 1), tuple(layers))
        if not isinstance(states, (list, tuple)):
            raise Wrong(SKIPS, f"the result is a {type(states).__name__}, expected a list of {len(layers)} tensors.")
        return torch.cat([torch.zeros(0), *(as_tensor(SKIPS, s).flatten() for s in states)])

    def describe(case: tuple[int, Sequence[int]], got: Tensor, want: Tensor) -> str:
        (i,) = first_difference(got, want)
        return (
            f"blocks z -> 2z + 1, 3z + 1, ... from z = 1: the state after block {case[1][i]} is {want[i]:g}, "
            f"yours is {got[i]:g}."
        )

    judge(
        SKIPS,
        student,
        [(1, (1,)), (2, (1,)), (2, (1, 2)), (4, (2, 4)), (6, (2, 4, 5)), (12, (3, 6, 9, 12))],
        states_by_loops,
        describe,
    )
