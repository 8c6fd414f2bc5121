"""What any augmentation of an image with its target must satisfy, and any elastic displacement field."""

import random
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, strategies as st
from numpy.typing import NDArray

from lungseg.checks.running import learner_settings


def check_augmentation(
    augment: Callable[[NDArray, NDArray, np.random.Generator], tuple[NDArray, NDArray]],
    *,
    min_side: int = 24,
    max_examples: int = 60,
) -> None:
    """Fail unless `augment(image, target, rng)` returns a new pair in which the target still fits the image.

    The image is (H, W) float32 in [0, 1], the target (H, W) uint8 in {0, 1}. Any geometry is welcome, also a
    crop (raise `min_side` to its side), and any change of grey that leaves bright things brighter.
    """
    _check_contract(augment, min_side, max_examples)
    _check_landmark(augment, min_side, max_examples)
    _check_chance(augment, min_side)


def _check_contract(augment, min_side, max_examples):
    sides = st.integers(min_side, min_side + 24)

    @learner_settings(max_examples)
    @given(height=sides, width=sides, lesion_share=st.sampled_from([0.0, 0.3, 1.0]), seed=st.integers(0, 999))
    def a_new_pair_of_the_same_kind_that_depends_only_on_the_seed(height, width, lesion_share, seed):
        image = np.random.default_rng(seed).random((height, width), dtype=np.float32)
        target = (image < lesion_share).astype(np.uint8)
        image_before, target_before, chance_before = image.copy(), target.copy(), global_chance()
        new_image, new_target = augment(image, target, np.random.default_rng(seed))
        assert global_chance() == chance_before, (
            "a global random generator was used; draw from the rng that is handed in, and from nothing else"
        )
        for name, now, before in (("image", image, image_before), ("target", target, target_before)):
            assert np.array_equal(now, before), f"the {name} handed in was changed; work on a copy"
        for name, new, old in (("image", new_image, image), ("target", new_target, target)):
            assert new.dtype == old.dtype, f"the {name} came in as {old.dtype} and went out as {new.dtype}"
            assert not np.shares_memory(new, old), f"the new {name} is a view of the old: return a copy"
        assert new_image.ndim == 2 and new_image.shape == new_target.shape, (
            f"the new image is {new_image.shape}, its target {new_target.shape}; both should be one (H, W)"
        )
        assert np.isfinite(new_image).all(), "the new image holds NaN or infinity"
        values = np.unique(new_target).tolist()
        assert set(values) <= {0, 1}, f"the new target holds {values[:5]}; only 0 and 1 are labels"
        assert lesion_share > 0 or values == [0], "there was no lesion, but the new target shows one"
        again_image, again_target = augment(image, target, np.random.default_rng(seed))
        assert np.array_equal(new_image, again_image) and np.array_equal(new_target, again_target), (
            f"two calls with default_rng({seed}) gave two different pairs: something is kept between calls"
        )

    a_new_pair_of_the_same_kind_that_depends_only_on_the_seed()


