"""What MedSAM makes of a box that a person draws: python examples/predict.py best.pt slice.png --box 20,30,41,48"""

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lungseg.data.scans import Scan
from lungseg.draw import MISSED, overlay
from lungseg.files import path_below
from lungseg.predictor import Predictor
from lungseg.refiner.prediction import RefinerPredictor

SIDE = 512  # smaller slices are enlarged to about this many pixels


def box_numbers(text: str) -> tuple[float, ...]:
    """ "x0,y0,x1,y1" of a slice or "slice,x0,y0,x1,y1" of a volume; argparse says it in a sentence if it is neither."""
    try:
        numbers = tuple(map(float, text.split(",")))
    except ValueError:
        numbers = ()
    if len(numbers) not in (4, 5) or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(
            f"expected X0,Y0,X1,Y1 or SLICE,X0,Y0,X1,Y1, numbers with commas, got {text!r}"
        )
    return numbers


def check_takes_boxes(predictor: Predictor) -> RefinerPredictor:
    """Refuse a checkpoint without MedSAM."""
    if not isinstance(predictor, RefinerPredictor):
        raise ValueError(
            f"--box prompts MedSAM, and the checkpoint holds {predictor.name} only. Give best.pt of "
            f"examples/train_refiner.py."
        )
    return predictor


def write_box(out: Path, id_: str, path: Path, scan: Scan, predictor: Predictor, numbers: tuple[float, ...]) -> str:
    """Write boxes/ID.png, the box and what is drawn in it, and boxes/ID_mask.png; return a line about it.

    Args:
        out: folder of the predictions.
        path: of the input, for messages.
        numbers: from `box_numbers`, in pixels of the slice.

    Raises:
        ValueError: naming the scan, if the box is not in it, or a volume has no slice number.
    """
    try:
        grey, target, name = chosen_slice(scan, predictor, id_, numbers)
        box = checked_box(numbers[-4:], grey.shape)
    except ValueError as error:
        raise ValueError(f"{path}, {scan.id}: {error}") from None
    looks = check_takes_boxes(predictor).look_at_boxes(grey, [box])
    mask = looks.masks[0] > 0.5
    Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(path_below(out, f"boxes/{name}_mask.png"))
    with_box(grey, target, mask, box).save(path_below(out, f"boxes/{name}.png"))
    return f"{path}: in the box {mask.sum()} pixels; MedSAM estimates an IoU of {looks.iou[0]:.2f}"


def chosen_slice(
    scan: Scan, predictor: Predictor, id_: str, numbers: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray | None, str]:
    """The grey slice (H, W) that a box is drawn in, its target if there is one, and the name of its file."""
    if scan.hu.ndim == 2:
        if len(numbers) == 5:
            raise ValueError("--box takes X0,Y0,X1,Y1 here: this is a single slice, which has no number.")
        return predictor.grey(scan.hu), scan.target, id_
    if len(numbers) == 4:
        raise ValueError("--box takes SLICE,X0,Y0,X1,Y1 here: this is a volume, so say in which slice, counted from 0.")
    z = int(numbers[0])
    if z != numbers[0] or not 0 <= z < len(scan.hu):
        raise ValueError(
            f"--box: slice {numbers[0]:g} is not in the volume; expected a number from 0 to {len(scan.hu) - 1}."
        )
    return predictor.grey(scan.hu[z]), None if scan.target is None else np.asarray(scan.target[z]), f"{id_}/{z:03d}"


def checked_box(box: tuple[float, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """The box, if it is one and lies in a slice of this shape."""
    x0, y0, x1, y1 = box
    if not (0 <= x0 <= x1 <= shape[1] - 1 and 0 <= y0 <= y1 <= shape[0] - 1):
        raise ValueError(
            f"--box {','.join(f'{n:g}' for n in box)}: expected 0 <= X0 <= X1 <= {shape[1] - 1} and "
            f"0 <= Y0 <= Y1 <= {shape[0] - 1}, columns and rows of the slice."
        )
    return box


def with_box(grey: NDArray, target: NDArray | None, mask: NDArray, box: tuple[float, ...]) -> Image.Image:
    """The slice with the outlines of `overlay`, and the box in blue."""
    scale = max(1, SIDE // max(grey.shape))
    picture = Image.fromarray(overlay(grey, None if target is None else target > 0, mask, scale=scale))
    x0, y0, x1, y1 = box
    edges = (x0 * scale, y0 * scale, (x1 + 1) * scale - 1, (y1 + 1) * scale - 1)
    ImageDraw.Draw(picture).rectangle(edges, outline=MISSED, width=2)
    return picture
