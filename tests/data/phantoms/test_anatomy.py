"""The synthetic chest: plausible, reproducible, and its distances are distances."""

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import label

from lungseg.data.phantoms.anatomy import AIRWAYS, GREAT_VESSELS, sample_points_in_lung, sample_thorax
from lungseg.data.phantoms.raster import Grid

GRID = Grid((180, 180), 2.0)


@cache
def thorax(seed=0):
    return sample_thorax(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_there_are_two_lungs_in_the_middle_of_the_chest(seed):
    inside = thorax(seed).lung_distance(GRID.x, GRID.y, 100.0) < 0
    parts, _ = label(inside)
    areas = np.sort(np.bincount(parts.ravel())[1:])[::-1] * GRID.spacing**2 / 100  # cm^2
    assert (areas[:2] > 60).all() and areas[2:].sum() < 5
    assert (areas[:2] < 200).all()


def test_there_is_no_lung_far_below_the_diaphragm():
    for z in (300.0, 400.0, 600.0):
        assert not (thorax().lung_distance(GRID.x, GRID.y, z) < 0).any()


def test_distances_agree_with_the_distance_to_the_nearest_border_pixel():
    from scipy.ndimage import distance_transform_edt

    fine = Grid((360, 360), 1.0)
    d = thorax().lung_distance(fine.x, fine.y, 100.0)
    true = np.where(d < 0, -distance_transform_edt(d < 0), distance_transform_edt(d >= 0))
    near = np.abs(true) < 8
    assert np.abs(d - true)[near].mean() < 1.0  # first order, and the reference is off by half a pixel


def test_neighbouring_heights_have_neighbouring_shapes():
    for z in range(40, 180, 20):
        one, other = (thorax().lung_distance(GRID.x, GRID.y, z + dz) < 0 for dz in (0.0, 1.0))
        assert (one != other).mean() < 0.01


@pytest.mark.parametrize("side", [-1, 1])
def test_points_in_a_lung_are_in_that_lung(side):
    points = sample_points_in_lung(thorax(), np.random.default_rng(0), 500, side, depth=3.0)
    assert points.shape == (500, 3)
    assert (np.sign(points[:, 0]) == side).all()
    assert (thorax().lung_distance(*points.T) < -3).all()


def test_clearance_never_exceeds_the_distance_to_the_pleura_or_a_great_vessel():
    points = np.random.default_rng(0).uniform((-120, -90, 40), (120, 90, 170), (300, 3))
    room = thorax().clearance(points)
    assert (room <= -thorax().lung_distance(*points.T) + 1e-9).all()
    for start, stop, radius in GREAT_VESSELS + AIRWAYS:
        middle = (np.array(start) + stop) / 2
        assert (room <= np.linalg.norm(points - middle, axis=1) - radius).all()


def test_vessels_stay_in_the_lung_or_at_its_root():
    rods = thorax().vessels
    d = thorax().lung_distance(*rods.stop.T)
    assert (d < 0).mean() > 0.97
    assert thorax().vessel_clearance(rods.start[5], thicker=0.0) <= 0
    assert np.isinf(thorax().vessel_clearance(rods.start[5], thicker=100.0))


def test_the_same_seed_draws_the_same_patient():
    one, other = (sample_thorax(np.random.default_rng(3)) for _ in range(2))
    for field in one.__dataclass_fields__:
        if field == "vessels":
            np.testing.assert_array_equal(one.vessels.start, other.vessels.start)
        else:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_the_back_of_the_lung_is_denser():
    hu = thorax().lung_hu(GRID.x, GRID.y, 100.0)
    assert hu.shape == GRID.shape and hu.dtype == np.float32
    assert hu[130].mean() > hu[50].mean()


def test_the_texture_equals_the_plain_sum_of_its_waves():
    t, (x, y, z) = thorax(), (13.0, -21.0, 77.0)
    point = Grid((1, 1), 1.0, (x, y))
    waves = sum(a * np.cos(kx * x + ky * y + kz * z + phase) for kx, ky, kz, phase, a in t.waves)
    assert t.lung_hu(point.x, point.y, z)[0, 0] == pytest.approx(t.lung + t.dependent * y + waves, abs=0.05)
