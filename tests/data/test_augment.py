"""Image and target move together, through one resampling, and only the generator decides how."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.ndimage import map_coordinates

from lungseg.checks.data.augment import check_augmentation, check_pair
from lungseg.data.augment import Augmentation, input_from_output, sampling_coordinates
from lungseg.data.elastic import sample_at

OFF = {
    "rotation": 0,
    "horizontal_flip": 0,
    "vertical_flip": 0,
    "elastic_probability": 0,
    "brightness": 0,
    "contrast": 0,
}
NOTHING = Augmentation(**OFF)
EVERYTHING = Augmentation(elastic_probability=1)
FLIPS = [(0, 0), (0, 1), (1, 0), (1, 1)]  # vertical, horizontal


def random_pair(seed, height=40, width=50):
    image = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    return image, (image > 0.7).astype(np.uint8)


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        EVERYTHING,
        Augmentation(rotation=180, elastic_probability=1, elastic_alpha=4, elastic_sigma=20),
        Augmentation(**(OFF | {"horizontal_flip": 0.5})),
        Augmentation(crop_size=24, crop_foreground=0.5),
    ],
)
def test_it_keeps_the_promises_of_every_correct_augmentation(augmentation):
    check_augmentation(augmentation)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(24, 48), st.integers(24, 48)),
    lesion_share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 999),
    crop=st.sampled_from([None, 24]),
)
def test_any_pair_becomes_a_new_one_of_the_same_kind_that_depends_only_on_the_seed(shape, lesion_share, seed, crop):
    check_pair(dataclasses.replace(EVERYTHING, crop_size=crop), shape, lesion_share, seed)


# ---- geometry --------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    row=st.integers(14, 49),
    col=st.integers(14, 49),
    seed=st.integers(0, 9999),
    crop=st.sampled_from([None, 48]),
)
def test_landmarks_move_with_the_target(row, col, seed, crop):
    """The centroid of a bright blob and that of its target stay within 0.4 pixels of each other."""
    rows, cols = np.indices((64, 64))
    distance = np.hypot(rows - row, cols - col)
    image = np.clip(10.5 - distance, 0, 1).astype(np.float32)  # a disc of radius 10 with a soft outline
    augmentation = dataclasses.replace(EVERYTHING, crop_size=crop, brightness=0, contrast=0)
    image, target = augmentation(image, (distance <= 10).astype(np.uint8), np.random.default_rng(seed))
    border = np.concatenate([image[[0, -1]].ravel(), image[:, [0, -1]].ravel()])
    if border.any() or not target.any():
        return  # the blob left the image, at least in part
    for axis in np.indices(target.shape):
        assert abs(np.average(axis, weights=image) - np.average(axis, weights=target)) < 0.4


def test_the_image_is_sampled_bilinearly_and_once_at_the_coordinates_of_the_target():
    """A ramp reads as its own coordinates: the output states where each pixel came from."""
    side = 65
    ramp = (np.indices((side, side)) / (side - 1)).astype(np.float32)  # (2, H, W): row and column, in [0, 1]
    still = dataclasses.replace(EVERYTHING, brightness=0, contrast=0)
    rng = np.random.default_rng
    came_from = [still(axis, np.zeros(axis.shape, np.uint8), rng(5))[0] * (side - 1) for axis in ramp]
    target = (np.random.default_rng(1).random((side, side)) < 0.5).astype(np.uint8)
    _, moved = still(ramp[0], target, rng(5))
    nearest = map_coordinates(target, came_from, order=0)
    inside = still(np.ones((side, side), np.float32), target, rng(5))[0] == 1  # beyond, the ramp fades into air
    near_tie = np.any([np.abs(np.abs(np.mod(c, 1)) - 0.5) < 1e-3 for c in came_from], axis=0)
    assert inside.sum() > 2000
    np.testing.assert_array_equal(moved[inside & ~near_tie], nearest[inside & ~near_tie])


def test_two_resamplings_would_cost_contrast_that_one_keeps():
    """Turning and bending a fine pattern in two steps blurs it twice; ours blurs it once."""
    rows, cols = np.indices((96, 96))
    image = ((rows // 2 + cols // 2) % 2).astype(np.float32)  # a checkerboard of 2 x 2 pixels
    target = np.zeros(image.shape, np.uint8)
    still = dataclasses.replace(EVERYTHING, brightness=0, contrast=0)
    both, turned_only = still, dataclasses.replace(still, elastic_probability=0)
    bent_only = dataclasses.replace(still, rotation=0, horizontal_flip=0, vertical_flip=0)
    middle = np.s_[24:72, 24:72]
    for seed in range(5):
        once = both(image, target, np.random.default_rng(seed))[0][middle].std()
        turned = turned_only(image, target, np.random.default_rng(seed))[0]
        twice = bent_only(turned, target, np.random.default_rng(seed))[0][middle].std()
        assert once > 0.85 * turned[middle].std()  # as sharp as the rotation alone
        assert twice < 0.8 * once


@pytest.mark.parametrize("flips", FLIPS)
def test_without_rotation_and_bending_every_pixel_is_exact_and_none_resampled(flips, monkeypatch):
    monkeypatch.setattr("lungseg.data.augment.sample_at", None)
    image, target = random_pair(0)
    vertical, horizontal = flips
    flip = dataclasses.replace(NOTHING, vertical_flip=vertical, horizontal_flip=horizontal)
    step = np.s_[:: 1 - 2 * vertical, :: 1 - 2 * horizontal]
    new_image, new_target = flip(image, target, np.random.default_rng(0))
    np.testing.assert_array_equal(new_image, image[step])
    np.testing.assert_array_equal(new_target, target[step])
    assert new_image.flags.c_contiguous and new_target.flags.c_contiguous


@pytest.mark.parametrize("shape", [(8, 8), (9, 9)])
@pytest.mark.parametrize("flips", FLIPS)
@pytest.mark.parametrize("quarters", [-1, 0, 1, 2])
def test_a_quarter_turn_is_np_rot90_of_the_flipped_image(shape, flips, quarters):
    image = np.random.default_rng(0).random(shape)
    coordinates = sampling_coordinates(shape, shape, input_from_output(90 * quarters, *flips), (0, 0), None)
    flipped = image[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
    for order in (0, 1):
        np.testing.assert_allclose(sample_at(image, coordinates, order=order), np.rot90(flipped, quarters), atol=1e-5)


def test_angles_fill_the_range_on_both_sides_and_flips_come_half_the_time():
    draws = [Augmentation().draw(np.random.default_rng(seed)) for seed in range(2000)]
    angles = np.array([d.angle for d in draws])
    assert -30 <= angles.min() < -29 and 29 < angles.max() <= 30 and abs(angles.mean()) < 1.5
    for name in ("flip_rows", "flip_cols", "elastic"):
        assert 0.46 < np.mean([getattr(d, name) for d in draws]) < 0.54
    assert abs(np.corrcoef([d.flip_rows for d in draws], [d.flip_cols for d in draws])[0, 1]) < 0.08


def test_outside_the_image_there_is_air_and_no_lesion():
    ones = np.ones((40, 40), np.float32), np.ones((40, 40), np.uint8)
    turned = dataclasses.replace(NOTHING, rotation=45)
    seed = next(s for s in range(99) if turned.draw(np.random.default_rng(s)).angle > 30)
    image, target = turned(*ones, np.random.default_rng(seed))
    assert image[0, 0] == 0 and target[0, 0] == 0 and image[20, 20] == 1 and target[20, 20] == 1


# ---- grey values -----------------------------------------------------------------------------------------


def test_contrast_spreads_about_the_mean_and_brightness_adds():
    image = np.linspace(0.3, 0.6, 100, dtype=np.float32).reshape(10, 10)
    target = np.zeros((10, 10), np.uint8)
    for seed in range(20):
        grey = dataclasses.replace(NOTHING, brightness=0.1, contrast=0.4)
        draw = grey.draw(np.random.default_rng(seed))
        assert abs(draw.brightness) <= 0.1 and abs(draw.contrast - 1) <= 0.4
        new, _ = grey(image, target, np.random.default_rng(seed))
        assert new.mean() == pytest.approx(image.mean() + draw.brightness, abs=1e-5)
        assert new.std() == pytest.approx(image.std() * draw.contrast, rel=1e-4)


@given(seed=st.integers(0, 9999))
def test_the_image_stays_in_0_1_however_strong_the_change(seed):
    strong = Augmentation(brightness=1, contrast=1, elastic_probability=1)
    image, _ = strong(*random_pair(seed), np.random.default_rng(seed))
    assert image.min() >= 0 and image.max() <= 1


# ---- scale, blur, gamma, noise ---------------------------------------------------------------------------

ALWAYS = {f"{part}_probability": 1 for part in ("scale", "blur", "gamma", "noise")}
STRONG = dataclasses.replace(EVERYTHING, **ALWAYS)


def test_a_disc_grows_by_the_scale_and_stays_round():
    rows, cols = np.indices((81, 81)) - 40
    disc = (np.hypot(rows, cols) <= 15.5).astype(np.uint8)
    only = dataclasses.replace(NOTHING, scale_probability=1, scale=1.6)
    factors = []
    for seed in range(40):
        factor = only.draw(np.random.default_rng(seed)).scale
        image, target = only(disc.astype(np.float32), disc, np.random.default_rng(seed))
        for area in (image.sum(), target.sum()):
            assert area == pytest.approx(np.pi * (15.5 * factor) ** 2, rel=0.05)
        assert abs(int(target[40].sum()) - int(target[:, 40].sum())) <= 1
        factors.append(factor)
    assert 1 / 1.6 <= min(factors) < 0.7 and 1.5 < max(factors) <= 1.6 and abs(np.log(factors).mean()) < 0.15


def test_scale_is_composed_with_the_other_geometry_and_resampled_once(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "lungseg.data.augment.sample_at", lambda *a, order: calls.append(order) or sample_at(*a, order=order)
    )
    STRONG(*random_pair(0), np.random.default_rng(0))
    assert sorted(calls) == [0, 1]
    image, target = random_pair(1)
    rng, still = np.random.default_rng, dataclasses.replace(NOTHING, rotation=30, scale_probability=1)
    draw = still.draw(rng(3))
    _, moved = still(image, target, rng(3))
    cos, sin = np.cos(np.radians(draw.angle)), np.sin(np.radians(draw.angle))
    for row, col in ((20, 25), (10, 30), (31, 12)):  # by hand: back by the angle, and 1 / scale as far from the centre
        r, c = (row - 19.5) / draw.scale, (col - 24.5) / draw.scale
        source = cos * r + sin * c + 19.5, -sin * r + cos * c + 24.5
        assert moved[row, col] == target[tuple(int(np.rint(x)) for x in source)]


def test_full_makes_the_draws_it_always_made_and_strong_shares_them():
    """So runs from before there were these changes are repeated bit by bit."""
    for seed in range(30):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        full, strong = Augmentation().draw(rng), STRONG.draw(np.random.default_rng(seed))
        u, noise_seed = again.random(10), int(again.integers(2**63))
        assert rng.random() == again.random()
        assert (full.angle, full.brightness, full.contrast) == (
            30 * (2 * u[0] - 1), 0.05 * (2 * u[8] - 1), 1 + 0.15 * (2 * u[9] - 1)
        )  # fmt: skip
        assert (full.scale, full.blur, full.gamma, full.noise) == (1, 0, 1, 0) and full.noise_seed == noise_seed
        assert strong[:10] == full[:3] + (True,) + full[4:10]  # bends always, here


def test_each_change_comes_as_often_as_it_should_and_fills_its_range():
    half = Augmentation(**{name: 0.5 for name in ALWAYS})
    draws = [half.draw(np.random.default_rng(seed)) for seed in range(2000)]
    for name, off, low, high in (
        ("scale", 1, 0.8, 1.25),
        ("blur", 0, 0, 1),
        ("gamma", 1, 0.8, 1.25),
        ("noise", 0, 0, 0.03),
    ):
        on = np.array([getattr(d, name) for d in draws if getattr(d, name) != off])
        assert 0.45 < len(on) / 2000 < 0.55
        margin = 0.02 * (high - low)
        assert low <= on.min() < low + margin and high - margin < on.max() <= high
    switched = np.array([[d.scale != 1, d.blur != 0, d.gamma != 1, d.noise != 0] for d in draws], float)
    assert np.abs(np.corrcoef(switched.T) - np.eye(4)).max() < 0.08


@pytest.mark.parametrize("name", sorted(ALWAYS))
def test_each_change_alone_changes_the_image_and_only_scale_the_target(name):
    alone = dataclasses.replace(NOTHING, **{name: 1})
    image, target = random_pair(4)
    new, moved = alone(image, target, np.random.default_rng(0))
    assert not np.array_equal(new, image) and new.min() >= 0 and new.max() <= 1 and new.dtype == np.float32
    assert np.array_equal(moved, target) == (name != "scale_probability")


@given(seed=st.integers(0, 9999), crop=st.sampled_from([None, 24]))
def test_strong_keeps_type_range_and_labels_and_repeats_itself(seed, crop):
    check_pair(dataclasses.replace(STRONG, crop_size=crop, noise=1, gamma=5, scale=2), (40, 31), 0.3, seed)


def test_strong_without_noise_keeps_the_promises_of_every_correct_augmentation():
    check_augmentation(dataclasses.replace(STRONG, noise_probability=0))


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.9}, {"scale": 5}, {"gamma": 0.5}, {"blur": -1}, {"noise": 2}, {"blur_probability": 1.5}]
)
def test_impossible_strengths_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"got {name}="):
        Augmentation(**wrong)


# ---- crops -----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(height=st.integers(20, 40), width=st.integers(20, 40), size=st.integers(1, 20), seed=st.integers(0, 999))
def test_a_crop_is_a_part_of_the_whole_augmented_image(height, width, size, seed):
    image, target = random_pair(seed, height, width)
    whole = Augmentation(elastic_probability=0, brightness=0, contrast=0)
    cropped = dataclasses.replace(whole, crop_size=size)
    position = whole.draw(np.random.default_rng(seed)).crop_position
    row, col = (int(p * (n - size + 1)) for p, n in zip(position, image.shape, strict=True))
    inside = np.s_[row : row + size, col : col + size]
    for got, full in zip(*(a(image, target, np.random.default_rng(seed)) for a in (cropped, whole)), strict=True):
        assert got.shape == (size, size) and got.flags.c_contiguous
        np.testing.assert_allclose(got, full[inside], atol=2e-5)


def test_crops_reach_every_position():
    image, target = random_pair(0, 12, 10)
    crop = dataclasses.replace(NOTHING, crop_size=8)
    corners = {crop(image, target, np.random.default_rng(s))[0][0, 0] for s in range(300)}
    assert corners == {np.float32(v) for v in image[:5, :3].ravel()}


@settings(max_examples=200)
@given(
    height=st.integers(25, 90),
    width=st.integers(25, 90),
    where=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
    size=st.integers(8, 24),
    moves=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_a_foreground_crop_holds_even_a_lesion_of_one_pixel(height, width, where, size, moves, seed):
    target = np.zeros((height, width), np.uint8)
    row, col = int(where[0] * height), int(where[1] * width)
    target[row, col] = 1
    image = target.astype(np.float32)
    settings_ = {"crop_size": size, "crop_foreground": 1, "brightness": 0, "contrast": 0}
    if moves:
        augmentation = dataclasses.replace(EVERYTHING, scale_probability=0.5, **settings_)
        # Turning and enlarging can carry the corners out of the picture; inside this circle nothing gets lost.
        if 1.25 * np.hypot(row - (height - 1) / 2, col - (width - 1) / 2) > (min(height, width) - 1) / 2:
            return
    else:
        augmentation = dataclasses.replace(NOTHING, horizontal_flip=0.5, **settings_)
    new_image, new_target = augmentation(image, target, np.random.default_rng(seed))
    assert new_target.any() and new_image.max() > 0.999


def test_a_foreground_crop_puts_the_lesion_anywhere_in_the_crop():
    target = np.zeros((60, 60), np.uint8)
    target[30, 30] = 1
    crop = dataclasses.replace(NOTHING, crop_size=8, crop_foreground=1)
    places = [np.argwhere(crop(target.astype(np.float32), target, np.random.default_rng(s))[1]) for s in range(600)]
    assert len(np.unique(np.concatenate(places), axis=0)) == 64


def test_without_a_lesion_or_below_its_probability_the_crop_is_an_ordinary_one():
    image = random_pair(0)[0]
    empty, lesion = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    lesion[3, 4] = 1
    ordinary = dataclasses.replace(NOTHING, crop_size=16)
    always, half = (dataclasses.replace(ordinary, crop_foreground=p) for p in (1, 0.5))
    rngs = [np.random.default_rng(s) for s in range(400)]
    for s in range(5):
        a, b = (f(image, empty, np.random.default_rng(s))[0] for f in (ordinary, always))
        np.testing.assert_array_equal(a, b)
    share = np.mean([half(image, lesion, rng)[1].any() for rng in rngs])
    chance = np.mean([ordinary(image, lesion, np.random.default_rng(s))[1].any() for s in range(400)])
    assert abs(share - (0.5 + 0.5 * chance)) < 0.07


# ---- chance ----------------------------------------------------------------------------------------------


def test_every_setting_draws_the_same_numbers():
    image, target = random_pair(0)
    after = set()
    for augmentation in (NOTHING, Augmentation(), EVERYTHING, Augmentation(crop_size=9, crop_foreground=1)):
        rng = np.random.default_rng(7)
        augmentation(image, target, rng)
        after.add(rng.bit_generator.state["state"]["state"])
    assert len(after) == 1


@given(seed=st.integers(0, 9999), name=st.sampled_from(sorted(OFF)))
def test_switching_one_part_off_changes_nothing_about_the_others(seed, name):
    one_off = dataclasses.replace(EVERYTHING, **{name: 0})
    with_, without = (f.draw(np.random.default_rng(seed))._asdict() for f in (EVERYTHING, one_off))
    field = {
        "rotation": "angle",
        "horizontal_flip": "flip_cols",
        "vertical_flip": "flip_rows",
        "elastic_probability": "elastic",
    }.get(name, name)
    assert without.pop(field) in (0, False, 1.0)
    with_.pop(field)
    assert with_ == without


@settings(max_examples=20)
@given(seed=st.integers(0, 9999), crop=st.sampled_from([None, 24]))
def test_the_map_of_each_class_moves_as_it_would_alone(seed, crop):
    """So no label is mixed, lost or invented: there is no 2 between the labels 1 and 3."""
    image = np.random.default_rng(seed).random((40, 50), dtype=np.float32)
    labels = np.digitize(image, [0.6, 0.7, 0.8, 0.9]).astype(np.uint8)
    labels[labels == 2] = 254  # the largest label there is
    augment = dataclasses.replace(EVERYTHING, crop_size=crop)
    _, moved = augment(image, labels, np.random.default_rng(seed))
    assert moved.dtype == np.uint8 and set(np.unique(moved)) <= {0, 1, 3, 4, 254}
    for label in (1, 3, 4, 254):
        _, alone = augment(image, (labels == label).astype(np.uint8), np.random.default_rng(seed))
        assert np.array_equal(moved == label, alone == 1)


class Slices(torch.utils.data.Dataset):
    """Eight random pairs, augmented from (seed, epoch, index) alone."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image, target = EVERYTHING(*random_pair(index), np.random.default_rng([0, 3, index]))
        return torch.from_numpy(image), torch.from_numpy(target)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of torch, on one processor
