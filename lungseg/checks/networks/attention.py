"""Checks of the attention formula, against sums written out with loops."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, random, row, versus
from lungseg.checks.lessons import Lesson, Wrong

PAGE = "docs/nn/attention.md"
SCORES = {
    "softmax over queries": "softmax runs over the queries (the rows): each query's weights must sum to 1, so it runs "
    "over the keys, dim=-1.",
    "softmax over axis 1": "softmax(dim=1) counts axes from the front: with axes of images and heads, 1 is no longer "
    "the axis of keys. Use dim=-1.",
    "softmax over everything": "all logits share one softmax; each query has its own, over the keys.",
    "no softmax": "the logits weigh the values directly, without softmax.",
    "no scale": "the logits q k^T are not divided by sqrt(head_dim).",
    "1/d": "the logits are divided by head_dim; by its square root keeps their variance at 1.",
    "1/sqrt(N)": "the logits are divided by the square root of the number of tokens instead of head_dim.",
    "times sqrt(d)": "the logits are multiplied by sqrt(head_dim) instead of divided.",
    "q and k exchanged": "the logits are k q^T: queries and keys changed places.",
    "values of queries": "the weights are transposed before they weigh the values.",
}
ATTENTION = Lesson(
    "attention",
    "attention(q (..., N, d), k (..., N, d), v (..., N, d), *, bias (..., N, N) = None) -> values (..., N, d), or the "
    "pair (values, weights)",
    "attention is softmax(q k^T / sqrt(d) + bias) v: each query mixes the values by how well its key fits, with "
    "weights that sum to 1.",
    PAGE,
    {
        **SCORES,
        "k not transposed": "q is multiplied by k, not by its transpose.",
        "bias forgotten": "the bias is not added.",
        "bias after the softmax": "the bias is added to the weights, after the softmax; it belongs to the logits.",
        "bias scaled too": "the bias is divided by sqrt(d) together with the logits; it is added after the scaling.",
        "bias subtracted": "the bias is subtracted.",
        "bias multiplied": "the logits are multiplied by the bias or mask.",
        "mask inverted": "the mask blocks where it is True; True means that a pair may attend.",
        "mask added as a number": "the bool mask is added as 0 and 1; blocked pairs need -inf before the softmax.",
        "exp overflows": "exp of a large logit is infinite: subtract the maximum of each row first, as torch.softmax "
        "does.",
        "weights returned": "the weights are returned instead of the values.",
    },
)


class Tokens(NamedTuple):
    """One case: queries, keys and values of shape (*axes, N, d), and whether there is a bias."""

    axes: tuple[int, ...]
    N: int
    d: int
    bias: str = ""  # "", "blocked" (0 and -inf), "numbers" (with some -inf), or "large": no bias, large logits

    def __str__(self) -> str:
        bias = {"": "", "blocked": ", a bias of 0 and -inf", "numbers": ", a bias", "large": ", large q"}[self.bias]
        return f"q, k, v of shape {(*self.axes, self.N, self.d)}{bias}"

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q, k, v and the bias."""
        q, k, v = (random((*self.axes, self.N, self.d), seed) for seed in (1, 2, 3))
        if self.bias == "large":  # so large that exp overflows for query 0, and not for the others
            q[..., 0, :] *= 1000
        if self.bias in ("", "large"):
            return q, k, v, None
        bias = random((*self.axes[1:], self.N, self.N), 4) if self.bias == "numbers" else torch.zeros(self.N, self.N)
        blocked = (random((self.N, self.N), 5) > 0.4) & ~torch.eye(self.N, dtype=torch.bool)
        return q, k, v, bias.masked_fill(blocked, -torch.inf)


CASES = [
    Tokens((), 1, 1), Tokens((), 2, 1), Tokens((), 2, 2), Tokens((), 3, 2), Tokens((), 2, 3), Tokens((),
    3, 2, "blocked"),
    Tokens((), 3, 2, "numbers"), Tokens((), 4, 3, "numbers"), Tokens((2,), 3, 2), Tokens((2, 3), 3, 2, "numbers"),
    Tokens((2, 2), 4, 4, "blocked"), Tokens((), 3, 2, "large"),
]  # fmt: skip


def weigh(q: Tensor, k: Tensor, bias: Tensor, slip: str = "") -> Tensor | None:
    """The weights (..., N, N) of each query, by the formula or with a slip; a bias of zeros does nothing."""
    N, d = q.shape[-2:]
    if slip == "q and k exchanged":
        q, k = k, q
    if slip == "k not transposed":
        if N != d:
            return None
        logits = q @ k
    else:
        logits = torch.stack([(q[..., i : i + 1, :] * k).sum(-1) for i in range(N)], -2)  # query by query
    scale = {"no scale": 1.0, "1/d": 1 / d, "1/sqrt(N)": N**-0.5, "times sqrt(d)": d**0.5}.get(slip, d**-0.5)
    logits = logits * scale
    if slip == "bias after the softmax":
        return softmax(logits) + bias
    if slip == "bias multiplied":
        logits = logits * bias  # 0 * -inf is NaN, also in the student's result
    elif slip == "mask inverted":
        logits = logits.masked_fill(bias == 0, -torch.inf)
    elif slip == "mask added as a number":
        logits = logits + (bias == 0)
    elif slip != "bias forgotten":
        logits = logits + {"bias scaled too": bias * scale, "bias subtracted": -bias}.get(slip, bias)
    return normalise(logits, slip)


