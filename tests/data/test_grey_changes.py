"""Blur, gamma and noise: what they do to grey values, and that 0 (or 1) is off."""

from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.grey_changes import add_noise, bend_grey, blur


def random_image(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@given(sigma=st.floats(0.8, 3), seed=st.integers(0, 99))
def test_a_blurred_step_is_the_integral_of_the_gaussian(sigma, seed):
    step = np.zeros((5, 64), np.float32)
    step[:, 32:] = 1
    expected = [0.5 * (1 + erf((x - 31.5) / (sigma * sqrt(2)))) for x in range(20, 44)]
    np.testing.assert_allclose(blur(step, sigma)[2, 20:44], expected, atol=0.03)
    image = random_image(12, 9, seed=seed)
    smooth = blur(image, sigma)
    assert smooth.dtype == np.float32 and image.min() <= smooth.min() and smooth.max() <= image.max() + 1e-6


def test_neighbouring_slices_are_blurred_each_for_itself():
    stack = random_image(3, 10, 12)
    np.testing.assert_array_equal(blur(stack, 1.0), np.stack([blur(image, 1.0) for image in stack]))


@given(gamma=st.floats(0.2, 5))
def test_gamma_keeps_black_white_and_the_order_of_greys(gamma):
    grey = np.linspace(0, 1, 40, dtype=np.float32)[None]
    bent = bend_grey(grey, gamma)
    np.testing.assert_allclose(bent, grey.astype(float) ** gamma, rtol=1e-4)
    assert bent[0, 0] == 0 and bent[0, -1] == 1 and (np.diff(bent) >= 0).all() and bent.dtype == np.float32


@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_noise_has_its_strength_in_every_pixel_and_depends_on_the_generator_only(sigma):
    image = np.full((100, 100), 0.5, np.float32)
    noisy, again = (add_noise(image, sigma, np.random.default_rng(3)) for _ in range(2))
    assert noisy.std() == pytest.approx(sigma, rel=0.03) and abs(noisy.mean() - 0.5) < sigma / 20
    assert abs(np.corrcoef(noisy[:, 1:].ravel(), noisy[:, :-1].ravel())[0, 1]) < 0.04  # no pixel knows its neighbour
    np.testing.assert_array_equal(noisy, again)
    assert (image == 0.5).all() and noisy.dtype == np.float32
    dark = add_noise(np.zeros((50, 50), np.float32), sigma, np.random.default_rng(0))
    assert dark.min() == 0 and 0 < dark.max() < 6 * sigma


def test_zero_blur_gamma_one_and_zero_noise_change_nothing():
    image = random_image(7, 8)
    for same in (blur(image, 0), bend_grey(image, 1), add_noise(image, 0, np.random.default_rng(0))):
        np.testing.assert_array_equal(same, image)
