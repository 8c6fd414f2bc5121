"""Boxes, their ellipses, and sides that are moved."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.evaluation.box_controls import bounding_box, inscribed_ellipse, move_sides_out

SHAPE = (20, 30)
BOXES = st.tuples(st.integers(0, 29), st.integers(0, 19), st.integers(0, 29), st.integers(0, 19)).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(box=BOXES)
def test_the_box_of_a_filled_box_is_that_box_in_columns_and_rows(box):
    x0, y0, x1, y1 = box
    target = np.zeros(SHAPE, np.uint8)
    target[y0 : y1 + 1, x0 : x1 + 1] = 1
    assert bounding_box(target).tolist() == list(box)


@settings(max_examples=50)
@given(box=BOXES)
def test_the_ellipse_touches_all_four_sides_is_symmetric_and_fills_its_share(box):
    ellipse = inscribed_ellipse(box, SHAPE)
    x0, y0, x1, y1 = box
    width, height = x1 - x0 + 1, y1 - y0 + 1
    inside = ellipse[y0 : y1 + 1, x0 : x1 + 1]
    assert not ellipse.sum() - inside.sum()
    assert np.array_equal(inside, inside[::-1]) and np.array_equal(inside, inside[:, ::-1])
    assert inside[(height - 1) // 2, (width - 1) // 2]
    if width % 2 and height % 2:  # then the middles of the sides are pixels
        assert bounding_box(ellipse).tolist() == list(box)
    assert abs(ellipse.sum() - np.pi / 4 * width * height) <= width + height


@settings(max_examples=30)
@given(box=BOXES)
def test_a_pixel_is_inside_by_whole_numbers(box):
    """4 a^2 and 4 b^2 are squares of whole numbers, so the equation of the ellipse needs no fraction."""
    ellipse = inscribed_ellipse(box, SHAPE)
    x0, y0, x1, y1 = box
    w, h = x1 - x0 + 1, y1 - y0 + 1
    for y in range(SHAPE[0]):
        for x in range(SHAPE[1]):
            excess = ((2 * x - x0 - x1) * h) ** 2 + ((2 * y - y0 - y1) * w) ** 2 - (w * h) ** 2
            assert excess == 0 or ellipse[y, x] == (excess < 0)  # on the line itself, rounding decides


def test_an_ellipse_by_hand():
    drawn = inscribed_ellipse((1, 0, 5, 2), (4, 7)).astype(int).tolist()
    assert drawn == [[0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0], [0] * 7]
    assert inscribed_ellipse((2, 1, 2, 1), (3, 4)).nonzero() == (np.array([1]), np.array([2]))


@given(box=BOXES, most=st.integers(0, 6), seed=st.integers(0, 99))
def test_sides_move_outwards_by_at_most_so_much_and_stay_in_the_image(box, most, seed):
    moved = move_sides_out(box, most, SHAPE, np.random.default_rng(seed))
    change = (moved - box) * (-1, -1, 1, 1)
    assert (change >= 0).all() and (change <= most).all()
    assert (moved[:2] >= 0).all() and moved[2] < 30 and moved[3] < 20


def test_each_side_moves_by_a_draw_of_its_own_and_every_distance_is_drawn():
    rng = np.random.default_rng(0)
    moves = [np.abs(move_sides_out((50, 50, 60, 60), 3, (100, 100), rng) - (50, 50, 60, 60)) for _ in range(300)]
    assert [set(side) for side in np.transpose(moves).tolist()] == [{0, 1, 2, 3}] * 4
    assert np.abs(np.corrcoef(np.transpose(moves)) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize("target", [np.zeros((3, 3)), np.ones((2, 3, 3))])
def test_a_target_without_a_box_is_refused(target):
    with pytest.raises(ValueError, match=r"bounding_box: expected a target \(H, W\) with a lesion"):
        bounding_box(target)


def test_a_box_whose_corners_are_swapped_is_refused():
    with pytest.raises(ValueError, match="x0 <= x1 and y0 <= y1"):
        inscribed_ellipse((9, 3, 2, 8), SHAPE)
