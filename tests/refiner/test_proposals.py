"""Proposals: components by a flood fill, order, margins; jitter in proportion to the box."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.refiner.proposals import Proposal, grow_box, jitter_box, propose

SHAPE = (12, 15)


def flood(region):
    """The components of pixels that touch at edges or corners, as sets, by a stack."""
    left, found = {tuple(p) for p in np.argwhere(region)}, []
    while left:
        todo, component = [left.pop()], set()
        while todo:
            y, x = todo.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(component)
    return found


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.0, 0.1, 0.5]), share=st.floats(0, 0.9))
def test_each_component_above_the_threshold_is_proposed_once_with_its_largest_probability(seed, threshold, share):
    rng = np.random.default_rng(seed)
    probs = rng.random((2, *SHAPE)) * (rng.random((2, *SHAPE)) > share)
    expected = []
    for number, prob in enumerate(probs):
        for component in flood(prob > threshold):
            y, x = zip(*component, strict=True)
            box = (max(min(x) - 1, 0), max(min(y) - 1, 0), min(max(x) + 1, 14), min(max(y) + 1, 11))
            expected.append((number, box, max(prob[p] for p in component)))
    proposals = propose(probs, threshold=threshold, margin=0.0, most=99)
    assert sorted((p.slice, p.box, p.score) for p in proposals) == sorted(expected)
    assert [(p.slice, -p.score) for p in proposals] == sorted((p.slice, -p.score) for p in proposals)
    alone = [Proposal(n, p.box, p.score) for n in (0, 1) for p in propose(probs[n], threshold=threshold, margin=0.0)]
    assert propose(probs, threshold=threshold, margin=0.0) == alone  # the best 8 of each slice, each slice for itself


def test_boxes_are_columns_then_rows_and_nothing_above_the_threshold_gives_none():
    prob = np.zeros(SHAPE)
    prob[2, 5:9] = 0.3  # one row, four columns
    assert propose(prob) == [Proposal(0, (4.0, 1.0, 9.0, 3.0), 0.3)]
    assert propose(prob, threshold=0.3) == [] and propose(np.zeros((0, 5, 5))) == []
    assert propose(prob, margin=0.5)[0].box == (3.0, 1.0, 10.0, 3.0)


def test_a_margin_grows_with_the_box_and_stops_at_the_slice():
    assert grow_box((10, 20, 29, 24), (100, 100), 0.1) == (8, 19, 31, 25)
    assert grow_box((0, 20, 99, 99), (100, 100), 0.1) == (0, 12, 99, 99)


@given(
    corners=st.tuples(st.integers(0, 14), st.integers(0, 11), st.integers(0, 14), st.integers(0, 11)),
    share=st.floats(0, 0.49),
    seed=st.integers(0, 99),
)
def test_jitter_moves_each_side_by_at_most_its_share_and_keeps_the_box_a_box(corners, share, seed):
    box = np.sort(np.reshape(corners, (2, 2)), axis=0).ravel()
    moved = np.array(jitter_box(box, SHAPE, np.random.default_rng(seed), share=share))
    most = np.tile(share * (box[2:] - box[:2] + 1), 2)
    assert (moved[:2] <= moved[2:]).all() and (moved >= 0).all() and (moved <= (14, 11, 14, 11)).all()
    if (box[2:] - box[:2] >= 2).all():
        assert (np.abs(moved - box) <= most + 1e-9).all()


def test_jitter_reaches_both_ways_and_draws_each_side_for_itself():
    moved = np.array([jitter_box((40, 40, 59, 49), (99, 99), np.random.default_rng(s), share=0.2) for s in range(400)])
    change = moved - (40, 40, 59, 49)
    assert np.allclose(np.abs(change).max(0), [4, 2, 4, 2], rtol=0.05) and np.allclose(change.mean(0), 0, atol=0.4)
    assert np.abs(np.corrcoef(change.T) - np.eye(4)).max() < 0.15


@pytest.mark.parametrize("options", [{"threshold": 1.0}, {"margin": -0.1}, {"most": 0}])
def test_what_cannot_be_proposed_is_refused(options):
    with pytest.raises(ValueError, match="propose: expected probabilities"):
        propose(np.zeros((4, 4)), **options)
    with pytest.raises(ValueError, match=r"got shape \(4,\)"):
        propose(np.zeros(4))
    with pytest.raises(ValueError, match=r"share must be in \[0, 0.5\)"):
        jitter_box((0, 0, 3, 3), SHAPE, np.random.default_rng(0), share=0.5)
