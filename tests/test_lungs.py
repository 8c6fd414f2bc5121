"""The lungs of drawn chests, where each part of the mask has a right answer; and the closing against one by loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.data.phantoms.scene import phantom_volume
from lungseg.lungs import close_regions, fill_holes, inner_air, keep_large, lung_mask

AIR, LUNG, TISSUE = -1000, -850, 40
MM = 2.0  # of a pixel
Y, X = np.mgrid[:96, :128]


def disc(row, column, radius):
    return (Y - row) ** 2 + (X - column) ** 2 <= radius**2


LEFT, RIGHT, TRACHEA = disc(48, 38, 20), disc(48, 90, 20), disc(30, 64, 5)  # lungs of 80 mm, a trachea of 20 mm


def chest(depth=3):
    """(D, 96, 128) HU: a body in air, two lungs, a trachea."""
    hu = np.full((96, 128), AIR, np.int16)
    hu[((Y - 48) / 42) ** 2 + ((X - 64) / 58) ** 2 <= 1] = TISSUE
    hu[LEFT | RIGHT] = LUNG
    hu[TRACHEA] = AIR
    return np.repeat(hu[None], depth, axis=0)


def test_the_mask_of_a_chest_is_its_lungs():
    mask = lung_mask(chest(), (2.5, MM, MM), closing_mm=0)
    assert mask.dtype == bool and (mask == (LEFT | RIGHT)).all()


@pytest.mark.parametrize("spacing", [(math.nan, MM, MM), (MM, MM)])
def test_a_slice_is_a_volume_of_one_and_the_distance_of_slices_is_not_used(spacing):
    hu = chest(1) if len(spacing) == 3 else chest()[0]
    assert np.array_equal(lung_mask(hu, spacing), lung_mask(chest(), (1, MM, MM))[0].reshape(hu.shape))


def test_what_lung_surrounds_belongs_to_it_and_so_does_a_nodule_at_the_pleura():
    hu, inner, pleural = chest(), disc(48, 38, 5), disc(48, 20, 5) & LEFT
    hu[:, inner | pleural] = TISSUE
    naive, mask = lung_mask(hu, (2.5, MM, MM), closing_mm=0)[1], lung_mask(hu, (2.5, MM, MM))[1]
    assert naive[inner].all() and not naive[pleural].any()
    assert mask[pleural].mean() > 0.7  # a disc on a curved side: what lies beyond the rolling disc stays outside


def test_the_two_lungs_do_not_grow_together():
    hu = chest()
    hu[:, disc(48, 64, 26) & (abs(Y - 48) < 6)] = LUNG  # each reaches to the middle
    hu[:, abs(X - 64) < 3] = TISSUE
    assert not lung_mask(hu, (2.5, MM, MM), closing_mm=20)[:, :, 62:67].any()


def test_the_air_around_the_patient_may_lead_into_the_lungs_elsewhere():
    """In 3-D one slice with a gap would join them; slice by slice only that slice suffers."""
    hu = chest(5)
    hu[0, 46:50, :30] = AIR
    mask = lung_mask(hu, (2.5, MM, MM), closing_mm=0)
    assert (mask[1:] == (LEFT | RIGHT)).all() and not mask[0, LEFT].any()


def test_a_lung_that_the_side_of_the_slice_cuts_off_is_kept_and_a_corner_of_air_is_not():
    hu = chest()[:, 10:, 19:]  # along 26 mm of a lung of 4,900 mm2
    assert (lung_mask(hu, (2.5, MM, MM), closing_mm=0) == (LEFT | RIGHT)[10:, 19:]).all()
    hu = chest()[:, 10:, 36:]  # through its middle: nothing tells it from the air around a patient
    assert (lung_mask(hu, (2.5, MM, MM), closing_mm=0) == RIGHT[10:, 36:]).all()


def test_bowel_is_too_small_and_a_volume_without_air_inside_has_no_lung():
    hu = chest()
    hu[:, disc(80, 64, 4)] = -700
    assert (lung_mask(hu, (2.5, MM, MM), closing_mm=0) == (LEFT | RIGHT)).all()
    assert not lung_mask(np.full((2, 8, 8), TISSUE), (1, 1, 1)).any()
    assert not lung_mask(np.full((2, 8, 8), AIR), (1, 1, 1)).any()


def test_a_hole_as_large_as_the_heart_stays():
    ring = disc(48, 64, 40) & ~disc(48, 64, 30)
    dot = np.zeros_like(ring)
    dot[48, 26] = True
    filled = fill_holes(ring & ~dot, largest_mm2=2000.0, pixel_mm2=1.0)
    assert np.array_equal(filled, ring)


@settings(max_examples=40)
@given(
    mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), fill=st.nothing()),  # many regions
    radius=st.sampled_from([0.0, 1.0, 1.5, 2.5]),
    pixel=st.sampled_from([(1.0, 1.0), (1.0, 0.7)]),
)
def test_the_closing_of_each_region_is_that_of_a_disc(mask, radius, pixel):
    """A pixel is closed if every disc of the radius over it touches its region: by the definition, with loops."""
    closed = close_regions(mask, radius, pixel)
    seen, expected = np.zeros_like(mask), mask.copy()
    for start in map(tuple, np.argwhere(mask)):
        if seen[start]:
            continue
        region, edge = {start}, [start]
        while edge:
            y, x = edge.pop()
            for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and mask[place] and place not in region:
                    region.add(place)
                    edge.append(place)
        for place in region:
            seen[place] = True
        if radius:
            expected |= closed_by_loops(region, mask.shape, radius, pixel)
    assert np.array_equal(closed, expected)


def closed_by_loops(region, shape, radius, pixel):
    reach = [math.ceil(radius / mm) + 1 for mm in pixel]
    steps = [
        (i, j)
        for i in range(-reach[0], reach[0] + 1)
        for j in range(-reach[1], reach[1] + 1)
        if math.hypot(i * pixel[0], j * pixel[1]) <= radius
    ]
    dilated = {(y + i, x + j) for y, x in region for i, j in steps}
    found = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        found[y, x] = all((y + i, x + j) in dilated for i, j in steps)
    return found


def test_components_are_kept_by_their_share_of_the_largest():
    mask = np.zeros((2, 3, 60), bool)
    mask[:, :, :10], mask[0, 0, 20:26], mask[0, 0, 40:45] = True, True, True  # 60, 6 and 5 voxels
    keep_large(mask)
    assert mask.sum() == 66 and not mask[0, 0, 40:45].any()


def test_a_trachea_is_dropped_for_its_thin_air_and_its_size():
    air = inner_air(chest()[0], -400, (MM, MM))
    assert not air[TRACHEA].any()
    assert inner_air(chest()[0], -400, (4 * MM, 4 * MM))[TRACHEA].all()  # as large as a lung


def test_nodules_of_a_whole_phantom_chest_are_mostly_inside():
    hu, target = phantom_volume(
        np.random.default_rng(1), shape=(6, 128, 128), spacing_mm=(4.0, 2.8, 2.8), num_nodules=2, kinds=("solid",)
    )
    mask = lung_mask(hu, (4.0, 2.8, 2.8))
    assert 0.1 < mask.mean() < 0.45 and mask[target > 0].mean() > 0.95


@pytest.mark.parametrize(
    ("hu", "spacing", "closing", "words"),
    [
        (np.zeros(4), (1.0,), 1, r"expected hu \(D, H, W\) or \(H, W\)"),
        (np.zeros((4, 4)), (1.0, 1.0, 1.0), 1, "one spacing for each axis"),
        (np.zeros((4, 4)), (1.0, math.nan), 1, "size of a pixel must be known"),
        (np.zeros((4, 4)), (1.0, 1.0), -1, "radius of at least 0"),
    ],
)
def test_what_no_mask_can_be_made_of_is_refused(hu, spacing, closing, words):
    with pytest.raises(ValueError, match=words):
        lung_mask(hu, spacing, closing_mm=closing)
