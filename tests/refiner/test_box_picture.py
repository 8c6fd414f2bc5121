"""A person's box: which slices and boxes are taken, and what is drawn."""

import argparse
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungseg.data.scans import Scan
from lungseg.draw import MISSED
from lungseg.predictor import Predictor, load_predictor
from lungseg.refiner.box_picture import box_numbers, check_takes_boxes, write_box


def scan_of(hu, target=None):
    return Scan("a", hu, target=target, spacing_mm=None)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return load_predictor(checkpoint)


@pytest.fixture(scope="module")
def hu():
    return np.random.default_rng(0).integers(-1000, 400, (3, 16, 20), dtype=np.int16)


def test_the_mask_is_medsams_for_that_box_alone(predictor, hu, tmp_path):
    line = write_box(tmp_path, "a", Path("a.npy"), scan_of(hu[1]), predictor, (3.0, 2.0, 9.0, 11.0))
    looks = predictor.look_at_boxes(predictor.grey(hu[1]), [(3, 2, 9, 11)])
    mask = np.asarray(Image.open(tmp_path / "boxes/a_mask.png"))
    assert np.array_equal(mask > 0, looks.masks[0] > 0.5) and f"{(mask > 0).sum()} pixels" in line
    picture = np.asarray(Image.open(tmp_path / "boxes/a.png"))
    scale = 512 // 20
    blue = (picture == MISSED).all(axis=2)
    rows, columns = np.nonzero(blue)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (
        3 * scale,
        2 * scale,
        10 * scale - 1,
        12 * scale - 1,
    )


def test_of_a_volume_the_slice_is_named(predictor, hu, tmp_path):
    write_box(tmp_path, "v", Path("v.npy"), scan_of(hu), predictor, (1.0, 3.0, 2.0, 9.0, 11.0))
    write_box(tmp_path, "a", Path("a.npy"), scan_of(hu[1]), predictor, (3.0, 2.0, 9.0, 11.0))
    assert (tmp_path / "boxes/v/001.png").read_bytes() == (tmp_path / "boxes/a.png").read_bytes()


@pytest.mark.parametrize(
    ("numbers", "whole", "message"),
    [
        ((3.0, 2.0, 9.0, 11.0), True, "a.npy, a: --box takes SLICE,X0,Y0,X1,Y1 here: this is a volume"),
        ((0.0, 3.0, 2.0, 9.0, 11.0), False, "this is a single slice"),
        ((3.0, 3.0, 2.0, 9.0, 11.0), True, "expected a number from 0 to 2"),
        ((0.5, 3.0, 2.0, 9.0, 11.0), True, "expected a number from 0 to 2"),
        ((9.0, 2.0, 3.0, 11.0), False, "0 <= X0 <= X1 <= 19 and 0 <= Y0 <= Y1 <= 15"),
        ((3.0, 2.0, 9.0, 16.0), False, "columns and rows of the slice"),
    ],
)
def test_a_box_that_is_nowhere_is_refused(predictor, hu, tmp_path, numbers, whole, message):
    with pytest.raises(ValueError, match=message):
        write_box(tmp_path, "a", Path("a.npy"), scan_of(hu if whole else hu[0]), predictor, numbers)
    assert not list(tmp_path.iterdir())


def test_four_or_five_numbers_are_read():
    assert box_numbers("1,2,3.5,4") == (1, 2, 3.5, 4) and len(box_numbers("0,1,2,3,4")) == 5
    for text in ("1,2,3", "a,b,c,d", "1,2,3,nan", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected X0,Y0,X1,Y1"):
            box_numbers(text)


def test_a_checkpoint_without_medsam_is_refused(predictor):
    plain = Predictor(predictor.network, predictor.input)
    with pytest.raises(ValueError, match=r"--box prompts MedSAM, and the checkpoint holds UNet only"):
        check_takes_boxes(plain)
