"""Checks of the shifted-window mask of Swin Transformer, section 3.2.

The oracle of the mask is the grid of Figure 2, drawn over the map before any roll: two tokens may attend to each other
when one cell of the shifted grid holds both. It needs no roll at all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, find_slip
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.windows import PAGE, Map

MASK = Lesson(
    "shifted_window_mask",
    "shifted_window_mask(height, width, window_size, shift_size) -> bool (nW, N, N), True = may attend",
    "two tokens may attend to each other only if one cell of the shifted grid holds both, and padding only to "
    "padding: the roll brings tokens from opposite borders into one window, and they are no neighbours.",
    PAGE,
    {
        "roll before padding": "rolled first and padded afterwards: real rows are then carried past the padding. Pad "
        "first, roll after.",
        "column wrap forgotten": "only wrapped rows are kept apart; the columns that wrapped around need it too.",
        "row wrap forgotten": "only wrapped columns are kept apart; the rows that wrapped around need it too.",
        "wrap forgotten": "nothing keeps apart what the roll brought together; only padding is.",
        "padding forgotten": "image tokens may attend to padding.",
        "everything allowed": "every pair may attend.",
        "inverted": "True and False are exchanged; True means that a pair may attend.",
        "roll the other way": "rolled by +shift_size; cyclic_shift rolls by -shift_size.",
        "regions rolled the other way": "the regions of the map are right, but rolled by +shift_size; it is rolled by "
        "-shift_size.",
        "borders at the front": "the regions are cut at the first `shift_size` rows and columns of the rolled map; "
        "the rows that wrapped are its last ones.",
        "shift ignored": "the mask of regular windows: the shift changes nothing in yours.",
        "windows column by column": "the windows are numbered column by column; window_partition counts row by row.",
        "additive": "a mask to be added to the logits (0 and a large negative number); here it is bool, True = may "
        "attend.",
        "row of False": "a token that may attend to none has a softmax of 0/0 = NaN: let padding attend to padding.",
    },
)
WHOLE = [(2, 4), (4, 2), (4, 4), (4, 6)]
MAPS = [
    *(Map(h, w, 2, 1) for h, w in WHOLE), Map(3, 6, 3, 1), Map(6, 6, 3, 1), Map(6, 6, 3, 2), Map(8, 8, 4, 2),
    Map(2, 4, 2, 0), Map(2, 3, 2, 0), Map(3, 2, 2, 0), Map(3, 4, 2, 1), Map(4, 3, 2, 1), Map(3, 3, 2, 1),
    Map(5, 8, 4, 2), Map(5, 7, 3, 1), Map(5, 5, 4, 3), Map(1, 5, 2, 1), Map(1, 1, 1, 0), Map(7, 4, 3, 2),
]  # fmt: skip


def tokens_of_windows(case: Map) -> list[list[tuple[int, int]]]:
    """(row, column) before the roll of each token in each window of the rolled map."""
    ws, s = case.window_size, case.shift_size
    rows, cols = -(-case.height // ws) * ws, -(-case.width // ws) * ws  # sides of the padded map
    return [
        [((r + s) % rows, (c + s) % cols) for r in range(top, top + ws) for c in range(left, left + ws)]
        for top in range(0, rows, ws)
        for left in range(0, cols, ws)
    ]


def is_padding(case: Map, token: tuple[int, int]) -> bool:
    return token[0] >= case.height or token[1] >= case.width


def cell(case: Map, token: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the cell of the shifted grid; its lines pass through (shift_size, shift_size)."""
    return (token[0] - case.shift_size) // case.window_size, (token[1] - case.shift_size) // case.window_size


