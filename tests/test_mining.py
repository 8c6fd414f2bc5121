"""Windows without a lesion: nothing outlined is in them, they are spread, and have the scale of the training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lungseg.checkpoint import InputSpec
from lungseg.data.ct import hu_to_grey
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.data.volumes import VolumeWriter
from lungseg.mining import (
    NEAR_SLICES,
    Source,
    Window,
    body_mask,
    cut,
    false_positives,
    is_near,
    random_windows,
    read_source,
    spread,
    window_sides,
    wrong_windows,
)
from lungseg.predictor import Predictor

INPUT = InputSpec((16, 16), (1.0, 1.0), (-1000.0, 400.0), 0.7)
RECORD = ImageRecord("scan", "patient", "train")


def chest(depth=8, side=80):
    """Tissue with a lung in it, in air; and the (D, H, W) that was seen: a ball."""
    rows, cols = np.indices((side, side)) - side / 2
    hu = np.full((depth, side, side), -1000, np.int16)
    hu[:, np.hypot(rows, cols) < 0.45 * side] = 0
    hu[:, np.hypot(rows, cols) < 0.3 * side] = -800
    seen = np.zeros(hu.shape, bool)
    seen[2:5, 35:43, 28:36] = True
    return Source(RECORD, hu, seen, (0.7, 0.7), (side, side))


def test_the_body_is_tissue_and_what_it_encloses_without_thin_parts():
    hu = chest().hu[0].copy()
    hu[78:80] = 0  # a table, two pixels thick
    rows, cols = np.indices(hu.shape) - 40.0
    distance = np.hypot(rows, cols)
    body = body_mask(hu)
    assert body[distance < 33].all() and not body[distance > 37].any()


def test_a_detection_that_touches_what_was_seen_is_right_and_the_others_are_wrong():
    probs, seen = np.zeros((30, 30)), np.zeros((30, 30), bool)
    seen[5:10, 5:10] = True
    probs[9:12, 9:12] = 0.9
    probs[20, 20:23], probs[20, 21] = 0.7, 0.8
    probs[21, 23] = 0.6  # it touches at a corner
    probs[1, 28] = 0.5  # not above 1/2
    assert false_positives(probs, seen) == [(20.25, 21.5, 0.8)]
    assert len(false_positives(probs, seen, 0.4)) == 2 and false_positives(0 * probs, seen) == []


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), most=st.integers(1, 8), side=st.sampled_from([9, 16]))
def test_wrong_windows_hold_nothing_outlined_and_are_apart_most_certain_first(seed, most, side):
    source, rng = chest(), np.random.default_rng(seed)
    probs = np.where(rng.random(source.hu.shape) > 0.995, rng.uniform(0.4, 1, source.hu.shape), 0)
    windows = wrong_windows(probs, source.seen, (side, side), most, np.random.default_rng(seed))
    assert windows == wrong_windows(probs, source.seen, (side, side), most, np.random.default_rng(seed))
    assert len(windows) == most
    scores = [w.score for w in windows]
    assert scores == sorted(scores, reverse=True) and min(scores) > 0.5
    check_windows(windows, source, side)
    for w in windows:
        assert probs[w.z, max(0, w.row - 1) : w.row + 2, max(0, w.col - 1) : w.col + 2].any()
        assert w.top <= w.row < w.top + side and w.left <= w.col < w.left + side


def check_windows(windows, source, side):
    for i, w in enumerate(windows):
        assert 0 <= w.top <= source.hu.shape[1] - side and 0 <= w.left <= source.hu.shape[2] - side
        assert not source.seen[w.z, w.top : w.top + side, w.left : w.left + side].any()
        for v in windows[:i]:
            assert abs(w.z - v.z) >= NEAR_SLICES or 2 * max(abs(w.row - v.row), abs(w.col - v.col)) >= side


@settings(max_examples=15)
@given(seed=st.integers(0, 9999), num=st.integers(0, 12))
def test_random_windows_are_in_the_body_apart_and_half_of_them_in_the_lung(seed, num):
    source = chest(depth=20)
    taken = [Window(0, 30, 30, 38, 38, 0.9)]
    windows = random_windows(source, (12, 12), num, np.random.default_rng(seed), taken)
    assert windows == random_windows(source, (12, 12), num, np.random.default_rng(seed), taken)
    assert len(windows) == num and all(np.isnan(w.score) for w in windows)
    check_windows([*taken, *windows], source, 12)
    assert all(body_mask(source.hu[w.z])[w.row, w.col] for w in windows)
    assert sum(source.hu[w.z, w.row, w.col] == -800 for w in windows) >= num // 2


def test_in_the_lungs_means_the_middle_of_each_window():
    source = chest(depth=12)
    inner = np.zeros_like(source.seen)
    inner[3:9, 30:50, 36:50] = True
    windows = random_windows(replace(source, lungs=inner), (12, 12), 6, np.random.default_rng(0))
    assert len(windows) == 6 and all(inner[w.z, w.row, w.col] for w in windows)
    check_windows(windows, source, 12)


def test_where_there_is_no_room_there_are_fewer_windows():
    source = chest(depth=2)
    assert 1 <= len(random_windows(source, (60, 60), 50, np.random.default_rng(0))) <= 4
    full = replace(source, seen=np.ones_like(source.seen))
    assert random_windows(full, (12, 12), 5, np.random.default_rng(0)) == []
    assert wrong_windows(full.seen.astype(float), full.seen, (12, 12), 5, np.random.default_rng(0)) == []


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=6), num=st.integers(0, 20), seed=st.integers(0, 99))
def test_windows_are_taken_from_each_scan_in_turn(sizes, num, seed):
    rng = np.random.default_rng(seed)
    windows = [[Window(i, 0, 0, 0, 0, s) for i, s in enumerate(sorted(rng.random(n))[::-1])] for n in sizes]
    chosen = spread(windows, num)
    assert sum(map(len, chosen)) == min(num, sum(sizes))
    assert all(taken == of_scan[: len(taken)] for taken, of_scan in zip(chosen, windows, strict=True))
    most = max(map(len, chosen))
    assert all(len(taken) >= min(n, most - 1) for taken, n in zip(chosen, sizes, strict=True))


def test_near_is_in_all_three_directions():
    there = [Window(10, 0, 0, 50, 50)]
    assert is_near(10 + NEAR_SLICES - 1, 57, 43, there, (16, 16))
    for z, row, col in ((10 + NEAR_SLICES, 50, 50), (10, 58, 50), (10, 50, 42)):
        assert not is_near(z, row, col, there, (16, 16))


# ---- reading and scale ------------------------------------------------------------------------------------------


def test_what_one_reader_outlined_is_seen(tmp_path):
    source = chest()
    with VolumeWriter(tmp_path / "volumes") as out:
        out.add(RECORD, source.hu, source.seen.astype(np.uint8), (2.0, 0.7, 0.8))
    votes = np.zeros(source.hu.shape, np.uint8)
    votes[6, 1, 1] = 1
    path = tmp_path / "volumes/volumes/scan.npz"
    with np.load(path) as arrays:
        entries = dict(arrays)
    np.savez(path, **entries, votes=votes)
    found = read_source(tmp_path / "volumes", RECORD)
    assert np.array_equal(found.seen, source.seen | (votes > 0)) and np.array_equal(found.hu, source.hu)
    assert found.pixel_mm == (0.7, 0.8)
    with SliceWriter(tmp_path / "slices") as out:
        out.add(RECORD, hu_to_grey(source.hu[2]), source.seen[2].astype(np.uint8))
    found = read_source(tmp_path / "slices", RECORD)
    assert np.array_equal(found.seen[0], source.seen[2]) and np.abs(found.hu[0] - source.hu[2]).max() <= 3


def predictor(**changes):
    return Predictor(torch.nn.Identity(), replace(INPUT, **changes))


def test_the_lungs_of_a_scan_hold_its_air_and_what_is_seen_in_it(tmp_path):
    source = chest()
    with VolumeWriter(tmp_path / "volumes") as out:
        out.add(RECORD, source.hu, source.seen.astype(np.uint8), (2.0, 0.7, 0.7))
        nowhere, anywhere = replace(RECORD, id="solid"), replace(RECORD, id="unknown")
        out.add(nowhere, 0 * source.hu, 0 * source.seen.astype(np.uint8), (2.0, 0.7, 0.7))
        out.add(anywhere, source.hu, source.seen.astype(np.uint8), (2.0, math.nan, math.nan))
    read = read_source(tmp_path / "volumes", RECORD, lungs=True)
    assert read.lungs[source.hu == -800].all() and read.lungs[source.seen].all() and not read.lungs[:, :10].any()
    assert read_source(tmp_path / "volumes", RECORD).lungs is None
    with pytest.raises(ValueError, match="solid: there is no lung in it. Give whole slices, or leave out --lungs"):
        read_source(tmp_path / "volumes", nowhere, lungs=True)
    with pytest.raises(ValueError, match="unknown: the lungs cannot be found without the size of a pixel"):
        read_source(tmp_path / "volumes", anywhere, lungs=True)


def test_a_window_has_the_scale_of_the_training_files():
    source = chest()
    assert window_sides(predictor(), source, 16) == ((1.0, 1.0), (16, 16))
    # The files were shrunk to half of their sources, and the network saw half of the files' pixels.
    halved = predictor(size=(20, 20), scale=(0.5, 0.5), source_scale=(0.25, 0.25), spacing_mm=1.4)
    scale, sides = window_sides(halved, source, 16)
    assert scale == (0.25, 0.25) and sides == (32, 32)
    image = cut(source, Window(0, 20, 20, 36, 36), sides, 16, (-1000.0, 400.0))
    assert image.shape == (16, 16) and image.dtype == np.uint8
    plain = cut(source, Window(0, 20, 20, 36, 36), (16, 16), 16, (-1000.0, 400.0))
    assert np.array_equal(plain, hu_to_grey(source.hu[0, 20:36, 20:36]))


def test_what_has_no_window_is_refused():
    source = chest()
    with pytest.raises(ValueError, match="scan: a window of 96 x 96 pixels does not fit into slices of 80 x 80"):
        window_sides(predictor(), source, 96)
    with pytest.raises(ValueError, match="all stretched to one, so a window has no scale"):
        window_sides(predictor(stretched=True), source, 16)
    with pytest.raises(ValueError, match="was trained on volumes, and windows are slices"):
        window_sides(predictor(size=(4, 16, 16), scale=(1.0, 1.0, 1.0)), source, 16)
