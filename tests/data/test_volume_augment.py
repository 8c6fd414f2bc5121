"""The variation of a crop in the plane of its slices: where each pixel is read, and that nothing else is read."""

import numpy as np
from hypothesis import given, strategies as st

from lungseg.data.augment import Augmentation
from lungseg.data.elastic import sample_at
from lungseg.data.volume_augment import box_around, plane_coordinates, sample_slices

FULL = Augmentation(elastic_probability=1)
SIZE = st.tuples(*[st.integers(1, 20)] * 2)
START = st.tuples(*[st.integers(0, 50)] * 2).map(np.array)


@given(start=START, size=SIZE)
def test_without_variation_each_pixel_is_read_where_it_is(start, size):
    still = Augmentation(rotation=0, elastic_probability=0)
    coordinates = plane_coordinates(still, still.draw(np.random.default_rng(0)), start, size, None)
    assert np.array_equal(coordinates, np.indices(size) + start[:, None, None]) and coordinates.dtype == np.float32


@given(start=START, size=SIZE, seed=st.integers(0, 999), data=st.data())
def test_the_voxel_of_a_lesion_is_read_exactly(start, size, seed, data):
    row, col = (data.draw(st.integers(0, side - 1)) for side in size)
    draw = FULL.draw(np.random.default_rng(seed))
    coordinates = plane_coordinates(FULL, draw, start, size, np.array([7, start[0] + row, start[1] + col]))
    assert np.allclose(coordinates[:, row, col], start + (row, col), atol=1e-5)


@given(start=START, size=SIZE, seed=st.integers(0, 999))
def test_a_turned_crop_keeps_its_middle_its_angle_and_its_distances(start, size, seed):
    turning = Augmentation(elastic_probability=0)
    draw = turning.draw(np.random.default_rng(seed))
    coordinates = plane_coordinates(turning, draw, start, size, None).astype(float)
    middle = start + (np.array(size) - 1) / 2
    assert np.allclose(coordinates.mean(axis=(1, 2)), middle, atol=1e-4)
    from_middle, still = coordinates - middle[:, None, None], np.indices(size) + (start - middle)[:, None, None]
    turned = (from_middle[1] - 1j * from_middle[0]) * np.exp(1j * np.radians(draw.angle))  # rows count downwards
    assert np.allclose(turned, still[1] - 1j * still[0], atol=1e-4)  # read at -angle: the picture turns by angle


@given(seed=st.integers(0, 99))
def test_a_whole_slice_is_varied_as_the_augmentation_of_slices_does(seed):
    rng = np.random.default_rng(seed)
    image = rng.random((12, 15), dtype=np.float32)
    plain = Augmentation(horizontal_flip=0, vertical_flip=0, brightness=0, contrast=0, elastic_probability=0.5)
    expected, _ = plain(image, np.zeros(image.shape, np.uint8), np.random.default_rng(seed))
    draw = plain.draw(np.random.default_rng(seed))
    coordinates = plane_coordinates(plain, draw, np.array([0, 0]), image.shape, None)
    assert np.allclose(sample_at(image, coordinates, order=1), expected, atol=1e-5)


@given(start=START, size=SIZE, seed=st.integers(0, 999), order=st.sampled_from([0, 1]))
def test_the_box_holds_all_that_is_read(start, size, seed, order):
    rng = np.random.default_rng(seed)
    slices = rng.random((2, 40, 44), dtype=np.float32)
    start = start % (40, 44)  # so that the crop may reach beyond the slice
    coordinates = plane_coordinates(FULL, FULL.draw(rng), start, size, None)
    rows, cols = box_around(coordinates, (40, 44))
    inside = coordinates - np.array([[[rows.start]], [[cols.start]]], np.float32)
    expected = [sample_at(slice_, coordinates, order=order) for slice_ in slices]
    found = sample_slices(slices[:, rows, cols], inside, order=order)
    if order == 1:
        assert np.allclose(found, expected, atol=1e-4)
    else:  # rounding may move a place that is just between two pixels
        assert (found != expected).mean() < 0.02
    assert (rows.stop - rows.start) <= 1.5 * size[0] + 0.6 * size[1] + 25  # and little more
