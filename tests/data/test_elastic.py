"""The displacement is smooth, as strong as requested and never folds; the warp is that of scipy and torch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.ndimage import gaussian_filter1d, map_coordinates

from lungseg.checks.data.elastic import Field, check_elastic_displacement, field_of, measure
from lungseg.data.augment import Augmentation
from lungseg.data.elastic import (
    MAX_STRETCH,
    check_elastic_strength,
    elastic_displacement,
    gaussian_weights,
    largest_stretch,
    sample_at,
    smooth_noise,
    warp,
)

FIXTURE = Path(__file__).parents[1] / "fixtures/elastic/warp.pt"


def jacobian(field):
    """(H-1, W-1): how much p -> p + field[p] enlarges the square between pixels; negative where it folds."""
    down, along = np.diff(field, axis=1)[:, :, :-1], np.diff(field, axis=2)[:, :-1]
    return (1 + down[0]) * (1 + along[1]) - down[1] * along[0]


def test_the_displacement_keeps_the_promises_of_any_right_implementation():
    check_elastic_displacement(elastic_displacement)


@settings(max_examples=40)
@given(
    sides=st.tuples(st.integers(48, 80), st.integers(48, 80)),
    sigma=st.integers(2, 4),
    strength=st.integers(1, 4),
    seed=st.integers(0, 999),
)
def test_any_weak_field_is_smooth_and_of_the_given_strength(sides, sigma, strength, seed):
    case = Field(*sides, sigma * strength / 32, sigma, seed)
    field = field_of(elastic_displacement, case)
    assert np.array_equal(field, field_of(elastic_displacement, case))
    assert not np.array_equal(field, field_of(elastic_displacement, case, seed=seed + 1))
    found = measure(case, field)
    np.testing.assert_allclose(found.rms, 1, rtol=0.05)
    assert 1 / 1.5 <= found.roughness <= 1.5 and abs(found.correlation) < 0.95 and found.jacobian > 0


@pytest.mark.parametrize("side", [64, 256])
def test_the_default_strength_never_folds_and_is_reached(side):
    default = Augmentation()
    reached = 0
    for seed in range(100):
        field = elastic_displacement(
            (side, side),
            alpha=default.elastic_alpha,
            sigma=default.elastic_sigma,
            rng=np.random.default_rng(seed),
        )
        assert jacobian(field).min() > 0.25  # pixels shrink to a quarter at worst; they never vanish
        rms = np.sqrt((field**2).mean((1, 2)))
        reached += (rms > 0.999 * default.elastic_alpha).sum()
    assert reached >= 190  # of 200 axes; the others were shrunk to keep them from folding


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    sigma=st.floats(1, 40),
    strength=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_no_field_folds_however_strong_or_small(height, width, sigma, strength, seed):
    alpha = strength * sigma / 4
    field = elastic_displacement((height, width), alpha=alpha, sigma=sigma, rng=np.random.default_rng(seed))
    assert field.shape == (2, height, width) and np.isfinite(field).all()
    assert (np.sqrt((field.astype(float) ** 2).mean((1, 2))) <= alpha * (1 + 1e-4)).all()
    if min(height, width) > 1:
        assert jacobian(field.astype(float)).min() >= (1 - MAX_STRETCH) ** 2 - 1e-5


@pytest.mark.parametrize("side", [8, 64, 256])
def test_a_field_that_would_stretch_too_much_is_shrunk_just_enough(side):
    shrunk = 0
    for seed in range(30):
        field = elastic_displacement((side, side), alpha=6, sigma=24, rng=np.random.default_rng(seed))
        for axis in field:
            stretch = np.abs(np.diff(axis, axis=0)).max() + np.abs(np.diff(axis, axis=1)).max()
            assert stretch < MAX_STRETCH + 1e-4
            if np.sqrt((axis**2).mean()) < 5.99:
                shrunk += 1
                assert stretch > MAX_STRETCH - 1e-4
    assert shrunk > 0


@pytest.mark.parametrize("sigma", [4.0, 6.5, 24.0])
def test_its_covariance_is_that_of_white_noise_after_a_gaussian_filter(sigma):
    length = 60
    ours = gaussian_weights(length, sigma).astype(float)
    ours = ours @ ours.T  # (length, length): covariance along one axis; the field's is the product of both axes'
    margin = int(6 * sigma)
    pixels = np.eye(length + 2 * margin)  # one impulse per row
    theirs = gaussian_filter1d(pixels, sigma, axis=0, truncate=6, mode="constant")[margin:-margin]
    theirs = theirs @ theirs.T
    np.testing.assert_allclose(ours / ours[0, 0], theirs / theirs[0, 0], atol=3e-4)
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    np.testing.assert_allclose(ours / ours[0, 0], np.exp(-(distance**2) / (4 * sigma**2)), atol=3e-4)


def test_the_product_in_blocks_of_rows_is_the_whole_product():
    shape, sigma = (301, 170), 5.0  # several blocks, the last one smaller
    rows, cols = gaussian_weights(shape[0], sigma), gaussian_weights(shape[1], sigma)
    noise = np.random.default_rng(3).standard_normal((2, rows.shape[1], cols.shape[1]), dtype=np.float32)
    ours = smooth_noise(shape, sigma, np.random.default_rng(3))
    np.testing.assert_allclose(ours, np.einsum("hn,anm,wm->ahw", rows, noise, cols, optimize=True), atol=1e-5)


def test_the_cached_weights_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        gaussian_weights(10, 2.0)[0, 0] = 7


@given(sigma=st.floats(1, 1000))
def test_a_quarter_of_sigma_is_the_strongest_and_a_hair_more_is_refused(sigma):
    check_elastic_strength(sigma / 4, sigma)
    with pytest.raises(ValueError, match="choose 0 <= alpha <= sigma / 4"):
        check_elastic_strength(np.nextafter(sigma / 4, np.inf), sigma)


def test_above_a_quarter_of_sigma_every_field_would_have_to_be_shrunk():
    """The reason for the limit: `alpha` should state the actual strength. Without scaling, at 256 x 256 pixels:"""
    sigma, stretches = 24.0, []
    for seed in range(40):
        for axis in smooth_noise((256, 256), sigma, np.random.default_rng(seed)):
            stretches.append(largest_stretch(axis) / np.sqrt(np.mean(axis**2)))  # of a field of RMS 1

    def unshrunk(alpha):
        """Share of the axes that would keep the requested strength."""
        return np.mean(alpha * np.array(stretches) <= MAX_STRETCH)

    assert unshrunk(sigma / 8) > 0.95  # the default strength
    assert 0.05 < unshrunk(sigma / 4) < 0.5
    assert unshrunk(sigma / 3) == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"alpha": 34, "sigma": 4}, "alpha <= sigma / 4 = 1,"),
        ({"alpha": -1}, "negative"),
        ({"alpha": float("nan")}, "choose 0 <= alpha"),
        ({"sigma": 0}, "at least 1 pixel"),
        ({"sigma": float("inf")}, "at least 1 pixel"),
        ({"shape": (0, 5)}, "two sizes of at least 1 pixel"),
        ({"shape": (1, 5, 5)}, "two sizes of at least 1 pixel"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(changes, message):
    arguments = {"shape": (8, 8), "alpha": 1, "sigma": 8, "rng": np.random.default_rng(0)} | changes
    with pytest.raises(ValueError, match=message):
        elastic_displacement(**arguments)


def test_the_warp_equals_recorded_outputs_of_scipy_and_torch():
    recorded = {name: tensor.numpy() for name, tensor in torch.load(FIXTURE, weights_only=True).items()}
    image, target, displacement = recorded["image"], recorded["target"], recorded["displacement"]
    np.testing.assert_allclose(warp(image, displacement, order=1), recorded["bilinear"], atol=1e-6)
    np.testing.assert_allclose(warp(image, displacement, order=1), recorded["grid_sample"], atol=5e-6)  # in float32
    np.testing.assert_array_equal(warp(image, displacement, order=0), recorded["nearest"])
    np.testing.assert_array_equal(warp(target, displacement, order=0), recorded["target_nearest"])


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    reach=st.sampled_from([0.3, 3.0, 40.0]),
    seed=st.integers(0, 999),
)
def test_the_warp_is_scipys_with_air_around_the_image(height, width, reach, seed):
    rng = np.random.default_rng(seed)
    image, displacement = rng.random((height, width)), rng.normal(0, reach, (2, height, width))
    where = np.indices((height, width)) + displacement
    for order in (0, 1):
        theirs = map_coordinates(image, where, order=order, mode="grid-constant", cval=0)
        np.testing.assert_allclose(warp(image, displacement, order=order), theirs, atol=1e-12)


@settings(max_examples=50)
@given(shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)), order=st.sampled_from([0, 1]))
def test_a_constant_displacement_by_whole_pixels_is_a_shift(shift, order):
    image = np.random.default_rng(0).random((7, 8), dtype=np.float32)
    shifted = np.zeros_like(image)
    for row, col in np.ndindex(7, 8):
        r, c = row + shift[0], col + shift[1]
        if 0 <= r < 7 and 0 <= c < 8:
            shifted[row, col] = image[r, c]
    displacement = np.array(shift, np.float32)[:, None, None] * np.ones((2, 7, 8), np.float32)
    np.testing.assert_array_equal(warp(image, displacement, order=order), shifted)


def test_labels_and_dtypes_survive_and_the_input_is_untouched():
    rng = np.random.default_rng(0)
    displacement = elastic_displacement((40, 50), alpha=2, sigma=10, rng=rng)
    for image in (
        rng.choice(np.array([0, 3, 200], np.uint8), (40, 50)),
        rng.random((40, 50), dtype=np.float32),
    ):
        before = image.copy()
        for order in (0, 1) if image.dtype == np.float32 else (0,):
            warped = warp(image, displacement, order=order)
            assert warped.dtype == image.dtype and warped.flags.c_contiguous
            assert order == 1 or set(np.unique(warped)) <= {0, *np.unique(image)}
        np.testing.assert_array_equal(image, before)


def test_a_warp_of_mismatched_arrays_or_unknown_order_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 5\) with a displacement of shape \(2, 5, 4\)"):
        warp(np.zeros((4, 5)), np.zeros((2, 5, 4)), order=1)
    with pytest.raises(ValueError, match="expected order 0 .* got 3"):
        sample_at(np.zeros((4, 5)), np.zeros((2, 4, 5)), order=3)
