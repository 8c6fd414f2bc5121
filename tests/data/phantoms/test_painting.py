"""A painted slice has the HU of a chest, and shows the same chest at every height and resolution."""

from functools import cache

import numpy as np
import pytest

from lungseg.data.phantoms.anatomy import sample_thorax
from lungseg.data.phantoms.painting import AIR, CORTEX, FAT, MUSCLE, paint_bone, paint_thorax, paint_tube
from lungseg.data.phantoms.raster import Grid

GRID = Grid((180, 180), 2.0, (0.0, 6.0))


@cache
def thorax(seed=0):
    return sample_thorax(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("z", [-20.0, 50.0, 100.0, 160.0, 300.0])
def test_any_height_gives_finite_hu_between_air_and_bone(seed, z):
    image = paint_thorax(thorax(seed), GRID, z)
    assert image.shape == GRID.shape and image.dtype == np.float32
    assert np.isfinite(image).all() and image.min() >= AIR - 60 and image.max() <= CORTEX


@pytest.mark.parametrize("seed", range(3))
def test_a_chest_slice_holds_air_lung_fat_muscle_and_bone(seed):
    image = paint_thorax(thorax(seed), GRID, 90.0)
    body = image[20:-60, 40:-40]

    def share(low, high):
        return ((body > low) & (body < high)).mean()

    assert image[0, 0] == AIR
    assert 0.2 < share(-950, -760) < 0.8, "lung"
    assert share(FAT - 30, FAT + 30) > 0.03, "fat"
    assert share(MUSCLE - 30, MUSCLE + 30) > 0.03, "muscle"
    assert share(300, 700) > 0.005, "bone"


def test_little_changes_a_millimetre_further_down():
    for z in (60.0, 100.0, 140.0):
        one, near, far = (paint_thorax(thorax(), GRID, z + dz) for dz in (0.0, 1.0, 25.0))
        assert np.corrcoef(one.ravel(), near.ravel())[0, 1] > 0.98
        assert np.corrcoef(one.ravel(), near.ravel())[0, 1] > np.corrcoef(one.ravel(), far.ravel())[0, 1]


def test_coarse_pixels_are_the_mean_of_the_fine_ones():
    coarse = paint_thorax(thorax(), GRID, 90.0)
    fine = paint_thorax(thorax(), Grid((720, 720), 0.5, (0.0, 6.0)), 90.0)
    mean = fine.reshape(180, 4, 180, 4).mean((1, 3))
    assert np.abs(coarse - mean).mean() < 12  # HU
    assert np.corrcoef(coarse.ravel(), mean.ravel())[0, 1] > 0.995


def test_a_small_grid_shows_a_part_of_the_same_chest():
    whole = paint_thorax(thorax(), GRID, 90.0)
    x, y = GRID.x[0, 60:100], GRID.y[50:80, 0]
    part = paint_thorax(thorax(), Grid((30, 40), 2.0, (x.mean().item(), y.mean().item())), 90.0)
    assert np.abs(part - whole[50:80, 60:100]).max() < 2  # HU: rounding of the positions


def test_a_tube_across_the_slice_is_a_disc():
    image = np.zeros((200, 200), np.float32)
    grid = Grid((200, 200), 0.25)
    paint_tube(image, grid, 0.0, (3, -4, -50), (3, -4, 50), 8.0, 1.0)
    assert image.sum() * 0.25**2 == pytest.approx(np.pi * 64, rel=0.005)
    centre = (image * grid.x).sum() / image.sum(), (image * grid.y).sum() / image.sum()
    assert centre == pytest.approx((3, -4), abs=0.02)
    paint_tube(image, grid, 80.0, (3, -4, -50), (3, -4, 50), 8.0, 99.0)
    assert image.max() == 1  # this slice is below it


def test_a_bone_has_marrow_in_a_shell():
    image = np.zeros((100, 100), np.float32)
    paint_bone(image, Grid((100, 100), 0.5), (0.0, 0.0), (15.0, 10.0), 2.0, shell=2.0, marrow=100.0)
    assert image[50, 50] == 100 and image.max() == CORTEX - 100
    assert (image > 0).sum() * 0.25 == pytest.approx(np.pi * 150, rel=0.05)
