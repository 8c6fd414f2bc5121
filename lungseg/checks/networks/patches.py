"""Checks of patch embedding, merging and expanding, token by token, with the student's own weights."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, fill, first_difference, judge, random, versus
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.gradients import CUT_OFF, check_gradients
from lungseg.checks.networks.layers_of import apply, find_norms, layer_norm, linears, weights

PAGE = "docs/nn/patches.md"
EMBED = Lesson(
    "PatchEmbed",
    "PatchEmbed(in_channels, embed_dim, patch_size): module(image (B, in_channels, H, W)) -> tokens (B, H/patch_size, "
    "W/patch_size, embed_dim), with a convolution, and a LayerNorm if you like",
    "each patch_size x patch_size patch becomes one token by the same linear map; incomplete patches are filled with "
    "zeros at the bottom and right.",
    PAGE,
    {
        "only reshaped": "the convolution's (B, embed_dim, H', W') was reshaped to channels last; its axes must be "
        "moved.",
        "rows and columns swapped": "rows and columns of tokens are exchanged.",
        "padded at the top and left": "incomplete patches are filled at the top and left.",
        "norm not used": "the LayerNorm is defined but not applied.",
        "no bias": "the convolution's bias is not added.",
        **CUT_OFF,
    },
)
MERGING = Lesson(
    "PatchMerging",
    "PatchMerging(dim): module(x (B, H, W, dim)) -> (B, ceil(H/2), ceil(W/2), 2 * dim), with LayerNorm(4 * dim) and "
    "Linear(4 * dim, 2 * dim)",
    "each 2 x 2 neighbourhood is joined to 4 * dim channels in the order (0,0) (1,0) (0,1) (1,1), normalised, and "
    "mapped to 2 * dim; an odd side is padded with zeros.",
    PAGE,
    {
        "joined row by row": "the four are joined in the order (0,0) (0,1) (1,0) (1,1); published weights want the "
        "first column first.",
        "joined in another order": "the four neighbours are joined in another order than (0,0) (1,0) (0,1) (1,1).",
        "a neighbour read twice": "one neighbour is read twice, and another never.",
        "quarters instead of neighbours": "the map is cut into quarters; neighbours are every second row and column.",
        "norm not used": "the LayerNorm is defined but not applied.",
        "norm after the map": "the LayerNorm comes after the linear map; it belongs before it.",
        "rows and columns swapped": "rows and columns of the merged map are exchanged.",
        "only reshaped": "the map was reshaped to 4 * dim channels: neighbours along a row are joined, not a 2 x 2 "
        "square.",
        "an odd side cropped": "the last row or column of an odd side is dropped; pad it with zeros.",
        "averaged": "the four neighbours are averaged; they must be joined, each with channels of its own.",
        **CUT_OFF,
    },
)
EXPANDING = Lesson(
    "PatchExpanding",
    "PatchExpanding(dim, out_dim, scale): module(x (B, H, W, dim)) -> (B, scale * H, scale * W, out_dim), with "
    "Linear(dim, scale * scale * out_dim) and LayerNorm(out_dim)",
    "one linear map makes scale x scale groups of out_dim channels, laid out row by row in the square of the token; "
    "then each fine token is normalised.",
    PAGE,
    {
        "column by column": "the groups are laid out column by column in the square; published weights want row by "
        "row.",
        "channels before positions": "the channels are split as (out_dim, row, column), as nn.PixelShuffle does; the "
        "published order is (row, column, out_dim).",
        "only reshaped": "reshaped without moving axes: the fine tokens of a square end up in one row.",
        "norm not used": "the LayerNorm is defined but not applied.",
        "repeated": "every fine token of a square is the same: each needs channels of its own.",
        "rows and columns swapped": "rows and columns of the fine map are exchanged.",
        **CUT_OFF,
    },
)


class Image(NamedTuple):
    """One case: sides, channels in, channels out, and a patch size or scale."""

    B: int
    H: int
    W: int
    C: int
    out: int
    size: int

    def __str__(self) -> str:
        size = f", size {self.size}" if self.size else ""
        return f"{self.B} map(s) of {self.H} x {self.W} with {self.C} channel(s){size}"


# ---- embedding --------------------------------------------------------------------------------------------------

EMBEDDINGS = [Image(*c) for c in [
    (1, 2, 2, 1, 2, 2), (1, 2, 4, 1, 2, 2), (1, 4, 2, 1, 2, 2), (1, 4, 4, 2, 3, 2), (2, 4, 8, 1, 4, 4),
    (1, 3, 4, 1, 2, 2), (1, 2, 3, 1, 2, 2), (2, 7, 5, 3, 2, 4)]]  # fmt: skip


def find_patch_map(module: nn.Module, case: Image) -> tuple[Tensor, Tensor]:
    """Weight (out, C, p, p) and bias (out,) of the convolution that maps a patch to a token."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    shape = (case.out, case.C, case.size, case.size)
    if len(convs) != 1 or tuple(convs[0].weight.shape) != shape or convs[0].stride != (case.size, case.size):
        raise Wrong(
            EMBED,
            f"expected one nn.Conv2d({case.C}, {case.out}, kernel_size={case.size}, stride={case.size}) "
            f"for in_channels={case.C}, embed_dim={case.out}, patch_size={case.size}; found "
            f"{', '.join(str(c) for c in convs) or 'none'}.",
        )
    bias = convs[0].bias
    return convs[0].weight.detach().double(), torch.zeros(case.out).double() if bias is None else bias.detach().double()


