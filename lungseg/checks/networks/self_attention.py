"""Checks of multi-head attention: among all tokens (ViT, UNETR) and in windows (Swin), with the student's weights."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, fill, first_difference, judge, random, versus
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.attention import PAGE, SCORES, weigh
from lungseg.checks.networks.gradients import CUT_OFF, check_gradients
from lungseg.checks.networks.layers_of import Projections, apply, find_bias_table, find_projections

HEADS = {
    "1/sqrt(dim)": "the logits are divided by the square root of all channels; each head divides by that of its own, "
    "head_dim = dim / num_heads.",
    "heads interleaved": "the channels are dealt out to the heads in turn; each head gets a block of head_dim "
    "channels.",
    "heads not joined": "the heads are reshaped together without moving their axis behind that of tokens.",
    "one head": "all channels form one head: num_heads changes nothing.",
    "no projection": "the heads are returned without the output projection.",
    "q, k, v of each head together": "qkv(x) is split into heads first and then into q, k, v: its channels are all q, "
    "then all k, then all v.",
    "v, k, q": "the three parts of qkv(x) are taken as v, k, q.",
}
SELF = Lesson(
    "SelfAttention",
    "SelfAttention(dim, num_heads): module(x (B, N, dim)) -> (B, N, dim), with layers qkv and proj",
    "each head attends with its own head_dim channels of q, k, v; the heads are put side by side and projected.",
    PAGE,
    {
        **SCORES,
        **HEADS,
        "images mixed": "tokens attend to tokens of other images: the batch axis must stay apart.",
        "batch and tokens exchanged": "a token attends to the tokens at its place in the other images, as in "
        "nn.MultiheadAttention without batch_first=True.",
        **CUT_OFF,
    },
)
WINDOW = Lesson(
    "WindowAttention",
    "WindowAttention(dim, window_size, num_heads): module(x (B*nW, N, dim), attn_mask (nW, N, N) bool or None) -> "
    "(B*nW, N, dim), with qkv, proj and relative_position_bias_table ((2 ws - 1)^2, num_heads)",
    "inside each window softmax(q k^T / sqrt(head_dim) + B) v, where B is the table's row for the offset of query and "
    "key, and blocked pairs have weight 0 (Swin Transformer, equation 4).",
    PAGE,
    {
        **{k: v for k, v in SCORES.items() if k != "softmax over everything"},
        **HEADS,
        "bias forgotten": "the relative position bias is not added.",
        "bias after the softmax": "the relative position bias is added to the weights, after the softmax.",
        "bias scaled too": "the bias is scaled by 1/sqrt(head_dim) with the logits; it is added after the scaling.",
        "bias of key - query": "the bias is that of the offset key - query: the index is transposed.",
        "bias of another head": "each head got the bias of another head: permute the table's rows to (heads, N, N).",
        "mask ignored": "attn_mask changes nothing.",
        "mask inverted": "pairs are blocked where attn_mask is True; True means that a pair may attend.",
        "mask of the wrong window": "windows got masks of others: image by image come all nW windows, so window w has "
        "mask w % nW.",
        "mask of the first window": "every window got the mask of window 0; window w has mask w % nW.",
        "rows and columns of the offset exchanged": "the column offset is multiplied by 2 ws - 1 instead of that of "
        "rows.",
        **CUT_OFF,
        "mask added as a number": "the mask moves the logits by 1 only, as a bool mask that is added does; blocked "
        "pairs need -inf before the softmax.",
        "mask after the softmax": "blocked weights are set to 0 after the softmax: the others no longer sum to 1.",
        "mask multiplied": "the logits are multiplied by the mask: a logit of 0 still has weight; it must be -inf.",
    },
)


class Heads(NamedTuple):
    """One case of attention among all tokens: B images of N tokens, heads of d channels."""

    B: int
    N: int
    heads: int
    d: int

    def __str__(self) -> str:
        return f"{self.B} image(s) of {self.N} tokens, {self.heads} head(s) of {self.d} channels"


class Windows(NamedTuple):
    """One case of window attention."""

    ws: int
    heads: int
    d: int
    B: int
    nW: int  # noqa: N815 (the paper's name)
    masked: bool

    def __str__(self) -> str:
        mask = ", with a mask" if self.masked else ""
        return (
            f"window_size {self.ws}, {self.heads} head(s) of {self.d}, {self.B} image(s) of {self.nW} window(s){mask}"
        )

    def mask(self) -> Tensor:
        """(nW, N, N) bool; all True without a mask. Every token may attend to itself."""
        N = self.ws**2
        allowed = (random((self.nW, N, N), 7) < 0.3) | torch.eye(N, dtype=torch.bool)
        return allowed if self.masked else torch.ones_like(allowed)


SELF_CASES = [Heads(*c) for c in [
    (1, 1, 1, 1), (1, 2, 1, 1), (1, 2, 1, 2), (1, 2, 2, 1), (1, 3, 2, 2), (2, 3, 2, 2), (2, 4, 3, 2),
    (3, 2, 2, 3)]]  # fmt: skip
WINDOW_CASES = [Windows(*c) for c in [
    (1, 1, 1, 1, 1, False), (2, 1, 1, 1, 1, False), (2, 1, 2, 1, 1, False), (2, 2, 1, 1, 1, False),
    (2, 2, 2, 1, 2, False), (2, 1, 2, 1, 1, True), (2, 2, 2, 1, 2, True), (2, 2, 2, 2, 3, True), (3, 2, 2, 2, 2, True),
    (2, 3, 1, 2, 1, False)]]  # fmt: skip


def heads_by_loops(x: Tensor, p: Projections, heads: int, bias: Tensor, slip: str = "") -> Tensor | None:
    """Attention among the tokens x (N, C), head by head, with bias (heads, N, N); float64."""
    N, C = x.shape
    if slip == "one head":
        heads, bias = 1, bias[:1]
    d = C // heads
    q, k, v = (apply(layer, x) for layer in (p.q, p.k, p.v))  # (N, C) each
    if slip == "v, k, q":
        q, v = v, q
    if slip == "q, k, v of each head together":
        joined = torch.cat([q, k, v], -1).unflatten(-1, (heads, 3, d))  # (N, heads, 3, d)
        q, k, v = (joined[:, :, i].flatten(1) for i in range(3))
    if slip == "1/sqrt(dim)":
        q = q * (d / C) ** 0.5
    if slip == "softmax over axis 1":
        return softmax_over_heads(q, k, v, bias, p)
    results = []
    for h in range(heads):
        mine = slice(h, None, heads) if slip == "heads interleaved" else slice(h * d, (h + 1) * d)
        weights = weigh(q[:, mine], k[:, mine], bias[h], slip if slip in SCORES or slip.startswith("bias") else "")
        if weights is None:
            return None
        results.append(weights @ v[:, mine])
    joined = torch.stack(results, 1)  # (N, heads, d)
    joined = joined.transpose(1, 2) if slip == "heads interleaved" else joined
    x = torch.stack(results).reshape(N, C) if slip == "heads not joined" else joined.flatten(1)
    return x if slip == "no projection" else apply(p.out, x)


def softmax_over_heads(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, p: Projections) -> Tensor:
    """The slip softmax(dim=1) of logits (B, heads, N, N): the weights of the heads sum to 1, not those of the keys."""
    q, k, v = (t.unflatten(-1, (len(bias), -1)).transpose(0, 1) for t in (q, k, v))  # (heads, N, d)
    weights = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + bias).softmax(0)
    return apply(p.out, (weights @ v).transpose(0, 1).flatten(1))


def check_self_attention(build_: Callable[[int, int], nn.Module]) -> None:
    """Fail unless multi-head self-attention is computed head by head with the module's own weights.

    ViT (Dosovitskiy et al. 2021), appendix A, equations 5-8.

    Args:
        build_: (dim, num_heads) -> a module (B, N, dim) -> (B, N, dim) with linear layers qkv (or q, k, v) and proj.
    """

    @cache
    def module(case: Heads) -> nn.Module:
        return fill(build(SELF, build_, case.heads * case.d, case.heads)).eval()

    def oracle(case: Heads, slip: str = "") -> Tensor | None:
        dim = case.heads * case.d
        p, x = find_projections(SELF, module(case), dim), random((case.B, case.N, dim)).double()
        if slip == "images mixed":
            bias = torch.zeros(case.heads, case.B * case.N, case.B * case.N, dtype=torch.double)
            mixed = heads_by_loops(x.flatten(0, 1), p, case.heads, bias)
            return None if mixed is None else mixed.unflatten(0, (case.B, case.N))
        if slip == "batch and tokens exchanged":
            x = x.transpose(0, 1)
        bias = torch.zeros(case.heads, x.shape[1], x.shape[1], dtype=torch.double)
        each = [heads_by_loops(image, p, case.heads, bias, slip) for image in x]
        if any(e is None for e in each):
            return None
        return torch.stack([e for e in each if e is not None], 1 if slip == "batch and tokens exchanged" else 0)

    def student(case: Heads) -> Tensor:
        x = random((case.B, case.N, case.heads * case.d))
        with torch.no_grad():
            return first_of(SELF, call(SELF, module(case), x))

    judge(SELF, student, SELF_CASES, oracle, describe)
    check_gradients(SELF, module(SELF_CASES[5]), random((2, 3, 4)))


def check_window_attention(build_: Callable[[int, int, int], nn.Module]) -> None:
    """Fail unless a window attention computes equation 4 of Swin Transformer, token by token, and honours its mask.

    Args:
        build_: (dim, window_size, num_heads) -> a module with linear layers qkv (or q, k, v) and proj and a
            `relative_position_bias_table` ((2 ws - 1)^2, num_heads), called as
            module(x (B*nW, N, C), attn_mask (nW, N, N) bool or None) -> (B*nW, N, C).
    """

    @cache
    def module(case: Windows) -> nn.Module:
        return fill(build_window_attention(build_, case)).eval()

    def oracle(case: Windows, slip: str = "") -> Tensor | None:
        x = random((case.B * case.nW, case.ws**2, case.heads * case.d)).double()
        each = [window_by_loops(module(case), x[w], case, w, slip) for w in range(len(x))]
        return None if any(e is None for e in each) else torch.stack([e for e in each if e is not None])

    def student(case: Windows) -> Tensor:
        x = random((case.B * case.nW, case.ws**2, case.heads * case.d))
        with torch.no_grad():
            return first_of(WINDOW, call(WINDOW, module(case), x, case.mask() if case.masked else None))

    judge(WINDOW, student, WINDOW_CASES, oracle, describe)
    case = WINDOW_CASES[6]
    check_gradients(WINDOW, module(case), random((2, 4, 4)), case.mask())


def build_window_attention(build_: Callable, case: Windows) -> nn.Module:
    """The module; a window_size that is a pair, as in the published code, is taken too."""
    try:
        return build(WINDOW, build_, case.heads * case.d, case.ws, case.heads)
    except Wrong as wrong:
        if "int" not in wrong.what or "TypeError" not in wrong.what:
            raise
    return build(WINDOW, build_, case.heads * case.d, (case.ws, case.ws), case.heads)


def window_by_loops(module: nn.Module, x: Tensor, case: Windows, w: int, slip: str = "") -> Tensor | None:
    """Equation 4 for window w (N, C) of the batch, with the weights of the module."""
    ws, heads, C = case.ws, case.heads, case.heads * case.d
    p, table = find_projections(WINDOW, module, C), find_bias_table(WINDOW, module, ws, heads)
    bias = torch.zeros(heads, ws * ws, ws * ws, dtype=torch.double)
    for i in range(ws * ws):
        for j in range(ws * ws):
            dr, dc = i // ws - j // ws, i % ws - j % ws
            if slip == "bias of key - query":
                dr, dc = -dr, -dc
            if slip == "rows and columns of the offset exchanged":
                dr, dc = dc, dr
            bias[:, i, j] = table[(dr + ws - 1) * (2 * ws - 1) + dc + ws - 1]
    if slip == "bias of another head":
        bias = bias.permute(1, 2, 0).reshape(heads, ws * ws, ws * ws)
    mine = {"mask of the wrong window": w // case.B, "mask of the first window": 0}.get(slip, w % case.nW)
    allowed = case.mask()[mine]
    if not case.masked or slip == "mask ignored":
        return heads_by_loops(x, p, heads, bias, slip)
    if slip in ("mask after the softmax", "mask multiplied", "mask added as a number"):
        return mask_wrongly(x, p, heads, bias, allowed, slip)
    blocked = allowed if slip == "mask inverted" else ~allowed
    if slip.startswith("bias ") and slip not in ("bias of key - query", "bias of another head"):
        return None  # a bias of -inf would tell nothing; the cases without a mask do
    return heads_by_loops(x, p, heads, bias.masked_fill(blocked, -torch.inf), slip)


def mask_wrongly(x: Tensor, p: Projections, heads: int, bias: Tensor, allowed: Tensor, slip: str) -> Tensor:
    """Three ways in which blocked pairs keep an influence."""
    d, results = x.shape[1] // heads, []
    for h in range(heads):
        q, k, v = (apply(layer, x)[:, h * d : (h + 1) * d] for layer in (p.q, p.k, p.v))
        logits = (q @ k.T) * d**-0.5 + bias[h]
        if slip == "mask added as a number":
            logits = logits + allowed
        weights = (logits * allowed if slip == "mask multiplied" else logits).softmax(-1)
        results.append((weights * allowed if slip == "mask after the softmax" else weights) @ v)
    return apply(p.out, torch.cat(results, 1))


def first_of(lesson: Lesson, result: object) -> Tensor:
    """The values, where a module also returns its weights."""
    return as_tensor(lesson, result[0] if isinstance(result, tuple) and result else result)


def describe(case: Heads | Windows, got: Tensor, want: Tensor) -> str:
    w, i, _ = first_difference(got, want)
    where = f"image {w}" if isinstance(case, Heads) else f"window {w} (window {w % case.nW} of image {w // case.nW})"
    return f"{case}: token {i} of {where} is {versus(got[w, i], want[w, i])}."
