"""Drawing: what a picture must show, checked at its pixels."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from lungseg.draw import (
    CONFUSED,
    MISSED,
    PRED,
    TARGET,
    class_colour,
    class_picture,
    contact_sheet,
    error_map,
    heatmap,
    label_map,
    overlay,
    prediction_sheet,
    to_rgb,
)

SIDES = st.integers(1, 9)
REGIONS = hnp.arrays(np.bool_, st.tuples(SIDES, SIDES))


def has(picture, colour):
    """Does any pixel have this colour (or nearly: charts are smoothed)?"""
    return (np.abs(np.asarray(picture).astype(int) - colour).max(axis=-1) < 12).any()


# ---- one picture -------------------------------------------------------------------------------------------


def test_grey_runs_from_black_to_white():
    assert to_rgb(np.array([[0.0, 0.5, 1.0, 7.0, -3.0, np.nan]]))[0, :, 0].tolist() == [
        0,
        128,
        255,
        255,
        0,
        0,
    ]
    assert to_rgb(np.array([[3, 250]], np.uint8))[0, :, 2].tolist() == [3, 250]
    assert to_rgb(np.array([[True, False]]))[0, :, 1].tolist() == [255, 0]
    assert to_rgb(Image.new("L", (5, 2), 9)).shape == (2, 5, 3)


def test_a_picture_with_a_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"got shape \(1, 4, 4\)"):
        to_rgb(np.zeros((1, 4, 4)))


def test_a_hotter_value_is_never_darker():
    luminance = heatmap(np.linspace(0, 1, 100)[None])[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(luminance) > -1).all() and luminance[-1] - luminance[0] > 200


def test_heat_is_clipped_and_nan_is_grey():
    colours = heatmap(np.array([[-5.0, 0.0, 2.0, 9.0, np.nan]]), low=0.0, high=2.0)[0].tolist()
    assert colours[0] == colours[1] and colours[2] == colours[3] and colours[4] == [128] * 3


@given(region=REGIONS, scale=st.integers(1, 3))
def test_the_target_line_covers_no_target_and_the_predicted_line_nothing_else(region, scale):
    image = np.zeros(region.shape)
    large = np.kron(region, np.ones((scale, scale), int)).astype(bool)
    green = (overlay(image, region, scale=scale) == TARGET).all(-1)
    orange = (overlay(image, pred=region, scale=scale) == PRED).all(-1)
    assert not (green & large).any() and not (orange & ~large).any()
    border = region.any() and not region.all()
    assert green.any() == orange.any() == border


def test_outlines_enclose_a_square():
    region = np.zeros((7, 7))
    region[2:5, 2:5] = 1
    picture = overlay(np.zeros((7, 7)), region, region)
    assert (picture == TARGET).all(-1).sum() == 12  # a side of three on each side, corners left out
    assert (picture == PRED).all(-1).sum() == 8 and (picture[3, 3] == 0).all()


def test_overlay_leaves_its_input_alone():
    image = np.zeros((4, 4, 3), np.uint8)
    overlay(image, np.eye(4))
    assert not image.any()


def test_each_kind_of_error_has_its_colour():
    assert error_map([[1, 0, 1, 0]], [[1, 1, 0, 0]]).tolist() == [[list(TARGET), list(PRED), list(MISSED), [0, 0, 0]]]


@given(labels=hnp.arrays(np.uint8, st.tuples(SIDES, SIDES), elements=st.integers(0, 3)), scale=st.integers(1, 2))
def test_each_class_is_outlined_in_its_colour_as_if_it_were_alone(labels, scale):
    image = np.zeros(labels.shape)
    inside = overlay(image, None, labels, scale=scale, by_class=True)
    for k in (1, 2, 3):
        alone = (overlay(image, None, labels == k, scale=scale) == PRED).all(-1)
        assert np.array_equal((inside == class_colour(k)).all(-1), alone)


def test_a_target_of_another_class_than_the_prediction_has_a_line_of_another_colour():
    labels = np.zeros((9, 9), np.uint8)
    labels[3:6, 3:6] = 2
    picture = overlay(np.zeros((9, 9)), labels, labels // 2, by_class=True)
    assert (picture == class_colour(2)).all(-1).sum() == 12 and (picture == class_colour(1)).all(-1).sum() == 8


def test_254_classes_have_as_many_colours_none_of_them_dark():
    colours = {class_colour(k) for k in range(1, 255)}
    assert len(colours) > 240 and all(max(colour) > 110 for colour in colours)
    assert len({class_colour(k) for k in range(1, 21)}) == 20
    picture = class_picture(np.array([[0, 1, 254]]))
    assert picture.tolist() == [[[0, 0, 0], list(class_colour(1)), list(class_colour(254))]]


def test_lesion_of_another_class_is_an_error_of_its_own_kind():
    target, pred = [[1, 2, 2, 0, 1, 0]], [[1, 1, 2, 2, 0, 0]]
    want = [TARGET, CONFUSED, TARGET, PRED, MISSED, (0, 0, 0)]
    assert error_map(target, pred, by_class=True).tolist() == [[list(colour) for colour in want]]
    assert not has(Image.fromarray(error_map(target, pred)), CONFUSED)


def test_a_sheet_of_classes_shows_their_colours_and_names_them_below():
    target, probs = np.zeros((16, 16), np.uint8), np.full((3, 16, 16), 0.1)
    target[4:8, 4:8], probs[2, 4:8, 4:8] = 2, 0.9  # class 2 classified as class 3
    rows = [("a", np.zeros((16, 16)), target, probs)]
    one_line = prediction_sheet(rows, classes=("LR2", "LR3", "LR4A"))
    assert has(one_line, CONFUSED) and all(has(one_line, class_colour(k)) for k in (1, 2, 3))
    long = [f"a rather long name of class {k}" for k in (1, 2, 3)]
    assert prediction_sheet(rows, classes=long).height > one_line.height  # wrapped, not cut off
    binary = prediction_sheet([("a", np.zeros((16, 16)), target > 0, probs[2])])
    assert one_line.height > binary.height and not has(binary, class_colour(2))
    without = prediction_sheet([("a", None, target, probs)], classes=("LR2", "LR3", "LR4A"))
    assert has(without, class_colour(2)) and without.width < one_line.width


def test_equal_labels_have_equal_colours_and_a_line_between_unequal_ones():
    picture = np.asarray(label_map([[1, 1, 2]], cell=10, text=False))
    assert picture.shape == (10, 30, 3)
    assert (picture[5, 5] == picture[5, 15]).all() and (picture[5, 5] != picture[5, 25]).any()
    assert (picture[5, 20] < 60).all() and (picture[5, 10] > 60).all()
    assert has(label_map([[7]], cell=40), (40, 40, 40))


# ---- sheets ------------------------------------------------------------------------------------------------


@given(shape=st.tuples(SIDES, SIDES), rows=st.integers(1, 3), columns=st.integers(1, 3), scale=st.integers(1, 3))
def test_a_sheet_shows_every_pixel_of_every_tile(shape, rows, columns, scale):
    tile = np.zeros((*shape, 3), np.uint8)
    tile[...] = (255, 0, 200)
    sheet = np.asarray(contact_sheet([[tile] * columns] * rows, scale=scale))
    assert (sheet == (255, 0, 200)).all(-1).sum() == rows * columns * shape[0] * shape[1] * scale**2


def test_labels_and_captions_take_their_own_room():
    tile = np.full((30, 30, 3), (255, 0, 200), np.uint8)
    plain = contact_sheet([[tile, None]])
    full = contact_sheet(
        [[tile, tile]],
        row_labels=["a long row label"],
        column_labels=["x", "y\ny"],
        captions=[["one", "two words here"]],
    )
    assert (np.asarray(full) == (255, 0, 200)).all(-1).sum() == 2 * 30 * 30  # no text on a tile
    assert full.width > plain.width + 80 and full.height > plain.height + 40


def test_an_empty_sheet_is_a_picture():
    assert contact_sheet([]).width > 0


def test_results_can_be_shown_without_the_images():
    target, probs = np.eye(16), np.full((16, 16), 0.9)
    with_image = prediction_sheet([("a", np.zeros((16, 16)), target, probs), ("b", None, target, probs)])
    without = prediction_sheet([("a", None, target, probs)])
    assert has(with_image, TARGET) and has(without, PRED) and without.width < with_image.width


# ---- curves ------------------------------------------------------------------------------------------------
