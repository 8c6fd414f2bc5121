"""Checks of windows, the shifted-window mask and the relative position index. Swin Transformer, section 3.2.

The oracles use plain integers and the grid of the un-rolled image; they share no code with `lungseg.nn`.
"""

from collections.abc import Callable

import torch
from hypothesis import given, strategies as st
from torch import Tensor

from lungseg.checks.running import learner_settings


@st.composite
def window_cases(draw) -> tuple[int, int, int, int]:
    """(height, width, window_size, shift_size) in tokens; window_size need not divide the sides."""
    ws = draw(st.integers(1, 5))
    return draw(st.integers(1, 12)), draw(st.integers(1, 12)), ws, draw(st.integers(0, ws - 1))


def shifted_grid_cells(height: int, width: int, ws: int, shift: int | tuple[int, int]) -> list[list[tuple]]:
    """For each window of the rolled map, where each token came from: (cell row, cell column, is padding).

    The grid lies on the padded map and its lines pass through (shift, shift). Rolling moves row `shift` to
    row 0, so row r of the rolled map was row (r + shift) mod H' before. A pair shifts rows and columns differently.
    """
    down, across = shift if isinstance(shift, tuple) else (shift, shift)
    rows, cols = -(-height // ws) * ws, -(-width // ws) * ws  # sides of the padded map
    windows = []
    for top in range(0, rows, ws):
        for left in range(0, cols, ws):
            window = []
            for r in range(top, top + ws):
                for c in range(left, left + ws):
                    row, col = (r + down) % rows, (c + across) % cols
                    window.append(((row - down) // ws, (col - across) // ws, row >= height or col >= width))
            windows.append(window)
    return windows


def check_shifted_window_mask(make_mask: Callable[..., Tensor], *, max_examples: int = 100) -> None:
    """Fail unless two tokens may attend exactly when one cell of the shifted grid holds both.

    That is Figure 2 of the Swin paper, said of the image before any roll. So it also checks that
    "pad, roll, cut, mask" gives the same attention as really moving the windows.

    Args:
        make_mask: (height, width, window_size, shift_size) -> bool (nW, N, N), as
            `lungseg.nn.windows.shifted_window_mask`.
    """

    @learner_settings(max_examples)
    @given(case=window_cases())
    def property_holds(case):
        height, width, ws, shift = case
        cells = shifted_grid_cells(height, width, ws, shift)
        mask = make_mask(height, width, ws, shift)
        expected_shape = (len(cells), ws * ws, ws * ws)
        assert mask.dtype == torch.bool, f"dtype is {mask.dtype}, expected torch.bool (True = may attend)"
        assert mask.shape == expected_shape, f"shape is {tuple(mask.shape)}, not {expected_shape}"
        assert mask.any(dim=-1).all(), "some token may attend to no token at all: its softmax would be NaN"
        for w, (window, allowed) in enumerate(zip(cells, mask.tolist(), strict=True)):
            for i, a in enumerate(window):
                for j, b in enumerate(window):
                    assert allowed[i][j] == (a == b), (
                        f"window {w}: token {i} is from grid cell {a[:2]}{' (padding)' * a[2]}, token {j} from "
                        f"{b[:2]}{' (padding)' * b[2]}, but the mask says may_attend={allowed[i][j]}"
                    )

    property_holds()


def check_window_round_trip(partition: Callable, reverse: Callable, *, max_examples: int = 100) -> None:
    """Fail unless windows are cut in reading order, image by image, and `reverse` undoes `partition`.

    Args:
        partition: (x (B, H, W, C), window_size) -> (B*nW, ws, ws, C).
        reverse: (windows, height, width) -> (B, H, W, C).
    """

    @learner_settings(max_examples)
    @given(
        B=st.integers(1, 3), rows=st.integers(1, 3), cols=st.integers(1, 3), ws=st.integers(1, 4), C=st.integers(1, 3)
    )
    def property_holds(B, rows, cols, ws, C):
        H, W = rows * ws, cols * ws
        x = torch.arange(B * H * W * C).reshape(B, H, W, C)  # every element is different
        windows = partition(x, ws)
        expected_shape = (B * rows * cols, ws, ws, C)
        assert windows.shape == expected_shape, f"shape is {tuple(windows.shape)}, not {expected_shape}"
        for w in range(len(windows)):
            b, top, left = w // (rows * cols), w // cols % rows * ws, w % cols * ws
            expected = x[b, top : top + ws, left : left + ws]
            assert torch.equal(windows[w], expected), (
                f"window {w} should be image {b}, rows {top}:{top + ws}, columns {left}:{left + ws}, but is not"
            )
        assert torch.equal(reverse(windows, H, W), x), "reverse(partition(x)) is not x"

    property_holds()


def check_relative_position_index(make_index: Callable[[int], Tensor], *, max_examples: int = 8) -> None:
    """Fail unless pairs with the same offset, and only those, share a row of the bias table.

    The row is also the published one, (dr + ws - 1)(2 ws - 1) + dc + ws - 1, so that weights can be exchanged.

    Args:
        make_index: window_size -> int64 (N, N) with N = window_size**2.
    """

    @learner_settings(max_examples)
    @given(ws=st.integers(1, 7))
    def property_holds(ws):
        index = make_index(ws)
        N = ws * ws
        assert index.shape == (N, N), f"shape is {tuple(index.shape)}, not {(N, N)}"
        for i, row in enumerate(index.tolist()):
            for j, value in enumerate(row):
                dr, dc = i // ws - j // ws, i % ws - j % ws
                expected = (dr + ws - 1) * (2 * ws - 1) + dc + ws - 1
                assert value == expected, (
                    f"window_size {ws}: token {i} lies {dr} rows and {dc} columns from token {j}, "
                    f"which is row {expected} of the table, but the index says {value}"
                )

    property_holds()
