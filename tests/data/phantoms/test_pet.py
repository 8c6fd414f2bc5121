"""PET of phantoms: the blur keeps activity and knows no border, counts are Poisson, small lesions fade as they must."""

from functools import cache
from math import erf, exp, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.data.phantoms import pet
from lungseg.data.phantoms.raster import Grid
from lungseg.data.phantoms.scene import MIDDLE, phantom_crops, sample_scene

SIGMA = 6 / 2.354820045


@cache
def scene(kind="part-solid"):
    return sample_scene(np.random.default_rng(3), kinds=(kind,), diameter_mm=(12, 12))


def ball(radius, suv=1.0):
    """In place of a chest: a ball around (0, 0, 0) in nothing."""

    def paint(thorax, nodules, tracer, grid, z):
        r = np.sqrt(grid.x**2 + grid.y**2 + z**2)
        return (suv * np.clip(0.5 + (radius - r) / grid.spacing, 0, 1)).astype(np.float32)

    return paint


def blurred(grid, z=0.0, **options):
    return pet.blurred_activity(None, (), None, grid, z, **options)


@pytest.mark.parametrize("diameter", [3, 5, 8, 12, 20])
def test_the_middle_of_a_ball_keeps_the_share_that_integration_gives(monkeypatch, diameter):
    """Kessler et al. 1984: a ball of radius R under a Gaussian, with t = R / sigma."""
    monkeypatch.setattr(pet, "paint_activity", ball(diameter / 2))
    t = diameter / 2 / SIGMA
    expected = erf(t / sqrt(2)) - sqrt(2 / pi) * t * exp(-(t**2) / 2)
    assert blurred(Grid((5, 5), 0.5))[2, 2] == pytest.approx(expected, abs=0.025)


@settings(max_examples=6)
@given(
    place=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    fwhm=st.floats(4, 9),
    spacing=st.sampled_from([0.7, 1.0]),
)
def test_a_points_activity_is_kept_up_to_the_border_and_beyond(place, fwhm, spacing):
    def point(thorax, nodules, tracer, grid, z):
        near = (np.abs(grid.x - place[0] * spacing) < 1e-3) & (np.abs(grid.y - place[1] * spacing) < 1e-3)
        return near.astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pet, "paint_activity", point)
        middle = 10 * spacing
        picture = blurred(Grid((21, 21), spacing, (middle, middle)), fwhm_mm=fwhm)
        room = blurred(Grid((101, 101), spacing, (middle, middle)), fwhm_mm=fwhm)
    assert room.sum() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(room[40:61, 40:61], picture, atol=1e-6)  # the border of a picture is no wall
    y, x = (np.indices(room.shape) - 40).reshape(2, -1)
    weights = room.ravel()
    for axis, at in ((x, place[0]), (y, place[1])):
        assert weights @ axis == pytest.approx(at, abs=0.05)
        assert sqrt(weights @ (axis - at) ** 2) * spacing == pytest.approx(fwhm / 2.3548, rel=0.02)


def test_activity_of_the_slices_above_and_below_reaches_into_a_slice(monkeypatch):
    monkeypatch.setattr(pet, "paint_activity", ball(4))
    heights = np.arange(-16, 17.0)
    values = np.array([blurred(Grid((1, 1), 1.0), z)[0, 0] for z in heights])
    across = blurred(Grid((1, 33), 1.0))[0]
    np.testing.assert_allclose(values, across, atol=0.02)  # a ball looks the same along each axis


def test_a_piece_of_a_chest_equals_the_same_piece_of_a_larger_picture():
    s = scene()
    tracer = pet.sample_tracer(np.random.default_rng(0), s.nodules)
    (x, y, z), n = s.nodules[0].centre, 4
    small = pet.blurred_activity(s.thorax, s.nodules, tracer, Grid((16, 16), 1.5, (x, y)), z)
    large = pet.blurred_activity(s.thorax, s.nodules, tracer, Grid((24, 24), 1.5, (x, y)), z)
    np.testing.assert_allclose(large[n:-n, n:-n], small, atol=0.01)


