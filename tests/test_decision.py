"""The two numbers between probabilities and lesions."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.decision import PLAIN, Decision, components, remove_small
from lungseg.evaluation.lesions import connected_components


def test_a_decision_comes_back_from_a_checkpoint_and_without_one_it_is_plain():
    decision = Decision(0.35, 4)
    assert Decision.from_dict(decision.to_dict()) == decision and Decision.from_dict(None) == PLAIN == Decision(0.5, 0)
    assert str(decision) == "above 0.35, in components of at least 4 pixels" and str(PLAIN) == "above 0.5"


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((0.0, 0), "--threshold must be between 0 and 1, got 0.0"), ((float("nan"), 0), "--threshold must be"),
     ((1.0, 0), "--threshold must be"), ((0.5, -1), "--min-pixels must be at least 0, got -1")],
)  # fmt: skip
def test_impossible_numbers_are_refused(numbers, words):
    with pytest.raises(ValueError, match=words):
        Decision(*numbers)


def neighbours(place, dims):
    """All places one step away along any of the last `dims` axes, diagonally too."""
    steps = np.array(np.meshgrid(*[[-1, 0, 1]] * dims, indexing="ij")).reshape(dims, -1).T
    for step in steps:
        yield (*place[: len(place) - dims], *(p + s for p, s in zip(place[len(place) - dims :], step, strict=True)))


def grown(labels, dims):
    """Each place of a label -> all places connected with it: a search, one place after the other."""
    found = {}
    for place in map(tuple, np.argwhere(labels > 0)):
        if place in found:
            continue
        component, waiting = {place}, [place]
        while waiting:
            for other in neighbours(waiting.pop(), dims):
                inside = all(0 <= p < n for p, n in zip(other, labels.shape, strict=True))
                if inside and labels[other] == labels[place] and other not in component:
                    component.add(other)
                    waiting.append(other)
        found |= dict.fromkeys(component, component)
    return found


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=3), seed=st.integers(0, 9), smallest=st.floats(0, 9),
    dims=st.sampled_from([2, 3]),
)  # fmt: skip
def test_what_is_left_is_every_component_that_is_large_enough(shape, seed, smallest, dims):
    dims = min(dims, len(shape))
    labels = np.random.default_rng(seed).choice(np.array([0, 0, 1, 2], np.uint8), shape)
    kept, component = remove_small(labels, smallest, dims), grown(labels, dims)
    for place in np.ndindex(*shape):
        large = labels[place] > 0 and len(component[place]) >= smallest
        assert kept[place] == (labels[place] if large else 0)


def test_a_size_that_is_a_rounding_error_larger_removes_nothing():
    labels = np.zeros((12, 12), np.uint8)
    labels[:10, :10] = 1  # 100 pixels
    smallest = 49 / (0.7 * 0.7)  # 49 pixels of the training
    assert smallest > 100 and np.array_equal(remove_small(labels, smallest, 2), labels)
    assert not remove_small(labels, 100.01, 2).any()


def test_components_are_those_of_the_lesion_counts():
    region = np.random.default_rng(0).random((5, 6, 7)) > 0.7
    ours, theirs = components(region, 3), connected_components(region)
    assert ours[1] == theirs[1] and np.array_equal(ours[0], theirs[0])
    assert components(region, 2)[1] == sum(connected_components(slice_)[1] for slice_ in region)
