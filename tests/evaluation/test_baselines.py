"""Baselines against a loop that tries every threshold on every pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.evaluation.baselines import (
    LEVELS,
    baseline_counts,
    best_threshold,
    fixed_map,
    lesion_fractions,
    merge_classes,
    select_class,
    threshold_counts,
)
from lungseg.evaluation.metrics import class_counts, counts_from_pred, summarise

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)


@st.composite
def slices(draw):
    """A few slices of grey levels 0..255 as the data set gives them, with any targets."""
    found = []
    for i in range(draw(st.integers(1, 4))):
        shape = draw(shapes)
        grey = draw(hnp.arrays(np.uint8, shape))
        target = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
        image = torch.from_numpy(grey.astype(np.float32) / 255)[None]
        found.append((image, torch.from_numpy(target).float()[None], f"slice{i}"))
    return found


@given(slices())
def test_a_volume_counts_as_its_slices_do_together(some):
    image, target, id_ = some[0]
    volume = [torch.stack([x, x.flip(-1), x])[:, 0][None] for x in (image, target)]  # (1, 3, H, W)
    assert torch.equal(threshold_counts([(*volume, id_)])[0], 3 * threshold_counts(some)[0])


@given(slices())
def test_the_counts_are_those_of_thresholding_pixel_by_pixel(some):
    counts = threshold_counts(some)
    assert counts.shape == (len(some), LEVELS + 1, 4) and counts.dtype == torch.int64
    for (image, target, _), of_slice in zip(some, counts, strict=True):
        grey = (image * 255).round()
        for t in (0, 1, 17, 128, 254, 255, 256):
            assert torch.equal(counts_from_pred((grey >= t)[None], target[None])[0], of_slice[t]), t


@given(slices())
def test_no_threshold_has_a_higher_mean_dice_on_the_slices_it_was_chosen_on(some):
    def mean_dice(t):
        preds = [counts_from_pred(((image * 255).round() >= t)[None], target[None]) for image, target, _ in some]
        return np.nan_to_num(summarise(torch.cat(preds))["dice"], nan=-1)

    best = mean_dice(best_threshold(some))
    assert all(mean_dice(t) <= best + 1e-12 for t in {0, 1, 40, 128, 200, 254, 255})


def test_the_threshold_is_chosen_on_training_slices_alone():
    target = torch.zeros(1, 4, 4)
    target[0, 1, 1] = 1
    train, held_out = [(0.8 * target, target, "a")], [(0.4 * target + 0.2, target, "b")]
    assert best_threshold(train) == 1  # the lowest of the equally good ones, 1..204
    counts = baseline_counts(train, held_out)
    assert counts["threshold"].tolist() == [[1, 15, 0, 0]]  # although 103 would have been right here
    assert counts["all background"].tolist() == [[0, 0, 1, 15]]


@st.composite
def targets_of_one_size(draw):
    """Training targets alone, as slices without images: no map may look at one."""
    shape = draw(st.sampled_from([(3, 4), (2, 2, 3)]))
    arrays = draw(st.lists(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)), min_size=1, max_size=5))
    return [(None, torch.from_numpy(a).float()[None], f"slice{i}") for i, a in enumerate(arrays)]


def mean_dice_of_map(lesion, some):
    """A loop over the slices; an empty target that the map is wrong about has a Dice of 0."""
    dice = []
    for _, target, _ in some:
        a, b = int(lesion.sum()), int(target.sum())
        if a + b:
            dice.append(2 * float((lesion * target).sum()) / (a + b))
    return sum(dice) / len(dice) if dice else 0.0


@given(targets_of_one_size())
def test_no_level_of_the_mean_target_makes_a_better_fixed_map(some):
    best = fixed_map(some)
    assert best.dtype == torch.bool and best.shape == some[0][1].shape
    mean = torch.stack([target for _, target, _ in some]).mean(0)
    for level in mean.unique():
        assert mean_dice_of_map((mean >= level).float(), some) <= mean_dice_of_map(best.float(), some) + 1e-9
    assert not best.any() or torch.equal(best, mean >= mean[best].min())  # it is one of these maps


def test_the_fixed_map_of_empty_targets_is_empty_and_of_one_target_is_that_target():
    target = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]])
    assert not fixed_map([(None, 0 * target, "a"), (None, 0 * target, "b")]).any()
    assert torch.equal(fixed_map([(None, target, "a")]), target > 0)


def test_a_fixed_map_wants_targets_of_one_size_and_at_least_one():
    with pytest.raises(ValueError, match="image b is 5 x 4 pixels, but those before it 4 x 4"):
        fixed_map([(None, torch.zeros(1, 4, 4), "a"), (None, torch.zeros(1, 5, 4), "b")])
    with pytest.raises(ValueError, match="there are none"):
        fixed_map([])


def test_the_lesion_fraction_is_a_probability_with_finite_odds():
    def fraction(*targets):
        [share] = lesion_fractions([(None, torch.tensor(t)[None], "") for t in targets])
        return share

    assert fraction([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]]) == pytest.approx(1 / 6)
    assert 0 < fraction([[0.0, 0.0]]) < fraction([[1.0, 1.0]]) + 1e-9 < 1 + 1e-9
    assert fraction([[0.0, 0.0, 0.0]]) == pytest.approx(1 / 3) and fraction([[1.0, 1.0, 1.0]]) == pytest.approx(2 / 3)


# ---- lesion classes ---------------------------------------------------------------------------------------------


def slices_of_two_classes():
    """Four slices in which class 0 is bright and class 1 is dark, and never both in one place."""
    found = []
    for i in range(4):
        image, target = torch.full((1, 6, 6), 0.4), torch.zeros(2, 6, 6)
        target[0, 1, : 1 + i], target[1, 4, i:] = 1, 1
        image[:, target[0] > 0], image[:, target[1] > 0] = 0.9, 0.6
        found.append((image, target, f"slice{i}"))
    return found


def test_each_class_has_the_baselines_it_would_have_alone():
    some = slices_of_two_classes()
    counts = baseline_counts(some[:2], some[2:])
    for k in (0, 1):
        alone = baseline_counts(list(select_class(some[:2], k)), list(select_class(some[2:], k)))
        for name in counts:
            assert counts[name].shape == (2, 2, 4) and torch.equal(counts[name][:, k], alone[name])
    assert counts["threshold"][:, 0, 1:3].sum() == 0  # only the bright class is above a level
    bright = torch.stack([image >= 0.5 for image, _, _ in some[2:]]).expand(-1, 2, -1, -1)  # (2, 2, 6, 6)
    target = torch.stack([target for _, target, _ in some[2:]])
    assert torch.equal(counts["threshold"][:, 1], class_counts(20.0 * bright - 10, target)[:, 1])


def test_each_class_has_its_own_share_of_the_pixels():
    some = slices_of_two_classes()
    pixels = 4 * 36
    assert lesion_fractions(some) == pytest.approx([(1 + 2 + 3 + 4) / pixels, (6 + 5 + 4 + 3) / pixels])
    empty = [(image, 0 * target, id_) for image, target, id_ in some]
    assert lesion_fractions(empty) == pytest.approx([1 / pixels] * 2)


def test_lesions_merge_classes_are_one_map():
    some = slices_of_two_classes()
    for (_, target, _), (_, both, _) in zip(some, merge_classes(some), strict=True):
        assert torch.equal(both[0], target.sum(0))


@given(slices())
def test_of_a_slice_with_neighbours_the_slice_itself_counts(some):
    stacked = [(torch.cat([1 - image, image, image**2]), target, id_) for image, target, id_ in some]
    assert torch.equal(threshold_counts(stacked), threshold_counts(some))