def test_the_same_seed_gives_the_same_pictures_with_any_number_of_workers():
    epochs = [
        [torch.cat(parts) for parts in zip(*torch.utils.data.DataLoader(Slices(), 2, num_workers=workers), strict=True)]
        for workers in (0, 2)
    ]
    for here, elsewhere in zip(*epochs, strict=True):
        assert torch.equal(here, elsewhere)


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image, target, message",
    [
        (np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.uint8), "without a channel axis"),
        (np.zeros((8, 8), np.float32), np.zeros((8, 9), np.uint8), r"target of shape \(8, 9\)"),
        (np.zeros((0, 8), np.float32), np.zeros((0, 8), np.uint8), r"\(0, 8\)"),
        (np.zeros((8, 8)), np.zeros((8, 8), np.uint8), "got an image of float64"),
        (np.zeros((8, 8), np.float32), np.zeros((8, 8), bool), "a target of bool"),
        (np.full((8, 8), 255, np.float32), np.zeros((8, 8), np.uint8), "Divide 8-bit grey by 255"),
        (np.full((8, 8), np.nan, np.float32), np.zeros((8, 8), np.uint8), "expected an image in"),
        (np.zeros((8, 8), np.float32), np.full((8, 8), 255, np.uint8), "got one with 255"),
        (np.zeros((8, 6), np.float32), np.zeros((8, 6), np.uint8), "crop_size=7 does not fit into the 8 x 6"),
    ],
)
def test_a_bad_pair_is_refused_with_the_remedy(image, target, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(crop_size=7)(image, target, np.random.default_rng(0))


@pytest.mark.parametrize(
    "strength, message",
    [
        ({"rotation": -1}, "expected rotation in .* got rotation=-1"),
        ({"rotation": float("nan")}, "rotation=nan"),
        ({"horizontal_flip": 1.5}, "expected a probability, 0 to 1, got horizontal_flip=1.5"),
        ({"crop_foreground": 2}, "expected a probability, 0 to 1, got crop_foreground=2"),
        ({"elastic_alpha": 30}, "alpha=30 pixels .* with sigma=24.0"),
        ({"contrast": 2}, "expected contrast in .* got contrast=2"),
        ({"crop_size": 0}, "expected a whole number .* got crop_size=0"),
        ({"crop_size": 9.5}, "expected a whole number .* got crop_size=9.5"),
        ({"crop_foreground": 0.5}, "give crop_size as well"),
    ],
)
def test_a_strength_that_makes_no_sense_is_refused(strength, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**strength)
