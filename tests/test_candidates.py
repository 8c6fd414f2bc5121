"""Candidates against pieces drawn by hand, and against what must hold for any prediction."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.candidates import CandidateOptions, clear_others, find_candidates, keep_candidates

SPACING = (2.0, 0.5, 0.5)
volumes = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0]),
)


def smoothed(probs, spacing):
    """Each voxel's mean of the volume around it, with the weights of a Gaussian of 2 mm cut off at 6 mm."""
    out = probs.astype(float)
    for axis, mm in enumerate(spacing):
        reach = math.ceil(6 / mm)
        steps = np.arange(-reach, reach + 1)
        weights = np.exp(-((steps * mm) ** 2) / 8)
        size = out.shape[axis]
        picked = [out.take(np.clip(np.arange(size) + step, 0, size - 1), axis) for step in steps]
        out = np.tensordot(weights / weights.sum(), picked, 1)
    return out


def two_pieces():
    """A box over slices 1 to 3, and elsewhere two voxels that touch at a corner."""
    probs = np.zeros((6, 20, 20), np.float32)
    probs[1:4, 2:6, 3:9] = 0.7
    probs[2, 6:10, 3:9] = 0.7  # slice 2 has the most of it
    probs[4, 10, 9] = 0.9  # joined to nothing
    probs[5, 11, 10] = 0.8  # joined to it at a corner, in the next slice
    return probs


def test_a_candidate_says_where_and_how_large_it_is():
    probs = two_pieces()
    box, small = find_candidates(probs > 0.5, probs, SPACING)
    assert (box.id, small.id) == (1, 2) and 0.7 > box.score > 4 * small.score  # two voxels are soon smoothed away
    assert small.voxels == 2 and small.slices == (4, 5)
    assert box.voxels == 3 * 24 + 24 and box.slices == (1, 3) and box.middle == 2
    assert box.box == (slice(1, 4), slice(2, 10), slice(3, 9)) and box.region.sum() == box.voxels
    assert box.centre == pytest.approx(tuple(np.argwhere(probs == np.float32(0.7)).mean(axis=0)))
    assert box.position_mm == pytest.approx(tuple(np.multiply(box.centre, SPACING)))
    assert box.volume_mm3 == pytest.approx(96 * 0.5)
    assert math.pi / 6 * box.diameter_mm**3 == pytest.approx(box.volume_mm3)


def test_a_piece_in_the_box_of_another_is_not_part_of_it():
    probs = np.zeros((1, 9, 9), np.float32)
    probs[0, 0, :] = probs[0, :, 0] = 0.6
    probs[0, 5, 5] = 0.9
    dot, corner = find_candidates(probs > 0.5, probs, (9, 9, 9))
    assert dot.voxels == 1 and corner.voxels == 17 and corner.score == pytest.approx(0.6, abs=0.01)  # hardly smoothed


def test_without_a_spacing_sizes_are_unknown_and_places_are_not():
    probs = two_pieces()
    for spacing in (None, (math.nan, 0.5, 0.5)):
        first, second = find_candidates(probs > 0.5, probs, spacing)
        assert math.isnan(first.diameter_mm) and math.isnan(second.volume_mm3) and first.voxels == 96
        with pytest.raises(ValueError, match="needs the spacing"):
            find_candidates(probs > 0.5, probs, spacing, min_diameter_mm=1)


