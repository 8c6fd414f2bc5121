"""Nodules: exact targets, five appearances, nothing painted outside their reach."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.data.phantoms.nodules import KINDS, Nodule, sample_nodule
from lungseg.data.phantoms.raster import Grid

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 10_000)


def lesion_share(nodule, grid, z, n=12):
    """(H, W) share of each pixel inside the nodule, from n x n points everywhere: slow and plain."""
    steps = ((np.arange(n) + 0.5) / n - 0.5) * grid.spacing
    y, x = (grid.y + steps).reshape(-1, 1), (grid.x.T + steps).reshape(1, -1)
    inside = nodule.distance(x, y, z) <= 0
    H, W = grid.shape
    return inside.reshape(H, n, W, n).mean((1, 3))


@given(
    diameter=st.floats(3, 30),
    spacing=st.floats(0.4, 2),
    height=st.floats(-0.9, 0.9),
    x=st.floats(-1, 1),
    y=st.floats(-1, 1),
)
def test_a_cut_sphere_has_the_area_of_its_disc(diameter, spacing, height, x, y):
    z = height * diameter / 2
    radius = np.sqrt((diameter / 2) ** 2 - z**2)  # of the disc, in mm
    side = int(34 / spacing) + 3
    target = Nodule("solid", (x, y, 0.0), diameter, 0.0).paint(
        np.zeros((side, side), np.float32), Grid((side, side), spacing), z
    )
    error = target.sum() - np.pi * (radius / spacing) ** 2  # pixels
    assert abs(error) < 1 + 0.2 * 2 * np.pi * radius / spacing


@settings(max_examples=50)
@given(kind=kinds, seed=seeds, diameter=st.floats(3, 30), spacing=st.floats(0.5, 3), height=st.floats(-0.5, 0.5))
def test_a_pixel_is_lesion_where_at_least_half_of_its_area_is(kind, seed, diameter, spacing, height):
    nodule = sample_nodule(np.random.default_rng(seed), kind, (0.3, -0.2, 5.0), diameter)
    grid = Grid((36, 36), spacing, (2.0, 1.0))
    z = 5.0 + height * diameter
    share = lesion_share(nodule, grid, z)
    target = nodule.paint(np.zeros(grid.shape, np.float32), grid, z)
    assert target[share > 0.62].all() and not target[share < 0.38].any()  # 5 x 5 points are exact to about 0.1


@given(kind=kinds, seed=seeds, diameter=st.floats(3, 30), height=st.floats(-1.2, 1.2))
def test_nothing_is_painted_outside_its_reach(kind, seed, diameter, height):
    nodule = sample_nodule(np.random.default_rng(seed), kind, (1.0, 2.0, 0.0), diameter)
    grid = Grid((60, 60), 1.5)
    image = np.full(grid.shape, -860.0, np.float32)
    target = nodule.paint(image, grid, height * diameter)
    far = np.hypot(grid.x - 1, grid.y - 2) > nodule.reach + grid.spacing
    assert (image[far] == -860).all() and not target[far].any()
    assert (image >= -860).all()
    if abs(height * diameter) > nodule.reach:
        assert not target.any()


def test_a_limit_cuts_the_lesion_and_the_paint():
    nodule = Nodule("pleural", (0.0, 0.0, 0.0), 20.0, 30.0)
    grid = Grid((60, 60), 0.5)
    image = np.full(grid.shape, -860.0, np.float32)
    target = nodule.paint(image, grid, 0.0, limit=lambda x, y, z: x - 2.0)  # nothing right of x = 2 mm
    right = (grid.x > 2.3) & np.ones_like(grid.y, bool)
    assert not target[right].any() and (image[right] == -860).all()
    assert target[~right].sum() > 0.5 * np.pi * 100 / 0.25


def test_ground_glass_is_a_haze_that_hides_no_vessel():
    rng = np.random.default_rng(0)
    image = np.full((64, 64), -860.0, np.float32)
    image[:, 32] = 40.0  # a vessel
    nodule = sample_nodule(rng, "ground-glass", (0.0, 0.0, 0.0), 20.0)
    target = nodule.paint(image, Grid((64, 64), 0.7), 0.0)
    assert (image[:, 32] == 40).all()
    lung = target & (image < 0)
    assert np.median(image[lung]) == pytest.approx(nodule.hu) and -700 < nodule.hu < -400


def test_a_part_solid_nodule_is_a_haze_with_a_core():
    nodule = sample_nodule(np.random.default_rng(0), "part-solid", (0.0, 0.0, 0.0), 20.0)
    image = np.full((64, 64), -860.0, np.float32)
    target = nodule.paint(image, Grid((64, 64), 0.7), 0.0)
    core, haze = (target & (image > -100)).sum(), (target & (image < -400)).sum()
    assert core > 20 and haze > core
    assert not (~target & (image > -300)).any()  # the core is inside the lesion


def test_spikes_lengthen_the_border():
    def border_per_area(kind):
        values = []
        for seed in range(12):
            nodule = sample_nodule(np.random.default_rng(seed), kind, (0.0, 0.0, 0.0), 20.0)
            target = nodule.paint(np.zeros((120, 120), np.float32), Grid((120, 120), 0.4), 0.0)
            border = (target[1:] != target[:-1]).sum() + (target[:, 1:] != target[:, :-1]).sum()
            values.append(border**2 / target.sum())  # 16 for a disc, more for a star
        return np.mean(values)

    assert border_per_area("spiculated") > 1.4 * border_per_area("solid")


@pytest.mark.parametrize("kind", KINDS)
def test_the_diameter_is_that_of_the_sphere_with_the_same_area_on_average(kind):
    areas = []
    for seed in range(30):
        nodule = sample_nodule(np.random.default_rng(seed), kind, (0.0, 0.0, 0.0), 16.0)
        areas.append(nodule.paint(np.zeros((90, 90), np.float32), Grid((90, 90), 0.5), 0.0).sum() * 0.25)
    assert 2 * np.sqrt(np.mean(areas) / np.pi) == pytest.approx(16, rel=0.15)


def test_the_same_seed_draws_the_same_nodule():
    one, same, other = (sample_nodule(np.random.default_rng(s), "spiculated", (0, 0, 0), 9.0) for s in (1, 1, 2))
    assert one == same != other