def mask_by_cells(case: Map, slip: str = "") -> Tensor:
    """(nW, N, N) bool; pairs of two padding tokens are always True, because they change nothing."""
    windows, both = tokens_of_windows(case), both_padding(case)
    if slip == "everything allowed":
        return torch.ones_like(both)
    regions = [[region(case, slip, w, i, token) for i, token in enumerate(tokens)] for w, tokens in enumerate(windows)]
    number: dict = {}
    keys = torch.tensor([[number.setdefault(key, len(number)) for key in window] for window in regions])
    mask = keys[:, :, None] == keys[:, None, :]
    if slip == "inverted":
        mask = ~mask
    if slip == "windows column by column":
        nR, nC = -(-case.height // case.window_size), -(-case.width // case.window_size)
        mask = mask.unflatten(0, (nR, nC)).transpose(0, 1).flatten(0, 1)
    return mask | both


def region(case: Map, slip: str, w: int, i: int, token: tuple[int, int]) -> tuple:
    """What two tokens of a window must have in common to attend to each other."""
    ws, s, (row, col) = case.window_size, case.shift_size, token
    rows, cols = -(-case.height // ws) * ws, -(-case.width // ws) * ws
    rolled_row, rolled_col = (row - s) % rows, (col - s) % cols
    down, across = cell(case, token)
    padding = is_padding(case, token)
    if slip == "roll before padding":
        outside = rolled_row >= case.height or rolled_col >= case.width
        return (outside,) if outside else (rolled_row + s >= case.height, rolled_col + s >= case.width, False)
    if slip == "roll the other way":
        row, col = (rolled_row - s) % rows, (rolled_col - s) % cols
        return row < s, col < s, row >= case.height or col >= case.width
    if slip == "regions rolled the other way":
        there = (rolled_row - s) % rows, (rolled_col - s) % cols
        return *cell(case, there), is_padding(case, there)
    if slip == "borders at the front":
        return rolled_row < s, rolled_col < s, padding
    if slip == "shift ignored":
        return (rolled_row >= case.height or rolled_col >= case.width,)
    return {
        "column wrap forgotten": (down, padding),
        "row wrap forgotten": (across, padding),
        "wrap forgotten": (padding,),
        "padding forgotten": (down, across),
    }.get(slip, (down, across, padding))


def both_padding(case: Map) -> Tensor:
    """(nW, N, N): pairs of two padding tokens, whose answer does not matter."""
    padding = torch.tensor([[is_padding(case, t) for t in tokens] for tokens in tokens_of_windows(case)])
    return padding[:, :, None] & padding[:, None, :]


def check_shifted_window_mask(make_mask: Callable[..., Tensor]) -> None:
    """Fail unless two tokens may attend exactly when one cell of the shifted grid holds both.

    This is Figure 2 of the Swin paper, which shows the map before any roll. So the check also establishes that
    "pad, roll, cut, mask" gives the same attention as moving the windows themselves. Whether padding attends to other
    padding changes no token of the image, so it is left to you, as long as no row is all False.

    Args:
        make_mask: (height, width, window_size, shift_size) -> bool (nW, N, N), like
            `lungseg.nn.shifted_window_mask`.
    """

    def student(case: Map) -> Tensor:
        mask = as_tensor(MASK, call(MASK, make_mask, *case))
        if mask.dtype != torch.bool:
            known = mask.is_floating_point() and bool((mask <= 0).all())
            raise Wrong(
                MASK,
                f"{case}: dtype is {mask.dtype}, expected torch.bool (True = may attend).",
                slip="additive" if known else "",
            )
        both = both_padding(case)
        if mask.shape != both.shape:
            return mask
        silent = (~mask.any(-1)).nonzero().tolist()
        if silent and bool((mask | ~mask_by_cells(case) | both).all()):
            w, i = silent[0]
            raise Wrong(MASK, f"{case}: token {i} of window {w} may attend to no token at all.", slip="row of False")
        return mask | both

    wrong = []
    for case in MAPS:
        got, want = student(case), mask_by_cells(case)
        if got.shape != want.shape:
            raise Wrong(
                MASK,
                f"{case}: the mask has shape {tuple(got.shape)}, expected (nW, N, N) = {tuple(want.shape)}.",
                slip=find_slip(MASK, student, MAPS, mask_by_cells, len(MAPS)),
            )
        wrong += [(case, pair) for pair in (got != want).nonzero().tolist()[:999]]
    if wrong:  # a counterexample between two image tokens first, on the smallest map
        case, pair = min(wrong, key=lambda item: has_padding(*item))
        slip = find_slip(MASK, student, MAPS, mask_by_cells, len(MAPS))
        raise explain_pair(case, pair, student(case), slip)


def has_padding(case: Map, pair: list[int]) -> bool:
    w, i, j = pair
    tokens = tokens_of_windows(case)[w]
    return is_padding(case, tokens[i]) or is_padding(case, tokens[j])


def explain_pair(case: Map, pair: list[int], got: Tensor, slip: str) -> Wrong:
    """Which query and key, where they are on the map, in which cells, and the mask's row of that query."""
    w, i, j = pair
    tokens, want, ws = tokens_of_windows(case)[w], mask_by_cells(case), case.window_size

    def name(k: int) -> str:
        r, c = tokens[k]
        at = f"row {r}, column {c}, grid cell {cell(case, tokens[k])}"
        return f"padding ({at})" if is_padding(case, tokens[k]) else f"map token {r * case.width + c} ({at})"

    answer = {True: "may attend", False: "may not attend"}
    what = (
        f"{case}, window {w}: query {i} is {name(i)}, key {j} is {name(j)}; expected {bool(want[w, i, j])} "
        f"({answer[bool(want[w, i, j])]}), yours is {bool(got[w, i, j])}."
    )
    shown = ["pad" if is_padding(case, t) else str(t[0] * case.width + t[1]) for t in tokens]
    window = " / ".join(" ".join(shown[r * ws : (r + 1) * ws]) for r in range(ws))
    numbers = f"window {w} holds the map tokens {window} (numbered row by row from 0)\nquery {i} may attend to:"
    for title, mask in (("expected", want), ("yours", got)):
        allowed = [shown[k] for k in range(len(tokens)) if mask[w, i, k]]
        numbers += f"\n  {title:8s} {' '.join(allowed)}"
    picture = ("mask", want[w].numpy(), got[w].numpy(), [shown[r * ws : (r + 1) * ws] for r in range(ws)])
    return Wrong(MASK, what, numbers=numbers, slip=slip, picture=picture)
