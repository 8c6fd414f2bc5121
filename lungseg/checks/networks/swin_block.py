"""Checks of the Swin block and of a stage of such blocks, computed by loops with the student's own weights.

The block is judged without any roll: each token attends to the tokens of its own cell of the shifted grid, which is
what the paper's Figure 2 shows. Slips are computed by saying which tokens attend to each other instead.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, close, fill, random
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.blocks import PROJECTED, RESIDUALS, WEIGHED, block_by_formula, find_layers, judge_block
from lungseg.checks.networks.layers_of import Projections, find_bias_table, layer_norm
from lungseg.checks.networks.self_attention import heads_by_loops

SWIN = Lesson(
    "SwinBlock",
    "SwinBlock(dim, num_heads, window_size, shift_size): module(x (B, H, W, dim)) -> (B, H, W, dim), with two "
    "LayerNorm, a window attention (qkv, proj, relative_position_bias_table) and an MLP dim -> 4 dim -> dim",
    "x' = window_attention(norm1(x)) + x, then mlp(norm2(x')) + x'; a token attends to the image tokens of its own "
    "cell of the grid shifted by shift_size, and stays where it is (Swin Transformer, equation 3).",
    "docs/nn/swin_unet.md",
    {
        **RESIDUALS,
        "no mask": "no mask is used in shifted windows: tokens from opposite borders attend to each other.",
        "shift not undone": "the map is not rolled back: tokens end up in other places.",
        "shifted twice": "the map is rolled the same way again instead of back.",
        "shift ignored": "the windows are not shifted.",
        "roll the other way": "the map is rolled by +shift_size; the first rows and columns must leave.",
        "always half a window": "the shift is half a window, whatever shift_size says.",
        "mask of the first map": "the mask of the first map is kept for maps of other sides: it belongs to one size.",
        "padding attended": "tokens attend to padding: the mask must keep it apart.",
        "padding attended in regular windows": "tokens attend to padding where there is no shift: a padded map needs "
        "a mask there too.",
        "padding normalised": "the map is padded before norm1; padding then attends as LayerNorm's bias. Pad after it.",
        "roll before padding": "rolled first and padded afterwards. Pad first, roll after.",
        "bias of key - query": "the relative position bias is that of key - query: the index is transposed.",
        "bias forgotten": "the relative position bias is not added.",
        **PROJECTED,
        **WEIGHED,
    },
)
STAGE = Lesson(
    "swin_stage",
    "swin_stage(dim, depth, num_heads, window_size) -> module(x (B, H, W, dim)) -> (B, H, W, dim)",
    "blocks alternate: the first has regular windows, the second is shifted by half a window, and so on, each with "
    "weights of its own; so information crosses the borders of windows.",
    "docs/nn/swin_unet.md",
    {
        "never shifted": "no block is shifted: tokens never see beyond their own window.",
        "always shifted": "every block is shifted: two blocks see no more than one.",
        "shifted first": "the first block is shifted; blocks 0, 2, ... have regular windows.",
        "weights shared": "the blocks are one and the same module: each needs weights of its own.",
        "number of blocks": "the stage must have `depth` blocks.",
        "half rounded up": "half of an odd window is rounded up; it is window_size // 2.",
    },
)


Token = tuple[int, int, int, int]  # row and column on the padded map, row and column after the roll


class Map(NamedTuple):
    """One case of a Swin block: sides in tokens, larger than a window, so that the shift applies to both."""

    B: int
    H: int
    W: int
    heads: int
    d: int
    ws: int
    shift: int

    def __str__(self) -> str:
        shift = f", shift_size {self.shift}" if self.shift else ""
        return f"{self.B} map(s) of {self.H} x {self.W} tokens, {self.heads} head(s), window_size {self.ws}{shift}"


MAPS = [Map(*c) for c in [
    (1, 4, 4, 1, 3, 2, 0), (1, 4, 4, 1, 3, 2, 1), (1, 4, 6, 2, 2, 2, 1), (2, 6, 4, 2, 2, 2, 1), (1, 6, 6, 1, 3, 3, 1),
    (1, 3, 4, 1, 3, 2, 0), (1, 3, 5, 1, 3, 2, 1), (1, 5, 8, 2, 2, 3, 1), (1, 8, 8, 1, 3, 4, 2),
    (1, 6, 6, 1, 3, 3, 2)]]  # fmt: skip


def check_swin_block(build_: Callable[..., nn.Module]) -> None:
    """Fail unless each token attends to the image tokens of its own cell of the shifted grid, whatever the map's size.

    Args:
        build_: (dim, num_heads, window_size, shift_size) -> a module (B, H, W, dim) -> (B, H, W, dim).
    """

    def forward(module: nn.Module, case: Map, slip: str) -> Tensor | None:
        if slip == "always half a window" and case.shift:
            case = case._replace(shift=case.ws // 2)
        dim = case.heads * case.d
        layers, x = find_layers(SWIN, module, dim), random((case.B, case.H, case.W, dim)).double()
        table = find_bias_table(SWIN, module, case.ws, case.heads)
        if slip.startswith("padding") and not (case.H % case.ws or case.W % case.ws):
            slip = ""
        pad = layer_norm(layers.norm1, torch.zeros(dim).double()) if slip == "padding normalised" else None
        return block_by_formula(
            x,
            layers,
            lambda y: torch.stack([attend_in_cells(i, layers.attention, table, case, slip, pad) for i in y]),
            slip,
        )

    def make(case: Map) -> nn.Module:
        return build(SWIN, build_, case.heads * case.d, case.heads, case.ws, case.shift)

    judge_block(SWIN, make, MAPS, lambda c: random((c.B, c.H, c.W, c.heads * c.d)), forward)
    first, second = Map(1, 4, 6, 1, 3, 2, 1), Map(1, 6, 4, 1, 3, 2, 1)
    block, x = fill(make(first)).eval(), random((1, 6, 4, 3))
    with torch.no_grad():
        want = as_tensor(SWIN, call(SWIN, fill(make(second)).eval(), x))
        call(SWIN, block, random((1, 4, 6, 3)))
        if not close(as_tensor(SWIN, call(SWIN, block, x)), want):
            raise Wrong(SWIN, f"{second}: another result after a map of 4 x 6.", slip="mask of the first map")


def attend_in_cells(x: Tensor, p: Projections, table: Tensor, case: Map, slip: str, padding: Tensor | None) -> Tensor:
    """Window attention of one normalised map (H, W, C), cell by cell of the shifted grid, without a roll."""
    ws, C = case.ws, x.shape[2]
    rows, cols = -(-case.H // ws) * ws, -(-case.W // ws) * ws
    padded = torch.zeros(rows, cols, C, dtype=torch.double)
    if padding is not None:
        padded[:] = padding
    padded[: case.H, : case.W] = x
    result = torch.zeros_like(padded)
    for window in windows_of(case, slip):
        for cell in cells_of(window, case, slip):
            tokens = torch.stack([padded[r, c] for r, c, _, _ in cell])
            bias = torch.stack([torch.stack([table[row_of(a, b, ws, slip)] for b in cell], 1) for a in cell], 1)
            bias = torch.zeros_like(bias) if slip == "bias forgotten" else bias  # (heads, n, n)
            mixed = heads_by_loops(tokens, p, case.heads, bias, slip if slip in PROJECTED or slip in WEIGHED else "")
            assert mixed is not None  # none of these slips is impossible here
            for (r, c, _, _), token in zip(cell, mixed, strict=True):
                result[r, c] = token
    if slip in ("shift not undone", "shifted twice"):
        times = 1 if slip == "shift not undone" else 2
        result = result.roll((-times * case.shift, -times * case.shift), (0, 1))
    return result[: case.H, : case.W]


def windows_of(case: Map, slip: str) -> list[list[Token]]:
    """The tokens that lie in one window after the roll."""
    ws, s = case.ws, 0 if slip == "shift ignored" else case.shift
    s = -s if slip == "roll the other way" else s
    rows, cols = -(-case.H // ws) * ws, -(-case.W // ws) * ws
    windows: dict[tuple[int, int], list[Token]] = {}
    for r in range(rows):
        for c in range(cols):
            y, x = (r - s) % rows, (c - s) % cols
            if slip == "roll before padding" and r < case.H and c < case.W:
                y, x = (r - s) % case.H, (c - s) % case.W
            windows.setdefault((y // ws, x // ws), []).append((r, c, y, x))
    return list(windows.values())


def cells_of(window: list[Token], case: Map, slip: str) -> list[list[Token]]:
    """A window's tokens in groups that attend to each other."""
    s, rows, cols = case.shift, -(-case.H // case.ws) * case.ws, -(-case.W // case.ws) * case.ws
    cells: dict[tuple, list[Token]] = {}
    for token in window:
        r, c, y, x = token
        wrapped: tuple = (s and y >= rows - s, s and x >= cols - s)
        padding: tuple = (r >= case.H or c >= case.W,)
        if slip == "roll the other way":  # with the mask of the right roll
            padding = ((y + s) % rows >= case.H or (x + s) % cols >= case.W,)
        if slip in ("padding attended", "padding normalised"):
            padding = ()
        if slip == "padding attended in regular windows" and not s:
            padding = ()
        key = {"shift ignored": padding, "no mask": ()}.get(slip, wrapped + padding)
        cells.setdefault(key, []).append(token)
    return list(cells.values())


def row_of(query: Token, key: Token, ws: int, slip: str) -> int:
    """The row of the bias table for two tokens, from their places in the window."""
    dr, dc = query[2] % ws - key[2] % ws, query[3] % ws - key[3] % ws
    dr, dc = (-dr, -dc) if slip == "bias of key - query" else (dr, dc)
    return (dr + ws - 1) * (2 * ws - 1) + dc + ws - 1


# ---- a stage --------------------------------------------------------------------------------------------------------


def check_swin_stage(swin_stage: Callable[[int, int, int, int], nn.Module]) -> None:
    """Fail unless a stage has `depth` blocks, regular and shifted in turn, so that each token sees what that implies.

    Args:
        swin_stage: (dim, depth, num_heads, window_size) -> a module (B, H, W, dim) -> (B, H, W, dim).
    """
    dim = 4
    for depth, ws in ((1, 4), (2, 4), (3, 4), (2, 3)):
        side = 2 * ws
        stage = call(STAGE, swin_stage, dim, depth, 1, ws)
        if not isinstance(stage, nn.Module):
            raise Wrong(STAGE, f"the result is a {type(stage).__name__}, expected a module, such as nn.Sequential.")
        norms = [m for m in stage.modules() if isinstance(m, nn.LayerNorm)]
        if len(norms) != 2 * depth:
            slip = "weights shared" if len(norms) == 2 and len(list(stage._modules)) == depth else "number of blocks"
            raise Wrong(
                STAGE,
                f"depth {depth}: the stage has {len(norms)} LayerNorms, expected {2 * depth}, two per block.",
                slip=slip,
            )
        seen = what_each_token_sees(fill(stage).double().eval(), side, dim)
        expected = reach([ws // 2 * (i % 2) for i in range(depth)], side, ws)
        if seen != expected:
            token = next(t for t in expected if seen[t] != expected[t])
            extra, missing = sorted(seen[token] - expected[token]), sorted(expected[token] - seen[token])
            raise Wrong(
                STAGE,
                f"depth {depth}, window_size {ws}, {side} x {side} map: token {token} must see "
                f"{len(expected[token])} tokens and sees {len(seen[token])}; missing {missing[:4]}, too many "
                f"{extra[:4]}.",
                slip=slip_of_stage(swin_stage, dim, side, ws),
            )


Place = tuple[int, int]


def what_each_token_sees(stage: nn.Module, side: int, dim: int) -> dict[Place, set[Place]]:
    """By gradients: which input tokens each output token depends on."""
    x = random((1, side, side, dim)).double().requires_grad_()
    y = as_tensor_with_gradient(call(STAGE, stage, x))
    seen = {}
    for r in range(side):
        for c in range(side):
            (grad,) = torch.autograd.grad((y[0, r, c] * random((dim,), 1)).sum(), x, retain_graph=True)
            seen[r, c] = {(int(i), int(j)) for i, j in grad[0].abs().sum(-1).nonzero()}
    return seen


def as_tensor_with_gradient(y: Tensor) -> Tensor:
    if not isinstance(y, Tensor) or not y.requires_grad:
        raise Wrong(STAGE, "the result has no gradient: is there a detach() or no_grad()?")
    return y


def reach(shifts: list[int], side: int, ws: int) -> dict[Place, set[Place]]:
    """Which tokens each one sees through blocks with these shifts, block by block."""
    places = [(r, c) for r in range(side) for c in range(side)]
    seen: dict[Place, set[Place]] = {p: {p} for p in places}
    for shift in shifts:
        cell = {(r, c): ((r - shift) // ws, (c - shift) // ws) for r, c in places}
        seen = {p: {s for q in places if cell[q] == cell[p] for s in seen[q]} for p in places}
    return seen


def slip_of_stage(swin_stage: Callable, dim: int, side: int, ws: int) -> str:
    """Which order of shifts explains what the tokens of two blocks see."""
    seen = what_each_token_sees(fill(call(STAGE, swin_stage, dim, 3, 1, ws)).double().eval(), side, dim)
    half = ws // 2
    orders = {"half rounded up": [0, ws - half, 0]} if ws % 2 else {}
    orders |= {"never shifted": [0, 0, 0], "always shifted": [half] * 3, "shifted first": [half, 0, half]}
    return next((slip for slip, shifts in orders.items() if reach(shifts, side, ws) == seen), "")
