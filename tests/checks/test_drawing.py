"""`--draw`: a picture that can be read on a projector, whatever the shapes."""

import numpy as np
import pytest

from lungseg.checks.drawing import PANEL, draw

MASK = [[True, False], [False, True]]


@pytest.mark.parametrize(
    "picture",
    [
        ("matrix", [[1.0, 2.0]], [[1.0, 3.0]]),
        ("matrix", [[1.0]], [[1.0, 2.0]]),  # another shape
        ("matrix", [[0.0, float("nan")]], [[float("inf"), 1.0]]),
        ("matrix", np.arange(1024.0).reshape(32, 32), np.zeros((32, 32))),
        ("mask", MASK, [[True, True], [True, True]], [["0", "pad"]]),
        ("outlines", np.eye(8) > 0, np.eye(8)[::-1] > 0),
    ],
)
def test_a_picture_has_panels_of_a_projectors_size(picture):
    sheet = draw("attention", picture)
    assert sheet.height >= PANEL // 2 and sheet.width >= PANEL
    assert len(sheet.getcolors(2**24)) > 2


def test_a_difference_can_be_seen():
    right = np.asarray(draw("f", ("mask", MASK, MASK, [["0", "1"]])))
    wrong = np.asarray(draw("f", ("mask", MASK, [[True, True], [False, True]], [["0", "1"]])))
    red = (wrong == (230, 60, 60)).all(-1)
    assert red.any() and not (right == (230, 60, 60)).all(-1).any()
