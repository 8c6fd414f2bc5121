"""The checks of the mask and the index accept every right way; mutants_networks.py holds the wrong ones."""

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.masks import Map, both_padding, check_shifted_window_mask, mask_by_cells
from lungseg.nn.windows import shifted_window_mask, window_partition


def one_region_of_padding(height, width, ws, shift):
    """A right mask: all padding attends to all padding, wherever the roll put it."""
    row = torch.arange(height + -height % ws).roll(-shift)[:, None]
    col = torch.arange(width + -width % ws).roll(-shift)[None, :]
    region = 2 * (row < shift) + 1 * (col < shift)
    region = torch.where((row >= height) | (col >= width), 4, region)
    region = window_partition(region[None, :, :, None], ws).flatten(1)
    return region[:, :, None] == region[:, None, :]


def test_ours_passes():
    check_shifted_window_mask(shifted_window_mask)


def test_padding_may_be_one_region():
    check_shifted_window_mask(one_region_of_padding)


def test_padding_may_attend_to_itself_only():
    def mask(height, width, ws, shift):
        padding = (~one_region_of_padding(height, width, ws, shift).diagonal(dim1=1, dim2=2)) & False
        both = both_padding(Map(height, width, ws, shift)) & ~torch.eye(ws * ws, dtype=torch.bool)
        return shifted_window_mask(height, width, ws, shift) & ~both | padding[:, :, None]

    check_shifted_window_mask(mask)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.data())
def test_the_oracle_agrees_with_our_mask_on_any_map(height, width, ws, data):
    case = Map(height, width, ws, data.draw(st.integers(0, ws - 1)))
    assert torch.equal(mask_by_cells(case), shifted_window_mask(*case) | both_padding(case))


def test_the_counterexample_is_between_image_tokens_where_there_is_one():
    """Padding is treated wrongly too, on a smaller map: a student looks at two tokens first."""

    def mask(height, width, ws, shift):
        return torch.ones_like(shifted_window_mask(height, width, ws, shift))

    with pytest.raises(Wrong) as wrong:
        check_shifted_window_mask(mask)
    assert "pad" not in wrong.value.what and "pad" not in wrong.value.numbers
    assert "window 0 holds the map tokens 5 6 / 1 2" in str(wrong.value)


def test_the_picture_holds_the_window_and_both_masks():
    with pytest.raises(Wrong) as wrong:
        check_shifted_window_mask(lambda h, w, ws, s: ~shifted_window_mask(h, w, ws, s))
    kind, want, got, tokens = wrong.value.picture
    assert kind == "mask" and want.shape == got.shape == (4, 4) and tokens == [["5", "6"], ["1", "2"]]
