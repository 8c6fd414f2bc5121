"""Draw docs/img/prompting_box.png and prompting_stride.png: what a box gives away, and what coarse logits can draw."""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage
from shapes import FRAME, panels

from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import enlarge, to_rgb
from lungseg.evaluation.box_controls import bounding_box, inscribed_ellipse, move_sides_out

IMG = Path(__file__).resolve().parents[1] / "img"
GREEN, LINE = (60, 220, 120), 4
NODULES = {"4 mm": (1, (4, 4.5), "solid"), "12 mm": (4, (12, 13), "solid"), "22 mm": (9, (22, 24), "spiculated")}


def read_crop(name: str) -> tuple[NDArray, NDArray]:
    """A crop of 64 x 64 pixels of 0.7 mm in [0, 1], and its target."""
    seed, diameter, kind = NODULES[name]
    crop = phantom_crops(np.random.default_rng(seed), num=1, diameter_mm=diameter, kinds=(kind,))[0]
    return hu_to_unit(crop.hu), crop.target > 0


def dice(pred: NDArray, target: NDArray) -> float:
    return 2 * (pred & target).sum() / (pred.sum() + target.sum())


def drawn(image: NDArray, target: NDArray, pred: NDArray, scale: int, side: int = 64) -> Image.Image:
    """`side` pixels around the lesion: the prediction tinted, the target outlined."""
    row, col = (int(np.clip(n.mean() - side / 2, 0, 64 - side)) for n in np.nonzero(target))
    cut = (slice(row, row + side), slice(col, col + side))
    picture = enlarge(to_rgb(image[cut]), scale).astype(float)
    filled, lesion = enlarge(pred[cut], scale), enlarge(target[cut], scale)
    picture[filled] = 0.55 * picture[filled] + 0.45 * np.array(FRAME)
    picture[lesion & ~ndimage.binary_erosion(lesion, iterations=LINE, border_value=1)] = GREEN
    return Image.fromarray(picture.astype(np.uint8))


def boxes_picture() -> Image.Image:
    tiles, titles, scale = [], [], 8
    rng = np.random.default_rng(6)
    for most in (0, 3, 10):
        for name in NODULES:
            image, target = read_crop(name)
            box = move_sides_out(bounding_box(target), most, (64, 64), rng)
            ellipse = inscribed_ellipse(box, (64, 64))
            tile = drawn(image, target, ellipse, scale)
            corners = [scale * n for n in (box[0], box[1], box[2] + 1, box[3] + 1)]
            ImageDraw.Draw(tile).rectangle(corners, outline=(255, 140, 30), width=LINE)
            tiles.append(tile)
            where = f"sides moved out by up to {most} px" if most else "the true box"
            titles.append(f"{name}, {where}:\nDice of the ellipse {dice(ellipse, target):.2f}")
    return panels(tiles, titles, columns=3, size=28)


def strides_picture() -> Image.Image:
    """The smallest nodule, close up: the mask that its averages over squares draw."""
    tiles, titles = [], []
    image, target = read_crop("4 mm")
    goal = torch.from_numpy(target)[None, None].float()
    for stride in (2, 4, 8):
        share = F.avg_pool2d(goal, stride)
        mask = (F.interpolate(share, size=(64, 64), mode="bilinear") > 0.5)[0, 0].numpy()
        tiles.append(drawn(image, target, mask, 21, side=24))
        titles.append(f"one logit per {stride} px:\nDice {dice(mask, target):.2f}")
    return panels(tiles, titles, columns=3, size=28)


def main() -> int:
    for name, picture in (("box", boxes_picture()), ("stride", strides_picture())):
        picture.quantize(256, dither=Image.Dither.NONE).save(IMG / f"prompting_{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
