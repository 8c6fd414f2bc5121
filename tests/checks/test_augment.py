"""The checks accept sound augmentations, ours and other people's, and reject the mistakes people make."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from scipy.ndimage import gaussian_filter, map_coordinates, rotate

from lungseg.checks import augment as checks
from lungseg.checks.augment import check_augmentation, check_elastic_displacement
from lungseg.data.augment import Augmentation


@pytest.fixture(autouse=True)
def without_shrinking(monkeypatch):
    """A learner gets the smallest counterexample; whether there is one is known four times sooner."""
    full = checks.learner_settings
    monkeypatch.setattr(checks, "learner_settings", lambda n: settings(full(n), phases=[Phase.generate]))


def turn(array, angle, order):
    """The plain way: scipy turns one array."""
    return rotate(array, angle, reshape=False, order=order, mode="grid-constant")


def flip_and_turn(image, target, rng):
    """Sound, and shares no code with ours."""
    angle, flip = rng.uniform(-40, 40), rng.random() < 0.5
    image, target = turn(image, angle, 1), turn(target, angle, 0)
    return (image[:, ::-1].copy(), target[:, ::-1].copy()) if flip else (image, target)


def darker_and_noisy(image, target, rng):
    """Sound: no geometry at all."""
    return (0.7 * image + 0.05 * rng.random(image.shape)).astype(np.float32), target.copy()


def crop(image, target, rng):
    """Sound: a window of 24 x 24 pixels."""
    top, left = (int(rng.integers(n - 24 + 1)) for n in image.shape)
    return tuple(a[top : top + 24, left : left + 24].copy() for a in (image, target))


@pytest.mark.parametrize("sound", [flip_and_turn, darker_and_noisy, crop])
def test_the_check_accepts_other_sound_augmentations(sound):
    check_augmentation(sound)


def forgets_the_target(image, target, rng):
    return turn(image, rng.uniform(-30, 30), 1), target.copy()


def turns_each_by_its_own_angle(image, target, rng):
    return turn(image, rng.uniform(-30, 30), 1), turn(target, rng.uniform(-30, 30), 0)


def turns_the_target_the_other_way(image, target, rng):
    angle = rng.uniform(-30, 30)
    return turn(image, angle, 1), turn(target, -angle, 0)


def is_one_pixel_off(image, target, rng):
    image, target = Augmentation()(image, target, rng)
    return image, np.roll(target, 1, axis=1)


def flips_only_the_image(image, target, rng):
    return (image[::-1].copy() if rng.random() < 0.5 else image.copy()), target.copy()


@pytest.mark.parametrize(
    "broken",
    [
        forgets_the_target,
        turns_each_by_its_own_angle,
        turns_the_target_the_other_way,
        is_one_pixel_off,
        flips_only_the_image,
    ],
)
def test_the_check_rejects_two_geometries(broken):
    with pytest.raises(AssertionError, match="same geometry"):
        check_augmentation(broken)


def interpolates_the_target(image, target, rng):
    angle = rng.uniform(-30, 30)
    return turn(image, angle, 1), np.round(255 * turn(target.astype(float), angle, 1)).astype(np.uint8)


def returns_floats(image, target, rng):
    return image * 0.5, target.astype(np.float32)


def draws_from_the_global_generator(image, target, rng):
    return image * np.float32(np.random.uniform(0.8, 1.0)), target.copy()


def draws_from_the_global_generator_of_torch(image, target, rng):
    return image * float(torch.rand(())), target.copy()


def edits_in_place(image, target, rng):
    image *= rng.random(dtype=np.float32)
    return image.copy(), target.copy()


def returns_views(image, target, rng):
    return image[::-1] if rng.random() < 0.5 else image.copy(), target.copy()


def keeps_state():
    own = np.random.default_rng(0)
    return lambda image, target, rng: (image * own.random(dtype=np.float32), target.copy())


def ignores_rng(image, target, rng):
    return Augmentation()(image, target, np.random.default_rng(0))


def invents_lesions(image, target, rng):
    return image * rng.random(dtype=np.float32), np.maximum(target, image > 0.99).astype(np.uint8)


def divides_by_the_range(image, target, rng):
    image = image * rng.random(dtype=np.float32)
    with np.errstate(all="ignore"):
        return np.where(image.mean() > 0.5, image, np.float32(np.nan)), target.copy()


@pytest.mark.parametrize(
    "broken, message",
    [
        (interpolates_the_target, "only 0 and 1 are labels"),
        (returns_floats, "the target was uint8 and became float32"),
        (draws_from_the_global_generator, "a global random generator"),
        (draws_from_the_global_generator_of_torch, "a global random generator"),
        (edits_in_place, "the original image was changed"),
        (returns_views, "shares memory"),
        (keeps_state(), "keep nothing between calls"),
        (ignores_rng, "rng is not used"),
        (invents_lesions, "there was no lesion"),
        (divides_by_the_range, "NaN"),
        (lambda image, target, rng: (image[None].copy(), target[None].copy()), "should be one"),
    ],
)
def test_the_check_rejects(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_augmentation(broken)


def simard(shape, *, alpha, sigma, rng):
    """The paper's recipe as written: a number per pixel, and a full-size Gaussian filter."""
    field = gaussian_filter(rng.uniform(-1, 1, (2, *shape)), (0, sigma, sigma))
    return alpha * field / np.sqrt((field**2).mean((1, 2), keepdims=True))