def embed_by_loops(module: nn.Module, case: Image, slip: str = "") -> Tensor:
    """The tokens, one patch after the other."""
    weight, bias = find_patch_map(module, case)
    bias = torch.zeros_like(bias) if slip == "no bias" else bias
    p, rows, cols = case.size, -(-case.H // case.size), -(-case.W // case.size)
    image = torch.zeros(case.B, case.C, rows * p, cols * p, dtype=torch.double)
    top, left = (rows * p - case.H, cols * p - case.W) if slip == "padded at the top and left" else (0, 0)
    image[:, :, top : top + case.H, left : left + case.W] = random((case.B, case.C, case.H, case.W))
    tokens = torch.zeros(case.B, rows, cols, case.out, dtype=torch.double)
    for r in range(rows):
        for c in range(cols):
            patch = image[:, None, :, r * p : (r + 1) * p, c * p : (c + 1) * p]  # (B, 1, C, p, p)
            tokens[:, r, c] = (patch * weight).sum((2, 3, 4)) + bias
    if slip == "only reshaped":
        tokens = tokens.permute(0, 3, 1, 2).reshape(tokens.shape)
    if slip == "rows and columns swapped":
        tokens = tokens.transpose(1, 2)
    norms = [m for m in module.modules() if isinstance(m, nn.LayerNorm)]
    return layer_norm(norms[0], tokens) if norms and slip != "norm not used" else tokens


def check_patch_embed(build_: Callable[[int, int, int], nn.Module]) -> None:
    """Fail unless each patch becomes one token by the module's linear map. Tokens (B, N, embed_dim) are taken too.

    Swin Transformer, section 3.1; ViT, equation 1.

    Args:
        build_: (in_channels, embed_dim, patch_size) -> a module (B, C, H, W) -> (B, H/p, W/p, embed_dim).
    """

    def forward(module: nn.Module, case: Image) -> Tensor:
        tokens = as_tensor(EMBED, call(EMBED, module, random((case.B, case.C, case.H, case.W))))
        rows, cols = -(-case.H // case.size), -(-case.W // case.size)
        flat = tokens.ndim == 3 and tokens.shape[1] == rows * cols
        return tokens.unflatten(1, (rows, cols)) if flat else tokens

    judge_module(
        EMBED, lambda case: build(EMBED, build_, case.C, case.out, case.size), EMBEDDINGS, forward, embed_by_loops
    )


# ---- merging ----------------------------------------------------------------------------------------------------

MERGINGS = [Image(*c) for c in [
    (1, 2, 2, 1, 2, 0), (1, 2, 4, 1, 2, 0), (1, 4, 2, 2, 4, 0), (1, 4, 4, 1, 2, 0), (2, 4, 6, 2, 4, 0),
    (1, 3, 2, 1, 2, 0), (1, 2, 3, 2, 4, 0), (2, 5, 3, 1, 2, 0)]]  # fmt: skip
ORDER = ((0, 0), (1, 0), (0, 1), (1, 1))
ORDERS = {
    "joined row by row": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "a neighbour read twice": ((0, 0), (1, 0), (0, 1), (0, 1)),
}


def merge_by_loops(module: nn.Module, case: Image, slip: str = "") -> Tensor | None:
    """The merged tokens, one neighbourhood after the other."""
    x = random((case.B, case.H, case.W, case.C)).double()
    if slip == "an odd side cropped":
        x = x[:, : case.H // 2 * 2, : case.W // 2 * 2]
    H, W = x.shape[1:3]
    padded = torch.zeros(case.B, H + H % 2, W + W % 2, case.C, dtype=torch.double)
    padded[:, :H, :W] = x
    rows, cols = padded.shape[1] // 2, padded.shape[2] // 2
    joined = torch.zeros(case.B, rows, cols, 4 * case.C, dtype=torch.double)
    for r in range(rows):
        for c in range(cols):
            places = [(2 * r + i, 2 * c + j) for i, j in ORDERS.get(slip, ORDER)]
            if slip == "quarters instead of neighbours":
                places = [(r + i * rows, c + j * cols) for i, j in ORDER]
            joined[:, r, c] = torch.cat([padded[:, i, j] for i, j in places], -1)
    if slip == "only reshaped":
        joined = padded.reshape(case.B, rows, cols, 4 * case.C)
    (linear,) = find_linear(MERGING, module, 4 * case.C, 2 * case.C)
    after = [m for m in module.modules() if isinstance(m, nn.LayerNorm) and m.normalized_shape == (2 * case.C,)]
    if after and not slip:
        raise Wrong(
            MERGING,
            f"{type(module).__name__} holds LayerNorm(2 * dim), expected LayerNorm(4 * dim).",
            slip="norm after the map",
        )
    (norm,) = find_norms(MERGING, module, 2 * case.C if slip == "norm after the map" else 4 * case.C, 1)
    if slip == "norm after the map":
        return layer_norm(norm, apply(linear, joined))
    merged = apply(linear, joined if slip == "norm not used" else layer_norm(norm, joined))
    return merged.transpose(1, 2) if slip == "rows and columns swapped" else merged


def check_patch_merging(build_: Callable[[int], nn.Module]) -> None:
    """Fail unless each 2 x 2 neighbourhood, and nothing else, becomes one token, in the published order.

    Swin Transformer, section 3.1.

    Args:
        build_: dim -> a module with (B, H, W, dim) -> (B, ceil(H/2), ceil(W/2), 2*dim).
    """
    judge_module(MERGING, lambda case: build(MERGING, build_, case.C), MERGINGS, map_forward(MERGING), merge_by_loops)


# ---- expanding --------------------------------------------------------------------------------------------------

EXPANDINGS = [Image(*c) for c in [
    (1, 1, 1, 1, 2, 2), (1, 1, 2, 2, 3, 2), (1, 2, 1, 2, 2, 2), (1, 2, 2, 2, 3, 2), (2, 2, 3, 3, 2, 3),
    (1, 2, 1, 2, 2, 4), (1, 2, 2, 2, 2, 1)]]  # fmt: skip


def expand_by_loops(module: nn.Module, case: Image, slip: str = "") -> Tensor | None:
    """The fine tokens, one square after the other."""
    s, out = case.size, case.out
    (linear,) = find_linear(EXPANDING, module, case.C, s * s * out)
    groups = apply(linear, random((case.B, case.H, case.W, case.C)).double())  # (B, H, W, s * s * out)
    fine = torch.zeros(case.B, s * case.H, s * case.W, out, dtype=torch.double)
    for r in range(s * case.H):
        for c in range(s * case.W):
            i, j = r % s, c % s
            place = {"column by column": j * s + i, "repeated": 0}.get(slip, i * s + j)
            mine = slice(place * out, (place + 1) * out)
            mine = slice(i * s + j, None, s * s) if slip == "channels before positions" else mine
            fine[:, r, c] = groups[:, r // s, c // s, mine]
    if slip == "only reshaped":
        fine = groups.reshape(fine.shape)
    (norm,) = find_norms(EXPANDING, module, out, 1)
    fine = fine if slip == "norm not used" else layer_norm(norm, fine)
    return fine.transpose(1, 2) if slip == "rows and columns swapped" else fine


def check_patch_expanding(build_: Callable[[int, int, int], nn.Module]) -> None:
    """Fail unless each token becomes its own scale x scale square, in the published order.

    Swin-Unet, section 3.4.

    Args:
        build_: (dim, out_dim, scale) -> a module with (B, H, W, dim) -> (B, scale*H, scale*W, out_dim).
    """

    def make(case: Image) -> nn.Module:
        return build(EXPANDING, build_, case.C, case.out, case.size)

    judge_module(EXPANDING, make, EXPANDINGS, map_forward(EXPANDING), expand_by_loops)


# ---- common -----------------------------------------------------------------------------------------------------


def find_linear(lesson: Lesson, module: nn.Module, inside: int, out: int) -> list[tuple[Tensor, Tensor]]:
    """The one linear layer of this shape, or Wrong."""
    found = [m for _, m in linears(module)]
    fits = [weights(m) for m in found if (m.in_features, m.out_features) == (inside, out)]
    if len(fits) != 1:
        shapes = ", ".join(f"Linear({m.in_features}, {m.out_features})" for m in found) or "no linear layer"
        raise Wrong(lesson, f"{type(module).__name__} holds {shapes}; expected one Linear({inside}, {out}).")
    return fits


def map_forward(lesson: Lesson) -> Callable[[nn.Module, Image], Tensor]:
    """Call a module on a map (B, H, W, C)."""
    return lambda module, case: as_tensor(lesson, call(lesson, module, random((case.B, case.H, case.W, case.C))))


def judge_module(lesson: Lesson, make: Callable, cases: list, forward: Callable, oracle: Callable) -> None:
    """`judge` a module that is built once for each case, with random weights, in eval mode."""

    @cache
    def module(case: Image) -> nn.Module:
        return fill(make(case)).eval()

    def student(case: Image) -> Tensor:
        with torch.no_grad():
            return forward(module(case), case)

    def oracle_or_none(case: Image, slip: str) -> Tensor | None:
        try:
            return oracle(module(case), case, slip)
        except Wrong:
            if not slip:
                raise
            return None  # the layers of this slip are not there

    judge(lesson, student, cases, oracle_or_none, describe_token)
    B, H, W, C = cases[4][:4]
    check_gradients(lesson, module(cases[4]), random((B, C, H, W) if lesson is EMBED else (B, H, W, C)))


def describe_token(case: Image, got: Tensor, want: Tensor) -> str:
    b, r, c, _ = first_difference(got, want)
    return f"{case}: token ({r}, {c}) of image {b} is {versus(got[b, r, c], want[b, r, c])}."