def test_each_tissue_has_its_activity():
    s = scene()
    grid, tracer = Grid((120, 120), 3.0, MIDDLE), pet.Tracer(nodules=(4.0,), heart=7.0)
    image = pet.paint_activity(s.thorax, s.nodules, tracer, grid, s.thorax.dome + 20)
    assert image.min() == 0 and image[0, 0] == 0 and image.max() <= 7.001 and image.dtype == np.float32
    for suv in (pet.BODY, pet.LUNG, pet.BLOOD, pet.LIVER, 7.0):
        assert (np.abs(image - suv) < 0.01).sum() > 30, suv
    x, y, z = s.nodules[0].centre
    close = Grid((41, 41), 0.5, (x, y))
    with_nodule = pet.paint_activity(s.thorax, s.nodules, tracer, close, z)
    core = [s.nodules[0].core[i] for i in (0, 1)]
    assert with_nodule[round(20 + core[1] / 0.5), round(20 + core[0] / 0.5)] == pytest.approx(4, abs=0.05)
    assert (np.abs(with_nodule - 4 * pet.HALO) < 0.01).sum() > 50
    assert (with_nodule >= pet.paint_activity(s.thorax, (), pet.Tracer((), 7.0), close, z) - 1e-5).mean() > 0.9


def test_uptake_grows_with_solid_matter_and_with_size():
    def mean(kind, diameter):
        nodule = sample_scene(np.random.default_rng(0), kinds=(kind,), diameter_mm=(diameter, diameter)).nodules
        return np.mean([pet.sample_tracer(np.random.default_rng(s), nodule).nodules[0] for s in range(200)])

    assert mean("ground-glass", 10) < mean("solid", 10) < mean("solid", 20) < mean("spiculated", 20)
    assert mean("solid", 15) == pytest.approx(4 * exp(0.25**2 / 2), rel=0.05)


@given(suv=st.floats(0.1, 9), spacing=st.sampled_from([0.7, 2.0, 4.0]), counts=st.floats(1, 20))
def test_counts_have_the_mean_and_the_variance_of_poisson(suv, spacing, counts):
    drawn = pet.count_noise(np.full((100, 100), suv), spacing, np.random.default_rng(0), counts=counts)
    variance = suv / (counts * spacing**2)
    assert drawn.mean() == pytest.approx(suv, abs=5 * sqrt(variance / 1e4))
    assert drawn.var() == pytest.approx(variance, rel=0.12)
    assert np.abs(drawn * counts * spacing**2 - np.rint(drawn * counts * spacing**2)).max() < 1e-2


def test_the_same_seed_gives_the_same_pet_and_the_ct_does_not_know_of_it():
    def draw(**options):
        return phantom_crops(np.random.default_rng(4), num=2, size=16, spacing_mm=2.0, **options)

    with_pet, again, without = draw(pet=True), draw(pet=True), draw()
    for one, other, plain in zip(with_pet, again, without, strict=True):
        assert np.array_equal(one.pet, other.pet) and one.pet.shape == one.hu.shape and plain.pet is None
        assert np.array_equal(one.hu, plain.hu) and np.array_equal(one.target, plain.target)
    assert not np.array_equal(with_pet[0].pet, with_pet[1].pet)
    first, second = np.random.default_rng(4), np.random.default_rng(4)
    phantom_crops(first, num=1, size=4, spacing_mm=4.0, pet=True)
    phantom_crops(second, num=1, size=4, spacing_mm=4.0)
    assert first.random() == second.random()  # nor does the next patient
    unit = pet.pet_to_unit(np.array([0.0, 1.0, 20.0]))
    assert unit.tolist() == pytest.approx([0, 0.2, 1]) and unit.dtype == np.float32
