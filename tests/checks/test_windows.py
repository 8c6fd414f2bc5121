"""A check must be seen to fail: each of these mistakes is one that students, or libraries, have made."""

import pytest
import torch

from lungseg.checks.windows import check_relative_position_index, check_shifted_window_mask, check_window_round_trip
from lungseg.nn.windows import (
    relative_position_index,
    shifted_window_mask,
    window_partition,
    window_reverse,
)


def forgets_columns(height, width, ws, shift):
    return mask_of_rolled(height, width, ws, shift, region=lambda row, col, pad: 2 * (row < shift) + pad)


def forgets_padding(height, width, ws, shift):
    return mask_of_rolled(height, width, ws, shift, region=lambda row, col, pad: 2 * (row < shift) + (col < shift))


def rolls_before_padding(height, width, ws, shift):
    """The published detection code's order: real rows are carried past the padding."""
    row, col = torch.arange(height).roll(-shift), torch.arange(width).roll(-shift)
    region = 2 * (row < shift)[:, None] + 1 * (col < shift)[None, :]  # (H, W)
    padded = torch.full((height + -height % ws, width + -width % ws), -1)
    padded[:height, :width] = region
    return mask_of_regions(padded, ws)


def rolls_the_other_way(height, width, ws, shift):
    return mask_of_rolled(height, width, ws, shift, direction=1)


def minus_hundred_instead_of_exclusion(height, width, ws, shift):
    return torch.where(shifted_window_mask(height, width, ws, shift), 0.0, -100.0)


def allows_everything(height, width, ws, shift):
    return torch.ones_like(shifted_window_mask(height, width, ws, shift))


def says_blocked_for_allowed(height, width, ws, shift):
    return ~shifted_window_mask(height, width, ws, shift)


def refuses_padding_every_token(height, width, ws, shift):
    """Rows of padding without any True: their softmax is NaN, and NaN spreads."""
    real = torch.zeros(height + -height % ws, width + -width % ws)
    real[:height, :width] = 1
    real = window_partition(real.roll((-shift, -shift), (0, 1))[None, :, :, None], ws).flatten(1).bool()
    return shifted_window_mask(height, width, ws, shift) & real[:, None, :]


def mask_of_rolled(height, width, ws, shift, *, direction=-1, region=None):
    row = torch.arange(height + -height % ws).roll(direction * shift)[:, None]
    col = torch.arange(width + -width % ws).roll(direction * shift)[None, :]
    pad = (row >= height) | (col >= width)
    region = region or (lambda row, col, pad: 4 * (row < shift) + 2 * (col < shift) + pad)
    return mask_of_regions((region(row, col, pad) + 0 * row + 0 * col).long(), ws)


def mask_of_regions(region, ws):
    region = window_partition(region[None, :, :, None], ws).flatten(1)
    return region[:, :, None] == region[:, None, :]


def test_the_check_accepts_our_mask():
    check_shifted_window_mask(shifted_window_mask)


@pytest.mark.parametrize(
    "broken",
    [
        forgets_columns,
        forgets_padding,
        rolls_before_padding,
        rolls_the_other_way,
        minus_hundred_instead_of_exclusion,
        allows_everything,
        says_blocked_for_allowed,
        refuses_padding_every_token,
    ],
)
def test_the_check_rejects(broken):
    with pytest.raises(AssertionError, match="may.attend"):
        check_shifted_window_mask(broken)


def partition_by_columns(x, ws):
    return window_partition(x.transpose(1, 2), ws).transpose(1, 2)


def partition_without_transpose(x, ws):
    return x.reshape(-1, ws, ws, x.shape[3])


def reverse_swaps_sides(windows, height, width):
    return window_reverse(windows, width, height).reshape(-1, height, width, windows.shape[3])


def test_the_check_accepts_our_round_trip():
    check_window_round_trip(window_partition, window_reverse)


@pytest.mark.parametrize(
    ("partition", "reverse"),
    [
        (partition_by_columns, window_reverse),
        (partition_without_transpose, lambda w, h, wd: w.reshape(-1, h, wd, w.shape[3])),
        (window_partition, reverse_swaps_sides),
    ],
)
def test_the_check_rejects_a_wrong_round_trip(partition, reverse):
    with pytest.raises(AssertionError, match="should be image|is not x"):
        check_window_round_trip(partition, reverse)


def test_the_check_accepts_our_index():
    check_relative_position_index(relative_position_index)


@pytest.mark.parametrize(
    "broken",
    [
        lambda ws: relative_position_index(ws).T,
        lambda ws: relative_position_index(ws) - int(ws > 1),
        lambda ws: torch.arange(ws**4).reshape(ws**2, ws**2),
    ],
    ids=["key minus query", "off by one", "one row per pair"],
)
def test_the_check_rejects_a_wrong_index(broken):
    with pytest.raises(AssertionError, match="of the table"):
        check_relative_position_index(broken)