def normalise(logits: Tensor, slip: str) -> Tensor | None:
    """Logits (..., N, N) -> weights: softmax over the keys, or over something else."""
    if slip == "no softmax":
        return logits
    if slip == "softmax over axis 1":
        return logits.softmax(1)
    if slip == "softmax over everything":
        return softmax(logits.flatten(-2)).unflatten(-1, logits.shape[-2:])
    if slip == "softmax over queries":
        return softmax(logits.transpose(-1, -2)).transpose(-1, -2)
    if slip == "exp overflows":
        e = logits.float().exp()
        return (e / e.sum(-1, keepdim=True)).double()
    weights = softmax(logits)
    return weights.transpose(-1, -2) if slip == "values of queries" else weights


def softmax(logits: Tensor) -> Tensor:
    """exp(x) / sum exp(x) over the last axis."""
    e = (logits - logits.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def attention_by_loops(case: Tokens, slip: str = "") -> Tensor | None:
    """The values, in float64: one weighted sum per query."""
    q, k, v, bias = (None if t is None else t.double() for t in case.inputs())
    assert q is not None and k is not None and v is not None
    if bias is None and slip.startswith(("bias", "mask")):
        slip = ""
    if slip.startswith("mask") and case.bias == "numbers":
        return None
    weights = weigh(q, k, torch.zeros(()).double() if bias is None else bias, slip)
    if weights is None or slip == "weights returned":
        return weights
    return torch.stack([(weights[..., i, :, None] * v).sum(-2) for i in range(case.N)], -2)


def check_attention(attention: Callable) -> None:
    """Fail unless `attention(q, k, v, bias=bias)` is softmax(q k^T / sqrt(head_dim) + bias) v.

    Vaswani et al. 2017, equation 1. A function with a `mask` in place of `bias` is taken too: bool
    (True = may attend), or added.

    Args:
        attention: q, k, v (..., N, head_dim), bias (..., N, N) with -inf where blocked -> values (..., N, head_dim), or
            a pair (values, weights (..., N, N)).
    """
    parameters = inspect.signature(attention).parameters
    keyword = next((n for n in ("bias", "attn_bias", "mask", "attn_mask") if n in parameters), "bias")
    if "mask" not in keyword:
        return check_scores(attention, keyword, CASES, as_bool=False)
    try:
        check_scores(attention, keyword, [c for c in CASES if c.bias != "numbers"], as_bool=True)
    except Wrong as wrong:
        try:  # a mask of 0 and -inf that is added is right too
            check_scores(attention, keyword, CASES, as_bool=False)
        except Wrong:
            raise wrong from None


def check_scores(attention: Callable, keyword: str, cases: list[Tokens], *, as_bool: bool) -> None:
    """`check_attention` with the bias under the name `keyword`, as numbers or as a mask (True = may attend)."""

    def student(case: Tokens) -> Tensor:
        q, k, v, bias = case.inputs()
        extra = {} if bias is None else {keyword: bias == 0 if as_bool else bias}
        result = call(ATTENTION, attention, q, k, v, **extra)
        if isinstance(result, tuple):
            if len(result) != 2:
                raise Wrong(ATTENTION, f"the result is a tuple of {len(result)}, expected (values, weights).")
            check_weights(case, as_tensor(ATTENTION, result[1]))
            result = result[0]
        return as_tensor(ATTENTION, result)

    judge(ATTENTION, student, cases, attention_by_loops, describe_token, numbers=show_tokens)


def check_weights(case: Tokens, weights: Tensor) -> None:
    """The second part of a pair: (..., N, N), rows that sum to 1."""
    expected = (*case.axes, case.N, case.N)
    if tuple(weights.shape) != expected:
        raise Wrong(ATTENTION, f"{case}: the weights have shape {tuple(weights.shape)}, expected {expected}.")
    sums = weights.double().sum(-1)
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        over_queries = torch.allclose(weights.double().sum(-2), torch.ones_like(sums), atol=1e-4)
        raise Wrong(
            ATTENTION,
            f"{case}: the weights of each query must sum to 1, but the first sums to {sums.flatten()[0]:.4g}.",
            slip="softmax over queries" if over_queries else "",
        )


def describe_token(case: Tokens, got: Tensor, want: Tensor) -> str:
    *axes, i, _ = first_difference(got, want)
    where = f", index {tuple(axes)} of the leading axes" if axes else ""
    return f"{case}: the value of query {i}{where} is {versus(got[(*axes, i)], want[(*axes, i)])}."


def show_tokens(case: Tokens, got: Tensor, want: Tensor) -> str:
    """The inputs of the smallest wrong case, and the weights they should have."""
    q, k, v, bias = case.inputs()
    if q.ndim > 2 or case.N > 3:
        return ""
    weights = weigh(q.double(), k.double(), torch.zeros(()).double() if bias is None else bias.double())
    assert weights is not None  # the formula is never impossible
    named = {"q": q, "k": k, "v": v} | ({} if bias is None else {"bias": bias}) | {"weights, expected": weights}
    return "\n".join(f"{name} = {' / '.join(row(r) for r in value)}" for name, value in named.items())
