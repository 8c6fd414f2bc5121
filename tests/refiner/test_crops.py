"""Crops: putting back undoes cutting out, whole shifts change nothing, boxes go there and back."""

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from scipy import ndimage

from lungseg.evaluation.box_controls import bounding_box
from lungseg.refiner.crops import crop_at

SHAPE = (40, 50)
BOXES = st.tuples(st.integers(0, 49), st.integers(0, 39), st.integers(0, 49), st.integers(0, 39)).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def inside(box):
    return np.s_[..., box[1] : box[3] + 1, box[0] : box[2] + 1]


@settings(max_examples=40)
@given(box=BOXES, scale=st.integers(1, 4))
def test_putting_back_a_crop_of_whole_scale_is_the_identity_on_the_box(box, scale):
    side = 2 * (max(box[2] - box[0], box[3] - box[1]) + 1)
    picture = image()
    crop = crop_at(picture, box, scale * side, smallest=1)
    assert crop.scale == scale
    back = crop.paste(crop.pixels, SHAPE)
    assert np.array_equal(back[inside(box)], picture[inside(box)])
    assert np.isin(back, np.append(picture, 0)).all()  # outside the crop 0, and nowhere a mixture


@settings(max_examples=20)
@given(box=BOXES, zoom=st.floats(1, 3))
def test_at_any_magnification_it_is_the_identity_for_what_is_straight(box, zoom):
    """Linear interpolation reproduces a plane; the slice is so large that the crop does not leave it."""
    y, x = np.mgrid[:110, :120]
    plane, box = (3 * x - 2 * y + 100).astype(np.float32), tuple(n + 35 for n in box)
    crop = crop_at(plane, box, int(zoom * 75) + 1, context=1.5, smallest=8)
    back = crop.paste(crop.pixels, plane.shape)
    assert np.abs(back - plane)[inside(box)].max() < 1e-3


@settings(max_examples=30)
@given(box=BOXES, size=st.integers(8, 70), shift=st.tuples(st.integers(0, 9), st.integers(0, 9)))
@example(box=(4, 4, 8, 7), size=10, shift=(1, 0))  # begins between two pixels: rounding to even would go both ways
def test_moving_slice_and_box_together_changes_no_bit_of_the_crop(box, size, shift):
    right, down = shift
    picture = np.zeros((60, 70), np.float32)
    picture[:40, :50] = image()
    moved = np.roll(picture, (down, right), axis=(0, 1))
    there = crop_at(picture, box, size, smallest=5)
    here = crop_at(moved, tuple(np.add(box, (right, down, right, down))), size, smallest=5)
    assert np.array_equal(there.pixels, here.pixels) and there.box == pytest.approx(here.box, abs=1e-9)
    mask = image(1, (size, size))
    pasted = there.paste(mask, (90, 90))[: 90 - down, : 90 - right]
    assert np.allclose(here.paste(mask, (90, 90))[down:, right:], pasted, atol=1e-6)


@given(box=BOXES, size=st.integers(8, 70), context=st.floats(1, 4))
def test_a_box_goes_to_the_crop_and_back_and_lies_in_its_middle(box, size, context):
    crop = crop_at(np.zeros(SHAPE), box, size, context=context)
    assert crop.to_image(crop.box) == pytest.approx(box, abs=1e-9)
    assert crop.to_image(crop.to_crop((1.5, 2.0, 7.0, 30.25))) == pytest.approx((1.5, 2.0, 7.0, 30.25), abs=1e-9)
    x0, y0, x1, y1 = crop.box
    off = np.abs([(x0 + x1) / 2 - (size - 1) / 2, (y0 + y1) / 2 - (size - 1) / 2])
    assert (off <= crop.scale / 2 + 1e-9).all()  # the region begins at a whole pixel
    assert x0 >= -0.5 - crop.scale / 2 and x1 <= size - 0.5 + crop.scale / 2
    assert max(x1 - x0, y1 - y0) + 1 <= size / context + 1e-9


def test_a_box_around_a_lesion_is_the_box_around_the_magnified_lesion():
    target = np.zeros(SHAPE)
    target[10:14, 20:29] = 1
    crop = crop_at(target, bounding_box(target), 64, smallest=32)
    assert (crop.scale, crop.left, crop.top) == (2, 8, -4)
    assert crop.box == (23.5, 27.5, 40.5, 34.5)  # 9 x 4 pixels have become 18 x 8
    drawn = bounding_box(crop.cut(target) >= 0.5)
    assert np.abs(np.subtract(crop.box, drawn)).max() <= 0.5  # half a pixel of the crop: between two pixels


def test_a_crop_is_scipys_linear_interpolation_and_air_beyond_the_slice():
    picture = image()
    crop = crop_at(picture, (1, 3, 9, 12), 47, smallest=30)
    v, u = np.mgrid[:47, :47] / crop.scale
    expected = ndimage.map_coordinates(
        picture.astype(float), [v + crop.top, u + crop.left], order=1, mode="grid-constant"
    )
    assert crop.left < 0 and np.allclose(crop.pixels, expected, atol=1e-6)


def test_several_channels_are_cut_alike_and_a_large_region_is_averaged():
    picture = image(shape=(2, *SHAPE))
    crop = crop_at(picture, (0, 0, 39, 39), 16)
    assert crop.pixels.shape == (2, 16, 16) and crop.size == 16
    assert np.array_equal(crop.pixels[1], crop_at(picture[1], (0, 0, 39, 39), 16).pixels)
    board = np.indices(SHAPE).sum(0) % 2  # a chess board: points would be 0 or 1, averages are a half
    assert np.abs(crop_at(board, (15, 15, 24, 24), 8).pixels[2:6, 2:6] - 0.5).max() < 0.1
    assert crop.paste(np.ones((3, 16, 16)), SHAPE).shape == (3, *SHAPE)


@pytest.mark.parametrize(
    ("box", "options"),
    [((5, 0, 3, 9), {}), ((0, 5, 9, 3), {}), ((0, 0, 3, 3), {"context": 0.5}), ((0, 0, 3, 3), {"smallest": 0})],
)
def test_what_cannot_be_cut_is_refused(box, options):
    with pytest.raises(ValueError, match="crop_at: expected an image"):
        crop_at(np.zeros((9, 9)), box, 8, **options)