@st.composite
def discs(draw, min_side):
    """(height, width, row, column, radius) in pixels of a disc that lies wholly inside the image."""
    height, width = draw(st.integers(min_side, min_side + 24)), draw(st.integers(min_side, min_side + 24))
    radius = draw(st.integers(5, min(height, width) // 3))
    row, col = draw(st.integers(radius, height - 1 - radius)), draw(st.integers(radius, width - 1 - radius))
    return height, width, row, col, radius


def _check_landmark(augment, min_side, max_examples):
    @learner_settings(max_examples)
    @given(disc=discs(min_side), seed=st.integers(0, 999))
    def a_bright_disc_stays_under_its_target(disc, seed):
        height, width, row, col, radius = disc
        rows, cols = np.indices((height, width))
        target = ((rows - row) ** 2 + (cols - col) ** 2 <= radius**2).astype(np.uint8)
        image, target = augment(target.astype(np.float32), target, np.random.default_rng(seed))
        low, high = float(image.min()), float(image.max())
        if high - low > 0.3:
            bright = image > (low + high) / 2
        else:  # one grey everywhere: the picture is all background or all lesion, and so should the target be
            bright = np.full(image.shape, target.mean() > 0.5)
        wrong = int((bright != target).sum())
        # Bilinear image and nearest target may differ along the outline, and the image fades at a border.
        allowed = 8 + outline(target) / 5
        assert wrong <= allowed, (
            f"a disc of radius {radius} at ({row}, {col}) in a {height} x {width} image, seed {seed}: "
            f"the image shows it on {int(bright.sum())} pixels, the target on {int(target.sum())}, and they "
            f"disagree on {wrong}; image and target must undergo the same geometry"
        )

    a_bright_disc_stays_under_its_target()


def _check_chance(augment, min_side):
    side = min_side + 24  # room for a crop to move
    image = np.random.default_rng(0).random((side, side), dtype=np.float32)
    target = (image > 0.5).astype(np.uint8)
    pictures = {augment(image, target, np.random.default_rng(seed))[0].tobytes() for seed in range(16)}
    assert len(pictures) > 1, "sixteen seeds gave sixteen times the same image: rng is not used"


def global_chance() -> tuple:
    """The states of all generators that a function could use behind our back."""
    name, keys, *rest = np.random.get_state()
    return name, keys.tobytes(), *rest, random.getstate(), torch.get_rng_state().numpy().tobytes()


def outline(target: NDArray) -> int:
    """Number of neighbouring pixel pairs, one lesion, one not."""
    return int((target[1:] != target[:-1]).sum() + (target[:, 1:] != target[:, :-1]).sum())


def check_elastic_displacement(elastic_displacement: Callable[..., NDArray], *, max_examples: int = 40) -> None:
    """Fail unless `elastic_displacement(shape, alpha=, sigma=, rng=)` is a smooth field of that strength.

    (2, H, W) in pixels: root-mean-square `alpha` along each axis, as smooth as white noise after a Gaussian
    of `sigma`, two independent axes, no fold, all chance from `rng`. Tried where folds cannot be wanted:
    alpha <= sigma / 8, on images of at least 12 sigma.
    """

    @learner_settings(max_examples)
    @given(
        shape=st.tuples(st.integers(48, 80), st.integers(48, 80)),
        sigma=st.integers(2, 4),
        strength=st.integers(1, 4),
        seed=st.integers(0, 999),
    )
    def the_field_is_smooth_and_of_the_given_strength(shape, sigma, strength, seed):
        alpha = sigma * strength / 32
        fields = [
            np.asarray(elastic_displacement(shape, alpha=alpha, sigma=sigma, rng=np.random.default_rng(s)))
            for s in (seed, seed, seed + 1)
        ]
        field, about = fields[0], f"shape={shape}, alpha={alpha}, sigma={sigma}, default_rng({seed}): "
        assert field.shape == (2, *shape), about + f"the field is {field.shape}, not {(2, *shape)}"
        assert np.isfinite(field).all(), about + "the field holds NaN or infinity"
        assert np.array_equal(field, fields[1]), about + "a second call gave another field"
        assert not np.array_equal(field, fields[2]), about + "the next seed gave the same field"
        rms = np.sqrt((field.astype(float) ** 2).mean((1, 2)))
        assert np.allclose(rms, alpha, rtol=0.05), about + f"the RMS displacements are {rms.round(3)}, not alpha"
        down, along = np.diff(field, axis=1), np.diff(field, axis=2)  # (2, H-1, W), (2, H, W-1)
        roughness = np.sqrt(((down**2).mean() + (along**2).mean()) / 2)
        expected = alpha / sigma / np.sqrt(2)  # slope of noise with the correlation exp(-d^2 / 4 sigma^2)
        assert expected / 1.5 <= roughness <= 1.5 * expected, (
            about + f"neighbours differ by {roughness:.4f} pixels (RMS), expected about {expected:.4f}: "
            f"the smoothing is not a Gaussian of sigma pixels"
        )
        likeness = np.corrcoef(field.reshape(2, -1))[0, 1]
        assert abs(likeness) < 0.95, about + f"rows and columns move alike (correlation {likeness:.2f})"
        (rr, cr), (rc, cc) = (
            down[:, :, :-1],
            along[:, :-1],
        )  # change of row and column, per step down and along
        jacobian = (1 + rr) * (1 + cc) - cr * rc
        assert jacobian.min() > 0, about + f"the field folds: the Jacobian falls to {jacobian.min():.3f}"

    the_field_is_smooth_and_of_the_given_strength()
