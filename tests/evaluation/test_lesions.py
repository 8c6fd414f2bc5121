"""Lesions and detections against a flood fill written by hand, and cases one can check by eye."""

import math
import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.evaluation.lesions import (
    SIZES_MM,
    SIZES_PX,
    connected_components,
    count_calls,
    equal_diameter,
    match_lesions,
    size_class,
)


@st.composite
def pairs(draw, max_side=6):
    """(pred, target) of one shape, slices or volumes; sparse enough to have several pieces."""
    ndim = draw(st.integers(2, 3))
    shape = draw(hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=max_side if ndim == 2 else 4))
    sparse = st.integers(0, 3).map(lambda n: n == 0)
    return tuple(draw(hnp.arrays(bool, shape, elements=sparse)) for _ in range(2))


def flood_fill(region):
    """The pieces of a map as sets of places: from a place not yet seen, walk to all neighbours, corners included."""
    todo = set(map(tuple, np.argwhere(region).tolist()))
    steps = list(product((-1, 0, 1), repeat=region.ndim))
    pieces = []
    while todo:
        piece, edge = set(), [min(todo)]
        while edge:
            place = edge.pop()
            if place in todo:
                todo.remove(place)
                piece.add(place)
                edge += [tuple(a + b for a, b in zip(place, step, strict=True)) for step in steps]
        pieces.append(piece)
    return pieces


@given(pairs())
def test_lesions_and_detections_are_those_of_a_flood_fill(pair):
    pred, target = pair
    lesions, false_positives = match_lesions(pred, target, 1.0)
    true, detections = flood_fill(target), flood_fill(pred)
    want = sorted((len(piece), any(pred[place] for place in piece)) for piece in true)
    assert sorted((round(x.diameter, 6), x.found) for x in lesions) == [
        (round(2 * math.sqrt(n / math.pi) if pred.ndim == 2 else 2 * (3 * n / 4 / math.pi) ** (1 / 3), 6), found)
        for n, found in want
    ]
    assert false_positives == sum(not any(target[place] for place in piece) for piece in detections)


@given(pairs())
def test_turning_the_picture_round_changes_no_lesion(pair):
    def of(a, b):
        lesions, false_positives = match_lesions(a, b, 0.7)
        return sorted(lesions), false_positives

    pred, target = pair
    assert of(pred, target) == of(np.flip(pred), np.flip(target)) == of(pred.T, target.T)


@given(pairs())
def test_a_perfect_prediction_finds_all_and_an_empty_one_nothing(pair):
    _, target = pair
    lesions, false_positives = match_lesions(target, target, 1.0)
    assert all(x.found for x in lesions) and false_positives == 0
    lesions, false_positives = match_lesions(np.zeros_like(target), target, 1.0)
    assert not any(x.found for x in lesions) and false_positives == 0


# ---- by hand -----------------------------------------------------------------------------------------------


def picture(text):
    return np.array([[c == "#" for c in line] for line in text.split()])


def test_a_merged_detection_finds_both_and_a_broken_one_counts_once():
    target = picture("##.## ..... #####")
    merged = picture("##### ..... .....")
    broken = picture("..... ..... #.#.#")
    assert [x.found for x in match_lesions(merged, target, 1.0)[0]] == [True, True, False]
    assert [x.found for x in match_lesions(broken, target, 1.0)[0]] == [False, False, True]
    assert match_lesions(merged, target, 1.0)[1] == match_lesions(broken, target, 1.0)[1] == 0


def test_a_detection_next_to_a_lesion_is_a_false_positive():
    lesions, false_positives = match_lesions(picture(".#. .#. ... ..#"), picture("#.. #.. ... ..."), 1.0)
    assert [x.found for x in lesions] == [False] and false_positives == 2


def test_pieces_that_touch_at_a_corner_are_one_in_a_slice_and_in_a_volume():
    assert connected_components(picture("#. .#"))[1] == 1
    corner = np.zeros((2, 2, 2), bool)
    corner[0, 0, 0] = corner[1, 1, 1] = True
    assert connected_components(corner)[1] == 1


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_diameter_of_a_round_lesion_is_its_diameter(ndim):
    spacing = (2.0, 0.5, 0.8)[-ndim:]
    axes = np.meshgrid(*(np.arange(-15, 15, step) for step in spacing), indexing="ij")
    pixels = int((sum(a**2 for a in axes) <= 10.0**2).sum())  # radius 10 mm
    assert equal_diameter(pixels, spacing, ndim) == pytest.approx(20.0, rel=0.02)


def test_lesions_without_a_spacing_are_counted_but_have_no_size():
    lesions, false_positives = match_lesions(picture("#.. ... ..#"), picture("#.. ... ..."), math.nan)
    assert math.isnan(lesions[0].diameter) and lesions[0].found and false_positives == 1


def test_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and target \(3, 2\) must have the same shape"):
        match_lesions(np.zeros((2, 3)), np.zeros((3, 2)), 1.0)


@pytest.mark.parametrize(
    ("diameter", "mm", "px"),
    [
        (0.0, "no lesion", "no lesion"),
        (4.999, "<5 mm", "<7 px"),
        (5.0, "5-10 mm", "<7 px"),
        (7.0, "5-10 mm", "7-14 px"),
        (14.0, "10-20 mm", "14-28 px"),
        (20.0, ">=20 mm", "14-28 px"),
        (28.0, ">=20 mm", ">=28 px"),
        (400.0, ">=20 mm", ">=28 px"),
    ],
)
def test_a_size_begins_at_its_lower_edge(diameter, mm, px):
    assert (size_class(diameter, "mm"), size_class(diameter, "px")) == (mm, px)


def test_the_sizes_in_pixels_are_about_those_in_mm():
    for in_mm, in_px in zip(SIZES_MM.values(), SIZES_PX.values(), strict=True):
        assert [0.7 * edge for edge in in_px] == pytest.approx(in_mm, rel=0.03)


def test_a_large_volume_needs_little_memory():
    """The numbers of the pieces, four bytes a voxel, once; and some maps of one byte."""
    pred, target = np.zeros((2, 40, 128, 128), bool)
    pred[:2], target[-2:] = True, True
    tracemalloc.start()
    match_lesions(pred, target, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * pred.size


# ---- classes -----------------------------------------------------------------------------------------------


LABELS = hnp.arrays(
    np.uint8, st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5)), elements=st.sampled_from([0, 0, 1, 2, 3])
)


@given(maps=LABELS)  # (prediction and target, H, W)
def test_each_lesion_is_called_once_as_the_class_with_most_pixels_on_it(maps):
    pred, target = maps
    want = np.zeros((3, 4), int)
    for k in (1, 2, 3):
        for piece in flood_fill(target == k):
            votes = [sum(pred[place] == other for place in piece) for other in (1, 2, 3)]
            want[k - 1, votes.index(max(votes)) + 1 if max(votes) else 0] += 1
    assert np.array_equal(count_calls(pred, target, 3), want)


def test_a_lesion_that_is_called_by_its_class_is_on_the_diagonal():
    target = np.zeros((2, 9, 9), np.uint8)
    target[0, 1:3, 1:3], target[1, 5:7, 5:7], target[0, 8, 1] = 1, 2, 2
    pred = target.copy()
    pred[1, 5:7, 5:7] = 1  # the second is classified as class 1 ...
    pred[0, 8, 1] = 0  # ... and the third is missed
    assert count_calls(pred, target, 2).tolist() == [[0, 1, 0], [1, 1, 0]]
