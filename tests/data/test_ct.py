"""HU and grey levels, and resizing that neither shifts nor loses lesions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.data.ct import (
    HU_WINDOW,
    grey_to_hu,
    hu_to_grey,
    hu_to_unit,
    resize_image,
    resize_target,
    resize_volume_target,
    round_hu,
    uncrop,
)

WINDOWS = st.tuples(st.floats(-1500, 0), st.floats(1, 2000))
HU = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-3000, 3000))
SIDES = st.integers(1, 12)
TARGETS = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 1))


# ---- whole numbers -----------------------------------------------------------------------------------------


@given(hu=hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e5, 1e5)))
def test_whole_hu_are_the_nearest_ones_in_the_range_that_int16_and_air_allow(hu):
    whole = round_hu(hu)
    assert whole.dtype == np.int16 and whole.min() >= -1024
    assert np.abs(whole - np.clip(hu, -1024, 32767)).max() <= 0.5
    assert round_hu([-0.6, 0.6, -999.7, -2000, -3024, 65536]).tolist() == [-1, 1, -1000, -1024, -1024, 32767]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f2", "f4", "f8", "bool"])
def test_each_kind_of_number_holds_its_hu(dtype):
    assert round_hu(np.array([0, 1], dtype)).tolist() == [0, 1]
    highest = np.finfo(dtype).max if dtype[0] == "f" else 1 if dtype == "bool" else np.iinfo(dtype).max
    assert round_hu(np.array([highest], dtype)).tolist() == [min(int(highest), 32767)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_not_rounded(bad):
    with pytest.raises(ValueError, match="1 of 2 values are NaN or infinite"):
        round_hu([0.0, bad])


# ---- grey levels -------------------------------------------------------------------------------------------


@given(hu=HU, window=WINDOWS, bits=st.sampled_from([8, 16]))
def test_grey_comes_back_as_the_clipped_hu_within_half_a_step(hu, window, bits):
    grey = hu_to_grey(hu, window, bits)
    step = (window[1] - window[0]) / (2**bits - 1)
    error = np.abs(grey_to_hu(grey, window, bits) - np.clip(hu, *window))
    assert error.max() <= step / 2 + 1e-3  # the answer is float32


@given(hu=HU, window=WINDOWS)
def test_more_hu_is_never_darker(hu, window):
    assert (np.diff(hu_to_grey(np.sort(hu), window).astype(int)) >= 0).all()


@given(hu=HU, window=WINDOWS)
def test_a_network_gets_the_same_greys_without_the_steps(hu, window):
    unit = hu_to_unit(hu, window)
    assert unit.dtype == np.float32 and unit.min() >= 0 and unit.max() <= 1
    assert np.abs(unit - hu_to_grey(hu, window) / 255).max() <= 0.5 / 255 + 1e-5


def test_known_tissues_have_known_greys():
    air, water, above = hu_to_grey(np.array([-1000, 0, 3000]))
    assert (air, water, above) == (0, round(1000 / 1400 * 255), 255)
    assert hu_to_grey(np.array([400]), bits=16).tolist() == [65535]


def test_the_same_hu_is_the_same_grey_whatever_else_is_in_the_image():
    dark, bright = hu_to_grey(np.array([-2048, 40])), hu_to_grey(np.array([40, 1500]))
    assert dark[1] == bright[0]  # per-image min-max would make them differ


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_the_input_is_left_alone(dtype):
    hu = np.array([[-2048, 100], [50, 4000]], dtype)
    before = hu.copy()
    assert hu_to_grey(hu).dtype == np.uint8 and hu_to_unit(hu).dtype == np.float32
    assert np.array_equal(hu, before)


def test_what_cannot_be_converted_is_named():
    with pytest.raises(ValueError, match="1 of 2 values are NaN"):
        hu_to_grey(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="hu_to_unit: 1 of 2 values are NaN"):
        hu_to_unit(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="from low to high"):
        hu_to_grey(np.array([0.0]), hu_window=(400, -1000))
    with pytest.raises(ValueError, match="expected 8 or 16 bits, .* got 12"):
        grey_to_hu(np.array([0]), bits=12)


# ---- sizes -------------------------------------------------------------------------------------------------


@given(value=st.integers(0, 255), before=st.tuples(SIDES, SIDES), after=st.tuples(SIDES, SIDES))
def test_a_flat_image_stays_flat(value, before, after):
    image = np.full(before, value, np.uint8)
    resized = resize_image(image, after)
    assert resized.shape == after and resized.dtype == np.uint8
    assert (resized == value).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_resizing_keeps_the_type_and_the_range(dtype):
    image = np.random.default_rng(0).integers(0, 200, (20, 30)).astype(dtype)
    resized = resize_image(image, (13, 40))
    assert resized.dtype == dtype
    assert image.min() <= resized.min() and resized.max() <= image.max()


def test_shrinking_uses_every_pixel():
    image = np.zeros((64, 64), np.float32)
    image[::4, ::4] = 16.0  # one pixel in sixteen: sampling without a filter would see all of it or nothing
    assert np.allclose(resize_image(image, (16, 16))[2:-2, 2:-2], 1.0, atol=0.05)


def test_image_and_target_stay_in_register():
    rows, cols = np.mgrid[:96, :96]
    disc = ((rows - 30.0) ** 2 + (cols - 60.0) ** 2 < 144).astype(np.uint8)
    image, target = resize_image(disc * 200.0, (48, 40)), resize_target(disc, (48, 40))
    centroid = lambda a: [float((g * a).sum() / a.sum()) for g in np.indices(a.shape)]  # noqa: E731
    assert centroid(image) == pytest.approx(centroid(target.astype(float)), abs=0.1)
    assert centroid(image) == pytest.approx([30.5 / 2 - 0.5, 60.5 * 40 / 96 - 0.5], abs=0.1)


@given(target=TARGETS, after=st.tuples(SIDES, SIDES))
@settings(max_examples=200)
def test_a_pixel_is_lesion_where_at_least_half_of_it_was(target, after):
    """The oracle refines both grids to the common multiple of the sizes and counts small squares."""
    fine = np.kron(target, np.ones([math.lcm(n, m) // n for n, m in zip(target.shape, after, strict=True)], int))
    block = [n // m for n, m in zip(fine.shape, after, strict=True)]
    expected = [
        [
            2 * fine[i * block[0] : (i + 1) * block[0], j * block[1] : (j + 1) * block[1]].sum() >= block[0] * block[1]
            for j in range(after[1])
        ]
        for i in range(after[0])
    ]
    assert np.array_equal(resize_target(target, after), np.array(expected, np.uint8))


@given(target=TARGETS)
def test_enlarging_and_shrinking_back_changes_no_pixel(target):
    H, W = target.shape
    assert np.array_equal(resize_target(resize_target(target, (3 * H, 2 * W)), (H, W)), target)


def test_a_lesion_of_one_pixel_vanishes_at_half_the_size():
    target = np.zeros((8, 8), np.uint8)
    target[2, 2] = 1
    assert resize_target(target, (4, 4)).sum() == 0
    target[2, 3] = 1  # half of the new pixel
    assert resize_target(target, (4, 4)).tolist()[1] == [0, 1, 0, 0]


LABELS = hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.sampled_from([0, 0, 1, 2, 3, 254]))


@given(labels=LABELS, after=st.tuples(SIDES, SIDES))
def test_where_lesion_is_does_not_depend_on_its_classes(labels, after):
    resized = resize_target(labels, after)
    binary = resize_target((labels > 0).astype(np.uint8), after)
    assert resized.dtype == np.uint8 and np.array_equal(resized > 0, binary)
    assert set(np.unique(resized)) <= {0, *np.unique(labels)}


@given(labels=LABELS, factor=st.integers(1, 4))
def test_the_class_with_the_most_area_wins(labels, factor):
    H, W = (n // factor for n in labels.shape)
    if not H or not W:
        return
    labels = labels[: H * factor, : W * factor]
    resized = resize_target(labels, (H, W))
    for i, j in np.ndindex(H, W):
        block = labels[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        counts = np.bincount(block[block > 0], minlength=1)  # pixels of each class
        expected = counts.argmax() if 2 * (block > 0).sum() >= block.size else 0
        assert resized[i, j] == expected, block


@given(labels=LABELS)
def test_enlarging_and_shrinking_labels_changes_no_pixel(labels):
    H, W = labels.shape
    assert np.array_equal(resize_target(resize_target(labels, (3 * H, 2 * W)), (H, W)), labels)


def test_the_hu_window_is_that_of_the_folder_format():
    assert HU_WINDOW == (-1000, 400)


# ---- back onto the grid of a scan --------------------------------------------------------------------------------


volume_shapes = st.tuples(*[st.integers(1, 4)] * 3)
labels = volume_shapes.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 2)))


@given(labels, st.tuples(*[st.integers(1, 3)] * 3))
def test_a_volume_made_larger_repeats_its_voxels_and_comes_back(target, times):
    large = resize_volume_target(target, tuple(np.multiply(target.shape, times)))
    assert np.array_equal(large, np.kron(target, np.ones(times, np.uint8)))
    assert np.array_equal(resize_volume_target(large, target.shape), target)


@given(labels, volume_shapes)
def test_each_voxel_of_a_resized_volume_takes_what_covers_it_most(target, size):
    """Against counting: both grids are cut into the voxels of a third one that divides both."""
    fine = np.kron(target, np.ones(size, np.uint8))  # (D d, H h, W w)
    blocks = fine.reshape([n for pair in zip(size, target.shape, strict=True) for n in pair])
    blocks = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(*size, -1)  # each row: all of what one new voxel covers
    counts = np.stack([(blocks == label).sum(axis=-1) for label in range(3)])  # (3, *size)
    expected = np.where(2 * counts[1:].sum(axis=0) >= blocks.shape[-1], 1 + counts[1:].argmax(axis=0), 0)
    assert np.array_equal(resize_volume_target(target, size), expected)


@given(labels.filter(lambda t: t.max() < 2), st.integers(1, 4), st.integers(1, 4))
def test_a_volume_of_one_slice_is_resized_as_a_slice(target, height, width):
    assert np.array_equal(resize_volume_target(target[:1], (1, height, width))[0],
                          resize_target(target[0], (height, width)))  # fmt: skip


@given(labels, st.data())
def test_a_cut_goes_back_into_its_position_and_nowhere_else(whole, data):
    start = [data.draw(st.integers(0, n - 1)) for n in whole.shape]
    ends = [data.draw(st.integers(s + 1, n)) for s, n in zip(start, whole.shape, strict=True)]
    box = tuple(map(slice, start, ends))
    back = uncrop(whole[box], start, whole.shape)
    assert np.array_equal(back[box], whole[box]) and back.sum() == whole[box].sum() and back.dtype == whole.dtype


@pytest.mark.parametrize("start", [(1, 0, 0), (-1, 0, 0)])
def test_a_cut_that_does_not_fit_is_refused(start):
    with pytest.raises(ValueError, match=r"a cut of shape \(2, 2, 2\) that begins at .* does not fit into"):
        uncrop(np.zeros((2, 2, 2)), start, (2, 4, 4))