def test_the_check_accepts_the_recipe_of_the_paper():
    check_elastic_displacement(simard)


def does_not_smooth(shape, *, alpha, sigma, rng):
    return rng.normal(0, alpha, (2, *shape))


def smooths_twice(shape, *, alpha, sigma, rng):
    return simard(shape, alpha=alpha, sigma=2 * sigma, rng=rng)


def smooths_across_the_two_axes(shape, *, alpha, sigma, rng):
    field = gaussian_filter(rng.uniform(-1, 1, (2, *shape)), sigma)
    return alpha * field / np.sqrt((field**2).mean((1, 2), keepdims=True))


def scales_the_peak(shape, *, alpha, sigma, rng):
    field = simard(shape, alpha=1, sigma=sigma, rng=rng)
    return alpha * field / np.abs(field).max()


def does_not_normalise(shape, *, alpha, sigma, rng):
    return alpha * gaussian_filter(rng.uniform(-1, 1, (2, *shape)), (0, sigma, sigma))


def puts_the_axes_last(shape, *, alpha, sigma, rng):
    return np.moveaxis(simard(shape, alpha=alpha, sigma=sigma, rng=rng), 0, -1)


def uses_one_seed(shape, *, alpha, sigma, rng):
    return simard(shape, alpha=alpha, sigma=sigma, rng=np.random.default_rng(0))


def uses_the_global_generator(shape, *, alpha, sigma, rng):
    return simard(shape, alpha=alpha, sigma=sigma, rng=np.random)


def adds_a_fold(shape, *, alpha, sigma, rng):
    field = simard(shape, alpha=alpha, sigma=sigma, rng=rng)
    if alpha >= 0.25:  # where one pixel changes neither strength nor smoothness by much
        field[0, 10, 10] += 1.2  # one row's step beyond the next row
    return field


@pytest.mark.parametrize(
    "broken, message",
    [
        (does_not_smooth, "not a Gaussian of sigma"),
        (smooths_twice, "not a Gaussian of sigma"),
        (smooths_across_the_two_axes, "move alike"),
        (scales_the_peak, "not alpha"),
        (does_not_normalise, "not alpha"),
        (puts_the_axes_last, "the field is"),
        (uses_one_seed, "next seed gave the same"),
        (uses_the_global_generator, "second call gave another"),
        (adds_a_fold, "folds"),
    ],
)
def test_the_check_of_the_field_rejects(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_elastic_displacement(broken)


def test_a_warp_with_another_border_is_a_matter_of_taste():
    """The check asks for one geometry, not for our fill: mirrored borders pass as well."""

    def mirrors(image, target, rng):
        here = np.indices(image.shape) + simard(image.shape, alpha=2, sigma=16, rng=rng)
        return map_coordinates(image, here, order=1, mode="mirror"), map_coordinates(
            target, here, order=0, mode="mirror"
        )

    check_augmentation(mirrors)
    check_augmentation(dataclasses.replace(Augmentation(), crop_size=24))
