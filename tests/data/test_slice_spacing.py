"""Resampling along the slice axis: any part alone is what it is in the whole, and targets follow the rule of slices."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.data.classes import one_hot
from lungseg.data.ct import resize_volume_target
from lungseg.data.slice_spacing import SliceGrid, resample_slices, resampled_depth

SPACING = st.sampled_from([0.45, 0.5, 1.0, 1.25, 2.5, 5.0])


def test_the_depth_in_mm_stays():
    assert [resampled_depth(8, mm, 1.25) for mm in (0.625, 1.25, 2.5)] == [4, 8, 16]
    assert resampled_depth(1, 0.5, 5) == 1
    for unknown in (math.nan, 0.0, math.inf):
        with pytest.raises(ValueError, match="expected the distance between slices in mm"):
            resampled_depth(8, unknown, 1.25)


@given(
    depth=st.integers(1, 12), spacing=SPACING, slice_mm=st.sampled_from([None, 1.0, 2.5]), seed=st.integers(0, 99),
    num_classes=st.integers(1, 3), data=st.data(),
)  # fmt: skip
def test_a_part_alone_is_that_of_the_whole(depth, spacing, slice_mm, seed, num_classes, data):
    rng = np.random.default_rng(seed)
    image = rng.random((depth, 3, 4), dtype=np.float32)
    labels = rng.integers(0, num_classes + 1, image.shape).astype(np.uint8)
    grid = SliceGrid(depth, spacing, slice_mm)
    assert grid.depth == (depth if slice_mm is None else resampled_depth(depth, spacing, slice_mm))
    first = data.draw(st.integers(0, grid.depth - 1))
    box = slice(first, first + data.draw(st.integers(1, 5)))  # may end beyond the last
    part = grid.image(image[grid.needed(box)], box)
    assert np.allclose(part, resample_slices(image, grid.depth)[box], atol=1e-6) and part.dtype == np.float32
    expected = one_hot(resize_volume_target(labels, (grid.depth, 3, 4)), num_classes)[:, box]
    channels = one_hot(labels, num_classes)
    assert np.array_equal(grid.target(channels[:, grid.needed(box)], box), expected)
    share = grid.target(channels, slice(0, grid.depth), soft=True)
    assert 0 <= share.min() and np.allclose(share.mean(axis=1), channels.mean(axis=1), atol=1e-5)  # nothing is lost


@given(depth=st.integers(1, 9), new=st.integers(1, 20), grey=st.floats(0, 1, width=32))
def test_what_is_equal_in_all_slices_stays(depth, new, grey):
    assert np.allclose(resample_slices(np.full((depth, 2, 3), grey, np.float32), new), grey, atol=1e-6)
    assert resample_slices(np.zeros((depth, 2, 3), np.float32), new).shape == (new, 2, 3)


def test_fewer_slices_are_means_and_more_are_between():
    ramp = np.arange(8, dtype=np.float32).reshape(8, 1, 1)
    assert np.allclose(resample_slices(ramp, 16)[2:-2].ravel(), np.arange(2, 14) / 2 - 0.25)
    noise = np.random.default_rng(0).random((400, 1, 1), dtype=np.float32)
    assert resample_slices(noise, 100).std() < 0.6 * noise.std()  # each new slice averages several
