"""Windows: the shared checks on ours, examples small enough for a blackboard, and the errors."""

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.checks.networks.masks import check_shifted_window_mask
from lungseg.checks.networks.position_index import check_relative_position_index
from lungseg.checks.networks.windows import check_window_round_trip
from lungseg.nn.windows import (
    cyclic_shift,
    pad_to_multiple,
    relative_position_index,
    shifted_window_mask,
    window_partition,
    window_reverse,
)


def shifted_grid_cells(height: int, width: int, ws: int, shift: int | tuple[int, int]) -> list[list[tuple]]:
    """Find where each token in each window of the rolled map came from: (cell row, cell column, is padding).

    The grid covers the padded map, and its lines pass through (shift, shift). Rolling moves row `shift` to
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


def test_the_mask_is_the_shifted_grid():
    check_shifted_window_mask(shifted_window_mask)


@given(H=st.integers(1, 9), W=st.integers(1, 9), ws=st.integers(1, 4), data=st.data())
def test_the_mask_is_the_shifted_grid_also_where_rows_and_columns_shift_differently(H, W, ws, data):
    shift = data.draw(st.tuples(st.integers(0, ws - 1), st.integers(0, ws - 1)))
    cells = shifted_grid_cells(H, W, ws, shift)
    mask = shifted_window_mask(H, W, ws, shift)
    assert mask.tolist() == [[[a == b for b in window] for a in window] for window in cells]


def test_the_mask_of_a_strip_shifted_along_its_length_by_hand():
    """Two rows of six, windows of two, rolled by one column: the last window holds columns 5 and 0."""
    mask = shifted_window_mask(2, 6, 2, (0, 1))
    assert mask[:2].all()
    left, right = [True, False, True, False], [False, True, False, True]
    assert mask[2].tolist() == [left, right, left, right]


def test_windows_are_cut_in_reading_order_and_put_back():
    check_window_round_trip(window_partition, window_reverse)


def test_equal_offsets_share_a_bias():
    check_relative_position_index(relative_position_index)


@given(H=st.integers(1, 9), W=st.integers(1, 9), shift=st.integers(0, 8))
def test_roll_and_unroll_is_the_identity(H, W, shift):
    x = torch.arange(H * W).reshape(1, H, W, 1)
    assert torch.equal(cyclic_shift(x, (shift, 0)), x.roll(-shift, 1))
    assert torch.equal(cyclic_shift(x, (0, shift)), x.roll(-shift, 2))
    assert torch.equal(cyclic_shift(cyclic_shift(x, shift), -shift), x)
    assert cyclic_shift(x, shift)[0, 0, 0, 0] == x[0, shift % H, shift % W, 0]


@given(H=st.integers(1, 9), W=st.integers(1, 9), multiple=st.integers(1, 6))
def test_padding_adds_zeros_at_the_bottom_and_right_only(H, W, multiple):
    x = torch.ones(2, H, W, 3)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[1] % multiple == padded.shape[2] % multiple == 0
    assert padded.shape[1] - H < multiple and padded.shape[2] - W < multiple
    assert torch.equal(padded[:, :H, :W], x)
    assert padded.sum() == x.sum()


def test_the_mask_of_a_two_by_two_map_by_hand():
    """Rolled by one, the four tokens come from the four corners of the image: nobody meets anybody."""
    assert torch.equal(shifted_window_mask(2, 2, 2, 1), torch.eye(4, dtype=torch.bool)[None])


def test_the_mask_of_a_row_of_three_by_hand():
    """Three tokens and one of padding, windows of two, no shift; rows below are padding too."""
    mask = shifted_window_mask(1, 3, 2, 0)  # the map is padded to 2 x 4: two windows
    image, padding = [True, True, False, False], [False, False, True, True]
    assert mask[0].tolist() == [image, image, padding, padding]
    image, padding = [True, False, False, False], [False, True, True, True]
    assert mask[1].tolist() == [image, padding, padding, padding]


def test_the_index_of_a_two_by_two_window_by_hand():
    """Figure: nine offsets, 4 is "the token itself"."""
    assert relative_position_index(2).tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_mask_and_index_are_built_where_asked():
    assert shifted_window_mask(5, 5, 4, 2, device=torch.device("meta")).is_meta
    assert relative_position_index(4, device=torch.device("meta")).is_meta


def test_a_window_that_does_not_divide_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"window_size=7 does not divide the 30 x 32 .* Pad it to 35 x 35"):
        window_partition(torch.zeros(1, 30, 32, 3), 7)


def test_windows_that_do_not_tile_are_an_error():
    with pytest.raises(ValueError, match=r"3 windows of 2 x 2 tokens do not tile maps of 4 x 4"):
        window_reverse(torch.zeros(3, 2, 2, 1), 4, 4)


@pytest.mark.parametrize("shift", [-1, 4, 7])
def test_a_shift_outside_the_window_is_an_error(shift):
    with pytest.raises(ValueError, match=rf"shift_size must be in \[0, window_size=4\), got {shift}"):
        shifted_window_mask(8, 8, 4, shift)
    for pair in [(shift, 1), (1, shift)]:
        with pytest.raises(ValueError, match=rf"in \[0, window_size=4\), got \({pair[0]}, {pair[1]}\)"):
            shifted_window_mask(8, 8, 4, pair)


def test_an_empty_map_is_an_error():
    with pytest.raises(ValueError, match="at least one token, got 0 x 8"):
        shifted_window_mask(0, 8, 4, 0)
