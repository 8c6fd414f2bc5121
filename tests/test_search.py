"""Where lesions are searched: the body with all that lies at its edge, whatever of it the slice shows."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.phantoms.scene import phantom_patient
from lungseg.lungs import lung_mask
from lungseg.search import MARGIN, patient_mask, search_mask, widened

ROW, COLUMN = np.ogrid[:160, :200]


def disc(row, column, rows, columns):
    return ((ROW - row) / rows) ** 2 + ((COLUMN - column) / columns) ** 2 <= 1


def chest(lung=-850.0):
    """(160, 200) HU: an ellipse of tissue with two lungs in noisy air, on a table; and the ellipse."""
    hu = np.random.default_rng(0).normal(-1000, 12, (160, 200))
    body = disc(75, 100, 60, 80)
    hu[body] = 40
    for column in (65, 135):
        hu[disc(75, column, 40, 28)] = lung
    hu[150:153] = 200  # the table
    return hu, body


def test_the_body_with_its_lungs_is_kept_and_air_and_table_are_not():
    hu, body = chest()
    mask = patient_mask(hu)
    assert not mask[~body].any() and widened(mask)[body].all() and (body & ~mask).sum() < 0.005 * body.sum()


@given(angle=st.floats(0, 2 * np.pi), lesion=st.sampled_from([-650.0, -300.0, 40.0]), radius=st.integers(2, 6))
def test_a_lesion_at_the_edge_of_the_body_is_kept(angle, lesion, radius):
    hu, body = chest()
    row, column = 75 + 60 * np.sin(angle), 100 + 80 * np.cos(angle)
    place = disc(row, column, radius, radius)
    hu[place & ~body] = lesion  # it bulges out of the skin, further than any lesion does
    assert widened(patient_mask(hu))[place].all()


@given(top=st.integers(0, 100), left=st.integers(0, 140), side=st.integers(24, 60))
def test_a_crop_that_cuts_the_lungs_keeps_what_the_whole_slice_keeps(top, left, side):
    hu, body = chest()
    crop = np.s_[top : top + side, left : left + side]
    margin = widened(patient_mask(hu[crop]))
    assert margin[body[crop]].all()


def test_a_crop_without_air_around_the_patient_is_searched_as_a_whole():
    assert patient_mask(np.full((9, 7), -850)).all()
    assert widened(patient_mask(np.random.default_rng(1).integers(-1000, 400, (30, 20)))).all()
    assert not patient_mask(np.full((9, 7), -1000)).any()


def test_no_nodule_of_a_phantom_lies_outside_but_half_of_a_slice_does():
    for slice_ in phantom_patient(np.random.default_rng(2), num_slices=2, size=128):
        mask = patient_mask(slice_.hu)
        assert mask[slice_.target > 0].all() and 0.2 < mask.mean() < 0.7


def test_search_mask_names_the_place():
    hu, body = chest()
    assert search_mask("all", hu) is None
    volume, mask = np.stack([hu, np.full_like(hu, -1000), hu]), patient_mask(hu)
    assert np.array_equal(search_mask("body", volume), np.stack([mask, mask & False, mask]))
    assert np.array_equal(search_mask("body", hu), mask)
    lungs = search_mask("lungs", volume, (np.nan, 1.5, 1.5))
    assert np.array_equal(lungs, lung_mask(volume, (np.nan, 1.5, 1.5))) and 0 < lungs.sum() < body.sum()


def test_lungs_that_cannot_be_found_are_refused():
    hu = np.full((2, 20, 20), 40)
    for spacing_mm in (None, (1.0, np.nan, 1.0)):
        with pytest.raises(ValueError, match="--search lungs needs the size of a pixel. Add spacing_mm"):
            search_mask("lungs", hu, spacing_mm)
    with pytest.raises(ValueError, match="there is no lung in this volume. Give whole slices, or --search body"):
        search_mask("lungs", hu, (1.0, 1.0, 1.0))
    assert not search_mask("lungs", hu[0], (1.0, 1.0)).any()  # a slice below the lungs


def test_the_margin_lies_within_slices():
    mask = np.zeros((3, 30, 40), bool)
    mask[1, 10, 20] = True
    expected = np.zeros_like(mask)
    expected[1, 10 - MARGIN : 11 + MARGIN, 20 - MARGIN : 21 + MARGIN] = True
    assert np.array_equal(widened(mask), expected)