@settings(max_examples=40)
@given(probs=volumes, threshold=st.sampled_from([0.1, 0.5]), spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 4.0])] * 3))
def test_candidates_are_the_region_each_voxel_once_and_in_the_order_of_their_scores(probs, threshold, spacing):
    found = find_candidates(probs > threshold, probs, spacing)
    count, smooth = np.zeros(probs.shape, int), smoothed(probs, spacing)
    for number, c in enumerate(found, start=1):
        count[c.box] += c.region
        assert c.id == number and c.score == pytest.approx(smooth[c.box][c.region].max(), abs=1e-6) and c.score <= 1
        assert c.voxels == c.region.sum() and c.slices[0] <= c.middle <= c.slices[1]
        assert all(c.region.any(axis=tuple({0, 1, 2} - {a})).all() for a in range(3)) or c.region.ndim == 3
        assert all(s.start <= x <= s.stop - 1 for s, x in zip(c.box, c.centre, strict=True))
    assert np.array_equal(count, probs > threshold)
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_levels_of_sixteen_bits_are_probabilities_too():
    probs = two_pieces()
    levels = np.rint(probs * 65535).astype(np.uint16)
    for a, b in zip(
        find_candidates(probs > 0.5, probs, SPACING), find_candidates(levels > 32767, levels, SPACING), strict=True
    ):
        assert a.score == pytest.approx(b.score, abs=1e-4) and a.box == b.box


@settings(max_examples=30)
@given(probs=volumes, diameter=st.sampled_from([0.0, 1.3, 2.0]))
def test_a_smallest_diameter_and_a_mask_only_take_candidates_away(probs, diameter):
    region, lungs = probs > 0, np.indices(probs.shape).sum(axis=0) % 3 == 0
    everything = find_candidates(region, probs, (1, 1, 1))
    expected = [c.box for c in everything if c.diameter_mm >= diameter and 2 * lungs[c.box][c.region].sum() >= c.voxels]
    found = find_candidates(region, probs, (1, 1, 1), min_diameter_mm=diameter, lungs=lungs)
    assert [c.box for c in found] == expected and [c.id for c in found] == list(range(1, len(found) + 1))
    labels = region.astype(np.uint8)
    clear_others(labels, found)
    assert labels.sum() == sum(c.voxels for c in found) and not (labels > region).any()


def chest():
    """HU with a lung in the middle, and a bright spot in it and one in the wall: (hu, labels)."""
    hu = np.full((4, 60, 60), 40, np.int16)
    hu[:, 15:45, 15:45] = -850
    labels = np.zeros(hu.shape, np.uint8)
    labels[1:3, 25:30, 25:30] = labels[1:3, 5:8, 5:8] = 1
    hu[labels > 0] = 60
    return hu, labels


def test_the_lungs_take_away_what_is_in_the_wall():
    hu, labels = chest()
    probs = labels.astype(np.float32)
    assert len(keep_candidates(labels.copy(), probs, hu, (2, 2, 2), CandidateOptions())) == 2
    kept = labels.copy()
    (inside,) = keep_candidates(kept, probs, hu, (2, 2, 2), CandidateOptions(lungs=True))
    assert inside.voxels == 50 == kept.sum() and not kept[:, 5:8].any()
    (large,) = keep_candidates(labels.copy(), probs, hu, (2, 2, 2), CandidateOptions(min_diameter_mm=7))
    assert large.voxels == 50


def test_of_several_classes_the_largest_probability_counts():
    hu, labels = chest()
    probs = np.stack([0.2 * labels, 0.6 * labels]).astype(np.float32)  # (2, D, H, W)
    by_class, largest = (
        [c.score for c in keep_candidates(labels.copy(), p, hu, None, CandidateOptions())] for p in (probs, probs[1:])
    )
    assert by_class == largest and min(largest) > 0.06


def test_what_cannot_work_is_refused():
    hu, labels = chest()
    for spacing in (None, (2.0, math.nan, math.nan)):
        with pytest.raises(ValueError, match="--lungs needs the size of a pixel"):
            keep_candidates(labels, labels / 1.0, hu, spacing, CandidateOptions(lungs=True))
    assert keep_candidates(labels[0], labels[0] / 1.0, hu[0], None, CandidateOptions()) == []
    with pytest.raises(ValueError, match="this is a slice"):
        keep_candidates(labels[0], labels[0] / 1.0, hu[0], None, CandidateOptions(min_diameter_mm=3))
    with pytest.raises(ValueError, match="expected region and probs"):
        find_candidates(labels, labels[1:] / 1.0, SPACING)
    for diameter in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="--min-diameter-mm"):
            CandidateOptions(min_diameter_mm=diameter)
