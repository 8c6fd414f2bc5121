"""The checks accept sound augmentations, ours and other people's, and reject the mistakes people make."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates, rotate

from lungseg.checks.data.augment import check_augmentation
from lungseg.checks.lessons import Wrong
from lungseg.data.augment import Augmentation


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


def turns_each_by_its_own_angle(image, target, rng):
    return turn(image, rng.uniform(-30, 30), 1), turn(target, rng.uniform(-30, 30), 0)


def is_one_pixel_off(image, target, rng):
    image, target = Augmentation()(image, target, rng)
    return image, np.roll(target, 1, axis=1)


@pytest.mark.parametrize("broken", [turns_each_by_its_own_angle, is_one_pixel_off])
def test_the_check_rejects_two_geometries(broken):
    with pytest.raises(Wrong, match="same geometry"):
        check_augmentation(broken)


def draws_from_the_global_generator_of_torch(image, target, rng):
    return image * float(torch.rand(())), target.copy()


def edits_the_image_in_place(image, target, rng):
    image *= rng.random(dtype=np.float32)
    return image.copy(), target.copy()


def keeps_state():
    own = np.random.default_rng(0)
    return lambda image, target, rng: (image * own.random(dtype=np.float32), target.copy())


def ignores_rng(image, target, rng):
    return Augmentation()(image, target, np.random.default_rng(0))


def returns_floats(image, target, rng):
    return image * np.float32(0.5), target.astype(np.float32)


def invents_lesions(image, target, rng):
    return image * rng.random(dtype=np.float32), np.maximum(target, image > 0.99).astype(np.uint8)


def divides_by_the_range(image, target, rng):
    image = image * rng.random(dtype=np.float32)
    with np.errstate(all="ignore"):
        return np.where(image.mean() > 0.5, image, np.float32(np.nan)), target.copy()


@pytest.mark.parametrize(
    "broken, message",
    [
        (returns_floats, "the target was uint8 and became float32"),
        (draws_from_the_global_generator_of_torch, "a global random generator"),
        (edits_the_image_in_place, "image was changed in place"),
        (keeps_state(), "two calls with the same seed"),
        (ignores_rng, "the same image sixteen times"),
        (invents_lesions, "there was no lesion"),
        (divides_by_the_range, "NaN"),
        (lambda image, target, rng: (image[None].copy(), target[None].copy()), "both must"),
        (lambda image, target, rng: image, "expected the pair"),
    ],
)
def test_the_check_rejects(broken, message):
    with pytest.raises(Wrong, match=message):
        check_augmentation(broken)


def simard(shape, *, alpha, sigma, rng):
    """The paper's recipe as written: a number per pixel, and a full-size Gaussian filter."""
    field = gaussian_filter(rng.uniform(-1, 1, (2, *shape)), (0, sigma, sigma))
    return alpha * field / np.sqrt((field**2).mean((1, 2), keepdims=True))


def test_a_warp_with_another_border_is_a_matter_of_taste():
    """The check asks for one geometry, not for our fill: mirrored borders pass as well."""

    def mirrors(image, target, rng):
        here = np.indices(image.shape) + simard(image.shape, alpha=2, sigma=16, rng=rng)
        return map_coordinates(image, here, order=1, mode="mirror"), map_coordinates(
            target, here, order=0, mode="mirror"
        )

    check_augmentation(mirrors)
    check_augmentation(dataclasses.replace(Augmentation(), crop_size=24))
