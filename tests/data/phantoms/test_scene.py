"""Phantom slices: reproducible, plausible, exact in their targets, and too hard for a threshold."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.data.phantoms.nodules import KINDS
from lungseg.data.phantoms.raster import Grid
from lungseg.data.phantoms.scene import MIDDLE, phantom_crops, phantom_patient, phantom_volume, sample_scene

SIZE = 128


@cache
def patient(seed: int, **options):
    return phantom_patient(np.random.default_rng(seed), **{"num_slices": 3, "size": SIZE, **options})


@cache
def sixty_slices():
    """hu and target (60, H, W): the first sixty slices with a lesion, at most three of each patient."""
    slices = [s for seed in range(24) for s in patient(seed, size=192) if s.target.any()][:60]
    return np.stack([s.hu for s in slices]), np.stack([s.target for s in slices])


# ---- reproducibility ---------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_patient():
    again = phantom_patient(np.random.default_rng(5), num_slices=3, size=SIZE)
    for one, other in zip(patient(5), again, strict=True):
        np.testing.assert_array_equal(one.hu, other.hu)
        np.testing.assert_array_equal(one.target, other.target)
        assert one.kinds == other.kinds


def test_another_seed_gives_another_patient():
    assert (patient(5)[1].hu != patient(6)[1].hu).mean() > 0.5


def test_a_patient_does_not_depend_on_the_patients_drawn_before():
    phantom_patient(np.random.default_rng(1), num_slices=1, size=32)
    again = phantom_patient(np.random.default_rng(5), num_slices=3, size=SIZE)
    np.testing.assert_array_equal(again[0].hu, patient(5)[0].hu)


def test_the_global_generator_is_neither_used_nor_changed():
    before = np.random.get_state()[1].copy()
    phantom_patient(np.random.default_rng(0), num_slices=1, size=32)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


# ---- shapes and types ------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(size=st.integers(32, 160), num_slices=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_size_gives_int16_hu_and_a_target_of_0_and_1(size, num_slices, seed):
    slices = phantom_patient(np.random.default_rng(seed), num_slices=num_slices, size=size)
    assert [s.slice_index for s in slices] == list(range(num_slices))
    for s in slices:
        assert s.hu.shape == s.target.shape == (size, size)
        assert s.hu.dtype == np.int16 and s.target.dtype == np.uint8
        assert s.target.max() <= 1 and s.hu.min() >= -1024
        assert s.spacing_mm == pytest.approx(360 / size)
        assert bool(s.kinds) == bool(s.target.any())


@pytest.mark.parametrize("seed", range(4))
def test_a_slice_holds_air_lung_soft_tissue_and_bone(seed):
    hu = patient(seed)[1].hu.astype(float)
    assert np.median(hu[:8, :8]) == pytest.approx(-1000, abs=10)
    lung = hu[(hu > -960) & (hu < -700)]
    assert lung.size > 0.1 * hu.size and -910 < np.median(lung) < -800
    assert ((hu > -160) & (hu < 120)).mean() > 0.15
    assert 0.003 < (hu > 250).mean() < 0.2
    assert hu.max() < 900


def test_every_kind_of_nodule_appears():
    slices = [patient(seed, num_slices=1, size=96, diameter_mm=(10, 20))[0] for seed in range(30)]
    assert {kind for s in slices for kind in s.kinds} == set(KINDS)


# ---- the target -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_lies_in_the_lung(kind):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, kinds=[kind], diameter_mm=(6, 25))
        nodule, grid = scene.nodules[0], Grid((256, 256), 1.4, MIDDLE)
        hu, target, _ = scene.render(grid, nodule.centre[2], rng)
        depth = -scene.thorax.lung_distance(grid.x, grid.y, nodule.centre[2])[target > 0]
        assert target.any() and depth.min() > -grid.spacing
        if kind == "pleural":
            assert depth.min() < 2 * grid.spacing  # it touches the pleura
        expected = nodule.hu if kind != "part-solid" else -480
        assert np.median(hu[target > 0]) == pytest.approx(expected, abs=170)


@pytest.mark.parametrize("low, high", [(4.0, 6.0), (12.0, 14.0), (26.0, 30.0)])
def test_diameters_are_as_requested(low, high):
    measured = []
    for seed in range(12):
        target = phantom_crops(
            np.random.default_rng(seed), num=1, diameter_mm=(low, high), kinds=["solid", "ground-glass"]
        )[0].target
        measured.append(2 * 0.7 * np.sqrt(target.sum() / np.pi))
    assert 0.75 * low < min(measured) and max(measured) < 1.3 * high
    assert low * 0.9 < np.mean(measured) < high * 1.1


def test_nearly_every_slice_of_a_patient_cuts_the_nodule():
    slices = [s for seed in range(12) for s in patient(seed, num_slices=6, diameter_mm=(8, 30))]
    assert np.mean([s.target.any() for s in slices]) > 0.95


def test_with_a_wide_spacing_the_outer_slices_miss_the_nodule():
    stack = patient(1, num_slices=5, slice_spacing_mm=20.0, diameter_mm=(10, 15))
    assert stack[2].target.any()
    assert not stack[0].target.any() and stack[0].kinds == () and not stack[4].target.any()


def test_nodule_free_is_the_share_of_patients_without_a_nodule():
    options = {"size": 64, "num_slices": 1, "diameter_mm": (15, 20)}
    with_nodule = [patient(seed, nodule_free=0.5, **options)[0].target.any() for seed in range(24)]
    assert 0.2 < np.mean(with_nodule) < 0.8
    for seed in range(6):
        assert not patient(seed, nodule_free=1.0, **options)[0].target.any()
        assert patient(seed, nodule_free=0.0, **options)[0].target.any()


def test_a_view_of_one_lung_holds_the_nodule():
    for seed in range(8):
        stack = patient(seed, size=96, field_of_view_mm=180.0, centre_mm=(-60.0, 0.0), diameter_mm=(8, 30))
        assert all(s.target.any() for s in stack)


# ---- slices of one patient and of others ----------------------------------------------------------------------


def test_slices_of_one_patient_are_similar_and_those_of_two_are_not():
    def similarity(a, b):
        return np.corrcoef(a.hu.clip(-1000, 400).ravel(), b.hu.clip(-1000, 400).ravel())[0, 1]

    stacks = [patient(seed) for seed in range(8)]
    neighbours = [similarity(a, b) for stack in stacks for a, b in zip(stack, stack[1:], strict=False)]
    others = [similarity(patient(a)[1], patient(b)[1]) for a in range(8) for b in range(a)]
    assert min(neighbours) > 0.95
    assert max(others) < 0.93 and np.mean(others) < 0.85
    assert min(neighbours) > max(others)


def test_the_lesion_changes_smoothly_through_the_stack():
    for seed in range(4):
        stack = patient(seed, num_slices=6, size=256, diameter_mm=(20, 30))
        for a, b in zip(stack, stack[1:], strict=False):
            both = (a.target & b.target).sum()
            assert 2 * both / (int(a.target.sum()) + int(b.target.sum())) > 0.6


# ---- not a toy --------------------------------------------------------------------------------------------


def mean_dice(pred, target):
    """pred and target (n, H, W) -> mean over images; every target here has a lesion."""
    both = (pred & target).sum((1, 2))
    return float((2 * both / (pred.sum((1, 2)) + target.sum((1, 2)))).mean())


def test_no_band_of_hu_finds_the_nodules():
    hu, target = sixty_slices()
    n, edges = len(hu), np.arange(-1024, 700, 24)
    bins = np.digitize(hu, edges).reshape(n, -1)
    pixels = np.stack([np.bincount(b, minlength=len(edges) + 1) for b in bins]).cumsum(1)
    lesion = target.reshape(n, -1) > 0
    hits = np.stack([np.bincount(bins[i][lesion[i]], minlength=len(edges) + 1) for i in range(n)]).cumsum(1)
    area = lesion.sum(1)
    best = max(
        np.mean(2 * (hits[:, j] - hits[:, i]) / (pixels[:, j] - pixels[:, i] + area))
        for i in range(len(edges))
        for j in range(i + 1, len(edges) + 1)
    )
    assert len(hu) == 60 and area.min() > 0
    assert 0.01 < best < 0.5  # it is about 0.05: fat, muscle, vessels and walls have the same HU
    plain = mean_dice((hu > edges[20]) & (hu <= edges[40]), target > 0)
    assert plain <= best + 0.02  # the counts above agree with the plain formula


def test_no_band_of_hu_finds_them_inside_the_lungs_either():
    """Even inside given lungs, vessels and bronchi have the same HU."""
    dice, bands = [], [(low, high) for low in range(-800, 100, 50) for high in (low + 150, low + 400, 3000)]
    for seed in range(12):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        nodule, grid = scene.nodules[0], Grid((192, 192), 1.875, MIDDLE)
        hu, target, _ = scene.render(grid, nodule.centre[2], rng)
        lung = scene.thorax.lung_distance(grid.x, grid.y, nodule.centre[2]) < 0
        if target.any():
            pred = np.stack([(hu > low) & (hu < high) & lung for low, high in bands])
            both = (pred & (target > 0)).sum((1, 2))
            dice.append(2 * both / (pred.sum((1, 2)) + target.sum()))
    assert len(dice) >= 10 and np.mean(dice, axis=0).max() < 0.5


def test_no_fixed_map_finds_the_nodules():
    _, target = sixty_slices()
    train, test = target[:30], target[30:] > 0
    frequency = train.mean(0)
    best = max(mean_dice(np.broadcast_to(frequency >= q, test.shape), test) for q in np.unique(frequency)[1:])
    assert best < 0.1


# ---- crops and volumes ----------------------------------------------------------------------------------


def test_crops_hold_the_whole_nodule_anywhere_in_them():
    middles = []
    for seed in range(20):
        crop = phantom_crops(np.random.default_rng(seed), num=1, diameter_mm=(8, 16))[0]
        assert crop.hu.shape == (64, 64) and crop.spacing_mm == 0.7
        rows, columns = np.nonzero(crop.target)
        assert len(rows) > 30
        middles.append((rows.mean(), columns.mean()))
    assert np.std(middles, axis=0).min() > 5  # pixels


def test_a_volume_is_a_chest_with_its_nodules():
    hu, target = phantom_volume(np.random.default_rng(0), shape=(20, 48, 64), spacing_mm=(6.0, 5.6, 5.6))
    assert hu.shape == target.shape == (20, 48, 64)
    assert hu.dtype == np.int16 and target.dtype == np.uint8 and target.max() == 1
    similarity = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(hu, hu[1:], strict=False)]
    assert min(similarity) > 0.9


def test_a_volume_has_the_requested_number_of_nodules():
    from scipy.ndimage import label

    for num in (0, 1, 3):
        _, target = phantom_volume(
            np.random.default_rng(2), shape=(40, 96, 96), spacing_mm=(3.0, 3.0, 3.0), num_nodules=num,
            diameter_mm=(12, 15), kinds=["solid"],
        )  # fmt: skip
        assert label(target, np.ones((3, 3, 3)))[1] == num
        assert target.sum() * 27 == pytest.approx(num * np.pi / 6 * 13.5**3, rel=0.4)


# ---- errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": 0}, "0 x 0 pixels"),
        ({"field_of_view_mm": -5.0}, "positive field of view"),
        ({"num_slices": 0}, "at least 1"),
        ({"diameter_mm": (9.0, 3.0)}, "smallest <= largest"),
        ({"diameter_mm": (3.0, 80.0)}, "1 to 40 mm"),
        ({"kinds": ["cubic"]}, "cubic"),
        ({"kinds": []}, "at least one"),
        ({"nodule_free": 1.5}, "probability"),
        ({"slice_spacing_mm": 0.0}, "positive distance"),
        ({"centre_mm": (500.0, 0.0)}, "no room"),
    ],
)
def test_a_bad_argument_is_one_sentence(options, words):
    with pytest.raises(ValueError, match=words) as error:
        phantom_patient(np.random.default_rng(0), **{"size": 32, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"shape": (0, 8, 8)}, "at least 1 slice"),
        ({"spacing_mm": (4.0, 2.0, 3.0)}, "equal spacings"),
        ({"num_nodules": -1}, "0 or more"),
        ({"num_nodules": 60, "diameter_mm": (30.0, 40.0)}, "fewer nodules"),
    ],
)
def test_a_bad_volume_is_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        phantom_volume(np.random.default_rng(0), **{"shape": (4, 32, 32), **options})
