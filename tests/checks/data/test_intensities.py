"""The checks of intensities accept ours and other right code."""

import numpy as np
import pytest
import torch

from lungseg.checks.data.intensities import check_hu_to_grey, check_hu_to_unit
from lungseg.checks.lessons import Wrong
from lungseg.data.ct import hu_to_grey, hu_to_unit


def with_tensors(hu, hu_window=(-1000, 400)):
    low, high = hu_window
    return hu.float().clamp(low, high).sub(low).div(high - low)


def with_interp(hu, hu_window=(-1000, 400)):
    return np.interp(hu, hu_window, (0, 1))


@pytest.mark.parametrize("sound", [hu_to_unit, with_tensors, with_interp])
def test_the_check_of_units_accepts(sound):
    check_hu_to_unit(sound)


def rounds_half_up(hu, hu_window=(-1000, 400), bits=8):
    return (np.interp(hu, hu_window, (0, 2**bits - 1)) + 0.5).astype(f"uint{bits}")


def grey_tensors(hu, hu_window=(-1000, 400), bits=8):
    grey = (with_tensors(hu, hu_window) * (2**bits - 1)).round()
    return grey.to(torch.uint8 if bits == 8 else torch.int32)


@pytest.mark.parametrize("sound", [hu_to_grey, rounds_half_up, grey_tensors])
def test_the_check_of_grey_accepts(sound):
    check_hu_to_grey(sound)


def test_the_answer_names_the_value_the_formula_and_the_page():
    with pytest.raises(Wrong) as error:
        check_hu_to_unit(lambda hu, hu_window=(-1000, 400): hu / 400)
    assert "-1000 HU became -2.5, expected 0" in str(error.value)
    assert "docs/data/ct.md" in str(error.value)
