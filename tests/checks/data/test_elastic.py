"""The check of the elastic displacement accepts other smoothings; mutants_data.py holds the wrong ones."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lungseg.checks.data.elastic import check_elastic_displacement
from lungseg.checks.lessons import Wrong
from lungseg.data.elastic import elastic_displacement


def simard(shape, *, alpha, sigma, rng):
    """The paper's recipe as written: a number per pixel, and a full-size Gaussian filter."""
    field = gaussian_filter(rng.uniform(-1, 1, (2, *shape)), (0, sigma, sigma))
    return alpha * field / np.sqrt((field**2).mean((1, 2), keepdims=True))


def of_tensors(shape, *, alpha, sigma, rng):
    return torch.from_numpy(simard(shape, alpha=alpha, sigma=sigma, rng=rng))


def of_normal_noise(shape, *, alpha, sigma, rng):
    field = np.stack([gaussian_filter(rng.normal(size=shape), sigma, mode="constant") for _ in range(2)])
    return alpha * field / np.sqrt((field**2).mean((1, 2), keepdims=True))


@pytest.mark.parametrize("sound", [elastic_displacement, simard, of_tensors, of_normal_noise])
def test_the_check_of_the_field_accepts(sound):
    check_elastic_displacement(sound)


def smooths_across_the_two_axes(shape, *, alpha, sigma, rng):
    field = gaussian_filter(rng.uniform(-1, 1, (2, *shape)), sigma)
    return alpha * field / np.sqrt((field**2).mean((1, 2), keepdims=True))


def adds_a_fold(shape, *, alpha, sigma, rng):
    field = simard(shape, alpha=alpha, sigma=sigma, rng=rng)
    if alpha >= 0.25:  # where one pixel changes neither strength nor smoothness by much
        field[0, 10, 10] += 1.2  # one row's step beyond the next row
    return field


@pytest.mark.parametrize("broken, message", [(smooths_across_the_two_axes, "move alike"), (adds_a_fold, "folds")])
def test_the_check_of_the_field_rejects(broken, message):
    with pytest.raises(Wrong, match=message):
        check_elastic_displacement(broken)
