"""Grids, distances, coverage, rods and noise, each checked against brute force or a formula."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.phantoms.raster import (
    Grid,
    Rods,
    capsule_distance,
    coverage,
    ellipse_distance,
    ellipsoid_distance,
    paint,
    reconstruction_noise,
    rods_coverage,
)

grids = st.builds(
    Grid,
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    spacing=st.floats(0.3, 4),
    centre=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
)


@given(grid=grids)
def test_a_grid_is_centred_and_evenly_spaced(grid):
    assert (grid.y.size, grid.x.size) == grid.shape
    np.testing.assert_allclose([grid.x.mean(), grid.y.mean()], grid.centre, atol=1e-3)
    np.testing.assert_allclose(np.diff(grid.x[0]), grid.spacing, atol=1e-4)
    np.testing.assert_allclose(grid.corner, [grid.x[0, 0], grid.y[0, 0]], atol=1e-4)


@given(grid=grids, x=st.floats(-90, 90), y=st.floats(-90, 90), reach=st.floats(0, 60))
def test_a_box_holds_every_pixel_that_the_shape_touches_and_few_others(grid, x, y, reach):
    rows, columns = grid.box((x - reach, y - reach), (x + reach, y + reach))
    for found, axis, middle in ((rows, grid.y.ravel(), y), (columns, grid.x.ravel(), x)):
        touched = np.abs(axis - middle) < reach + 0.49 * grid.spacing
        inside = np.zeros(axis.size, bool)
        inside[found] = True
        assert (inside | ~touched).all()
        assert (np.abs(axis - middle)[inside] < reach + 2.01 * grid.spacing).all()


@given(edge=st.floats(-3, 3), spacing=st.floats(0.2, 2))
def test_coverage_is_exact_for_a_straight_edge(edge, spacing):
    # everything left of `edge` is inside; the pixel spans -spacing/2 .. spacing/2
    expected = np.clip((edge + spacing / 2) / spacing, 0, 1)
    np.testing.assert_allclose(coverage(np.array(0.0 - edge), spacing), expected, atol=1e-9)


def test_paint_mixes_in_proportion_and_in_place():
    image = np.full(3, -1000.0)
    paint(image, np.array([0.0, 0.25, 1.0]), 200.0)
    assert image.tolist() == [-1000, -700, 200]


points = st.tuples(*[st.floats(-30, 30)] * 3)


@given(point=points, centre=points, radius=st.floats(1, 20))
def test_distances_to_circles_and_spheres_are_exact(point, centre, radius):
    offset = np.subtract(point, centre)
    flat, full = np.hypot(*offset[:2]), np.linalg.norm(offset)
    if flat > 0.1:  # at the centre itself the direction of the gradient is undefined
        d = ellipse_distance(np.array(point[0]), np.array(point[1]), centre[:2], (radius, radius))
        np.testing.assert_allclose(d, flat - radius, atol=1e-3)
    if full > 0.1:
        d = ellipsoid_distance(*map(np.array, point), centre, (radius, radius, radius))
        np.testing.assert_allclose(d, full - radius, atol=1e-3)


@given(angle=st.floats(0, 6.28), a=st.floats(5, 40), b=st.floats(5, 40), power=st.floats(2, 3))
def test_the_distance_to_a_super_ellipse_is_zero_on_it_and_right_near_it(angle, a, b, power):
    on = np.array([np.cos(angle), np.sin(angle)])
    on = np.sign(on) * np.abs(on) ** (2 / power) * (a, b)  # |x/a|^p + |y/b|^p = 1
    assert abs(ellipse_distance(*on, (0, 0), (a, b), power)) < 1e-6
    inside, outside = (ellipse_distance(*(on * s), (0, 0), (a, b), power) for s in (0.99, 1.01))
    assert inside < 0 < outside
    ring = np.linspace(0, 2 * np.pi, 4000)
    ring = np.stack([np.cos(ring), np.sin(ring)])
    ring = np.sign(ring) * np.abs(ring) ** (2 / power) * np.array([[a], [b]])
    true = np.hypot(*(ring - 1.01 * on[:, None])).min()
    assert abs(outside - true) < 0.1 * true + 1e-2


@given(start=points, stop=points, point=points, r0=st.floats(0.1, 5), r1=st.floats(0.1, 5))
def test_the_distance_to_a_rod_is_that_to_its_nearest_point(start, stop, point, r0, r1):
    start, stop = np.array(start), np.array(stop)
    t = np.linspace(0, 1, 2001)
    axis = start + t[:, None] * (stop - start)
    to_axis = np.linalg.norm(axis - point, axis=1)
    nearest = to_axis.argmin()
    expected = to_axis[nearest] - (r0 + t[nearest] * (r1 - r0))
    assert capsule_distance(*point, start, stop, (r0, r1)) == pytest.approx(expected, abs=0.05)


@given(grid=grids, z=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_many_rods_at_once_equal_one_rod_at_a_time(grid, z, seed):
    rng = np.random.default_rng(seed)
    start = rng.uniform((-90, -90, -5), (90, 90, 5), (40, 3))
    rods = Rods(start, start + rng.normal(0, 6, (40, 3)), rng.uniform(0.3, 4, 40), rng.uniform(0.3, 4, 40))
    expected, x, y = np.zeros(grid.shape), grid.x.astype(float), grid.y.astype(float)
    for a, b, r0, r1 in zip(rods.start, rods.stop, rods.r0, rods.r1, strict=True):
        alpha = coverage(capsule_distance(x, y, z, a, b, (r0, r1)), grid.spacing)
        expected = np.maximum(expected, alpha)
    np.testing.assert_allclose(rods_coverage(grid, z, rods), expected, atol=2e-3)


def test_no_rods_cover_nothing():
    nothing = Rods(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    assert not rods_coverage(Grid((4, 5), 1.0), 0.0, nothing).any()


def test_joined_rods_keep_their_order():
    one = Rods(np.ones((2, 3)), np.ones((2, 3)), np.ones(2), np.array([1.0, 2.0]))
    assert Rods.join([one, one]).r1.tolist() == [1, 2, 1, 2]


def test_noise_has_the_requested_strength_less_the_frequencies_that_the_pixels_cannot_show():
    for spacing in (0.3, 1.0, 2.0):
        noise = reconstruction_noise((400, 400), spacing, hu=30, peak=0.2, rng=np.random.default_rng(0))
        f = np.linspace(-3, 3, 1201)
        f2 = f[:, None] ** 2 + f[None, :] ** 2
        power = np.sqrt(f2) * np.exp(-f2 / (2 * 0.2**2))  # its peak along f is at 0.2 cycles per mm
        shown = np.abs(f) <= 0.5 / spacing  # up to the Nyquist frequency
        share = power[shown][:, shown].sum() / power.sum()
        assert noise.std() == pytest.approx(30 * np.sqrt(share), rel=0.03)
        assert abs(noise.mean()) < 0.1  # the ramp filter lets no constant through


def test_noise_is_strongest_at_its_peak_frequency():
    n, spacing = 512, 0.5
    noise = reconstruction_noise((n, n), spacing, hu=20, peak=0.25, rng=np.random.default_rng(1))
    power = np.abs(np.fft.fft2(noise)) ** 2
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(n, spacing), np.fft.fftfreq(n, spacing)))
    rings = [power[(f >= low) & (f < low + 0.02)].mean() for low in np.arange(0, 0.8, 0.02)]
    assert np.argmax(rings) * 0.02 + 0.01 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (64, 33), (97, 101)])
def test_noise_has_any_shape(shape):
    noise = reconstruction_noise(shape, 0.7, hu=20, peak=0.2, rng=np.random.default_rng(0))
    assert noise.shape == shape and noise.dtype == np.float32
