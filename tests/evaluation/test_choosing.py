"""The choice of a threshold and a smallest component, against every decision tried one after the other."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.decision import Decision
from lungseg.evaluation.choosing import MIN_PIXELS, THRESHOLDS, bounding_box, choose, dice_grid


def touching(a, b, dims):
    """Whether two places are neighbours along the last `dims` axes, diagonally too."""
    apart = [abs(x - y) for x, y in zip(a, b, strict=True)]
    return not any(apart[: len(apart) - dims]) and max(apart) <= 1


def dice_by_hand(probs, target, threshold, smallest, dims, pixel):
    """Of one map: components are merged by looking at all pairs of places."""
    places = [tuple(p) for p in np.argwhere(probs > np.float32(threshold))]
    groups = [{p} for p in places]
    for a, b in itertools.combinations(places, 2):
        if touching(a, b, dims):
            one, two = (next(g for g in groups if p in g) for p in (a, b))
            if one is not two:
                groups.remove(two)
                one |= two
    predicted = set().union(*(g for g in groups if len(g) * pixel >= smallest - 1e-9), set())
    lesion = {tuple(p) for p in np.argwhere(target)}
    total = len(predicted) + len(lesion)
    return 2 * len(predicted & lesion) / total if total else math.nan


def images(seed, shape, classes, num):
    """Smooth blobs with noise: components of many sizes. Every third image has no lesion."""
    rng = np.random.default_rng(seed)
    for i in range(num):
        target = (rng.random((classes, *shape)) > 0.6).astype(np.float32) * (i % 3 > 0)
        yield f"i{i}", np.clip(0.4 * target + rng.random(target.shape) * 0.6, 0, 1).astype(np.float32), target


@settings(max_examples=8)
@given(
    seed=st.integers(0, 99), classes=st.integers(1, 2), shape=st.sampled_from([(4, 5), (2, 3, 3)]),
    dims=st.sampled_from([2, 3]), pixel=st.sampled_from([1.0, 4 / 9]),
)  # fmt: skip
def test_the_choice_is_the_best_of_all_decisions(seed, classes, shape, dims, pixel):
    dims, data = min(dims, len(shape)), list(images(seed, shape, classes, 4))
    thresholds, sizes = THRESHOLDS[3::4], MIN_PIXELS[:6]  # all would take a minute
    found = choose([dice_grid(id_, p, y, dims, pixel=pixel) for id_, p, y in reversed(data)])

    def mean_dice(threshold, smallest):
        of_classes = []
        for k in range(classes):
            dice = [dice_by_hand(p[k], y[k], threshold, smallest, dims, pixel) for _, p, y in data]
            of_classes.append(np.mean([d for d in dice if not math.isnan(d)]))
        return np.mean(of_classes)

    tried = {(t, s): mean_dice(t, s) for t in thresholds for s in sizes}
    assert found.dice >= max(tried.values()) - 1e-12
    assert found.dice == pytest.approx(mean_dice(found.decision.threshold, found.decision.min_pixels))
    assert found.plain_dice == pytest.approx(mean_dice(0.5, 0))


def test_the_best_pair_is_found_where_it_is_known():
    """A lesion at 0.42, and two single pixels at 0.9 that are none."""
    target, probs = np.zeros((2, 1, 8, 8), np.float32)
    target[0, 2:5, 2:5], probs[0, 2:5, 2:5] = 1, 0.42
    probs[0, 0, 0] = probs[0, 7, 7] = 0.9
    found = choose([dice_grid("a", probs, target, 2)])
    assert (
        found.decision == Decision(0.4, 2) and found.dice == 1 and found.plain_dice == 0
    )  # nearest 1/2, smallest size


def test_without_a_reason_nothing_is_changed():
    target = np.zeros((1, 8, 8), np.float32)
    target[0, :4] = 1
    found = choose([dice_grid("a", target * 0.9, target, 2)])
    assert found.decision == Decision(0.5, 0) and found.dice == found.plain_dice == 1


def test_an_empty_image_counts_only_where_it_has_a_false_alarm():
    """As in the metrics: rightly silent has no Dice, a false alarm has 0."""
    lesion, empty = np.zeros((2, 1, 6, 6), np.float32)
    lesion[0, 1:4, 1:4] = 1
    alarm = empty.copy()
    alarm[0, 0, :3] = 0.7
    pair = [dice_grid("a", lesion * 0.95, lesion, 2), dice_grid("b", alarm, empty, 2)]
    assert np.isnan(pair[1].dice[0, THRESHOLDS.index(0.75), 0]) and pair[1].dice[0, THRESHOLDS.index(0.5), 0] == 0
    found = choose(pair)
    assert found.plain_dice == 0.5 and found.dice == 1
    assert found.decision == Decision(0.5, 4)  # the smaller change of the threshold wins: none


def test_without_any_dice_there_is_no_choice():
    empty = np.zeros((1, 4, 4), np.float32)
    assert choose([]) is None and choose([dice_grid("a", empty, empty, 2)]) is None
    assert choose([dice_grid("a", empty + 0.9, empty, 2)]) is None  # false alarms alone: a class that does not occur


def test_a_class_that_does_not_occur_has_no_say():
    target = np.zeros((2, 6, 6), np.float32)
    target[0, 1:4, 1:4] = 1
    probs = np.stack([0.3 * target[0], np.full((6, 6), 0.9, np.float32)])
    assert choose([dice_grid("a", probs, target, 2)]) == (Decision(0.25, 0), 1.0, 0.0)


def test_the_box_holds_everything_and_no_more():
    region = np.zeros((5, 6, 7), bool)
    assert region[bounding_box(region)].size == 0
    region[1, 2, 3] = region[3, 2, 5] = True
    assert bounding_box(region) == (slice(1, 4), slice(2, 3), slice(3, 6))
