"""Draw docs/img/metrics_overlap.png: Dice and IoU as the overlap of two outlines, with the pixels of the picture."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from shapes import INK, canvas, save, words

from lungseg.draw import MISSED, PRED, SERIES, TARGET, outline
from lungseg.evaluation.metrics import counts_from_pred, per_image

H, W, CELL = 26, 34, 26  # pixels of the image, and how large each is drawn
y, x = np.mgrid[:H, :W]
target = (((y - 13) / 9.5) ** 2 + ((x - 13) / 10.5) ** 2 <= 1) & ~((y < 9) & (x < 8))
pred = ((y - 12) / 8.5) ** 2 + ((x - 20) / 9.5) ** 2 <= 1


def pale(colour: tuple[int, int, int]) -> np.ndarray:
    return (np.array(colour) + 255) // 2


def regions() -> Image.Image:
    """The image, one square per pixel: tp green, fp orange, fn blue, tn white, with both outlines."""
    rgb = np.full((H, W, 3), 250, np.uint8)
    rgb[target & pred], rgb[pred & ~target], rgb[target & ~pred] = pale(TARGET), pale(PRED), pale(MISSED)
    rgb = rgb.repeat(CELL, 0).repeat(CELL, 1)
    rgb[::CELL] = rgb[:, ::CELL] = 225
    for region, colour in ((target, SERIES[0]), (pred, SERIES[1])):
        large = region.repeat(CELL, 0).repeat(CELL, 1)
        line = outline(large, outside=True)
        for _ in range(5):  # thicker
            line |= np.roll(line, 1, 0) | np.roll(line, 1, 1)
        rgb[line] = colour
    return Image.fromarray(rgb)


def main() -> None:
    counts = counts_from_pred(torch.from_numpy(pred)[None, None], torch.from_numpy(target)[None, None])
    tp, fp, fn, tn = counts[0].tolist()
    score = {name: value.item() for name, value in per_image(counts).items()}
    picture, draw = canvas(1600, H * CELL + 40)
    picture.paste(regions(), (20, 20))
    for col, row, text in ((16, 12, f"tp\n{tp}"), (26, 12, f"fp\n{fp}"), (6, 13, f"fn\n{fn}"), (31, 23, f"tn\n{tn}")):
        words(draw, 20 + CELL * col, 20 + CELL * row, text, size=44)
    left, top = 20 + W * CELL + 40, 40
    key(draw, left, top, SERIES[0], f"target A: {tp + fn} pixels")
    key(draw, left, top + 46, SERIES[1], f"prediction B: {tp + fp} pixels")
    lines = [
        "Dice: twice the overlap over both areas",
        f"2 tp / (2 tp + fp + fn)\n= {2 * tp} / ({2 * tp} + {fp} + {fn}) = {score['dice']:.3f}",
        "IoU: the overlap over the union",
        f"tp / (tp + fp + fn)\n= {tp} / ({tp} + {fp} + {fn}) = {score['iou']:.3f}",
        "recall: what was found of A",
        f"tp / (tp + fn) = {tp} / {tp + fn} = {score['recall']:.3f}",
        "precision: what is right in B",
        f"tp / (tp + fp) = {tp} / {tp + fp} = {score['precision']:.3f}",
    ]
    y_text = top + 120
    for n, text in enumerate(lines):
        words(draw, left, y_text, text, size=28 if n % 2 else 30, anchor="la")
        y_text += 34 + 36 * text.count("\n") + (36 if n % 2 else 10)
    save(picture, "docs/img/metrics_overlap.png")


def key(draw: ImageDraw.ImageDraw, x: int, y: int, colour: tuple[int, int, int], text: str) -> None:
    """A line of the legend: an outline's colour and its name."""
    draw.rectangle((x, y - 12, x + 34, y + 12), fill=colour, outline=INK)
    words(draw, x + 50, y, text, size=30, anchor="lm")


if __name__ == "__main__":
    main()
