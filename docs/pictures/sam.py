"""Draw docs/img/sam.png, sam_windows.png and sam_prompts.png: the network, padded windows, prompts as tokens."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from shapes import (
    BLUE,
    FRAME,
    GREEN,
    GREY,
    ORANGE,
    PALE,
    PINK,
    PURPLE,
    YELLOW,
    arrow,
    box,
    canvas,
    cells,
    frame,
    panels,
    save,
    words,
)

from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import enlarge, to_rgb
from lungseg.evaluation.box_controls import bounding_box

IMG = Path(__file__).resolve().parents[1] / "img"
CELL, SCALE = 64, 6


def network() -> Image.Image:
    """The three parts, with the shapes of the published size and P prompts."""
    picture, draw = canvas(1640, 640)
    high, low = 150, 480
    box(draw, 150, high, 240, 100, "image\n(1, 3, 1024, 1024)", PALE)
    box(draw, 540, high, 300, 130, "image encoder\n12 blocks, once\nper image", BLUE)
    box(draw, 940, high, 260, 100, "embedding\n(1, 256, 64, 64)", BLUE)
    box(draw, 150, low - 80, 240, 90, "points, boxes\n(P, n, 2), (P, 4)", PALE)
    box(draw, 150, low + 60, 240, 90, "masks\n(P, 1, 256, 256)", PALE)
    box(draw, 540, low - 10, 300, 130, "prompt encoder\nfrozen in MedSAM", ORANGE)
    box(draw, 940, low - 80, 260, 90, "sparse\n(P, N, 256)", ORANGE)
    box(draw, 940, low + 60, 260, 90, "dense\n(P, 256, 64, 64)", ORANGE)
    box(draw, 1260, 315, 240, 200, "mask decoder\n2 two-way\nblocks, once\nper prompt", GREEN)
    box(draw, 1520, 240, 200, 110, "logits\n(P, 1, 256, 256)\nor 3 for 1", GREEN)
    box(draw, 1520, 400, 200, 90, "their IoU,\nestimated", GREEN)
    for points in [
        [(270, high), (390, high)],
        [(690, high), (810, high)],
        [(270, low - 80), (390, low - 40)],
        [(270, low + 60), (390, low + 20)],
        [(690, low - 40), (810, low - 80)],
        [(690, low + 20), (810, low + 60)],
        [(1070, high), (1140, 250)],
        [(1070, low - 80), (1140, 330)],
        [(1070, low + 60), (1140, 380)],
        [(1380, 290), (1420, 260)],
        [(1380, 345), (1420, 385)],
    ]:
        arrow(draw, *points)
    return picture


def windows() -> Image.Image:
    """A map of 5 x 5 tokens in windows of 3, and whom the last token hears in SAM and in Swin."""
    size, padded = 5, 6
    row, col = np.indices((padded, padded))
    real = (row < size) & (col < size)
    colours = np.array([BLUE, ORANGE, GREEN, PURPLE], np.uint8)[2 * (row // 3) + col // 3]
    texts = [[str(r * size + c) if real[r, c] else "0" for c in range(padded)] for r in range(padded)]
    last = (row >= 3) & (col >= 3)
    tiles = [cells(np.where(real[..., None], colours, np.uint8(PALE)), texts, cell=CELL)]
    for attended in (last, last & real):
        tile = cells(np.where(attended[..., None], np.uint8(YELLOW), np.uint8(PALE)), texts, cell=CELL)
        frame(tile, 4, 4, cell=CELL)
        tiles.append(tile)
    titles = [
        "25 tokens, windows of 3 x 3,\npadded with zeros",
        "SAM: token 24 attends to 9,\n5 of them padding",
        "Swin here: token 24 attends to 4,\npadding is masked",
    ]
    return panels(tiles, titles, columns=3, size=28)


def token_row(names: list[str], colours: list[tuple[int, int, int]], width: int) -> Image.Image:
    """Tokens side by side, each with what is added up in it."""
    picture, draw = canvas(width, 110)
    step = width / max(1, len(names))
    for i, (name, colour) in enumerate(zip(names, colours, strict=True)):
        draw.rounded_rectangle((i * step + 4, 8, (i + 1) * step - 6, 102), 10, fill=colour, outline=GREY, width=2)
        words(draw, (i + 0.5) * step, 55, name, 23)
    return picture


def prompts() -> Image.Image:
    """Four prompts on one phantom, and the tokens that they become."""
    crop = phantom_crops(np.random.default_rng(4), num=1, diameter_mm=(14, 15), kinds=("solid",))[0]
    grey, target = hu_to_unit(crop.hu), crop.target > 0
    base = Image.fromarray(enlarge(to_rgb(grey), SCALE))
    x0, y0, x1, y1 = bounding_box(target)
    inside, outside = ((x0 + x1) / 2, (y0 + y1) / 2), (x1 + 6, y0 - 4)

    def picture(*, points: bool = False, boxed: bool = False, mask: bool = False) -> Image.Image:
        tile = base.copy()
        if mask:
            rough = np.roll(target, (1, 2), (0, 1))
            tile.paste(FRAME, mask=Image.fromarray((enlarge(rough, SCALE) * 110).astype(np.uint8)))
        draw = ImageDraw.Draw(tile)
        if boxed:
            draw.rectangle([SCALE * n for n in (x0, y0, x1 + 1, y1 + 1)], outline=FRAME, width=5)
        for (x, y), colour in [(inside, (0, 158, 115)), (outside, (204, 60, 60))] if points else []:
            x, y = SCALE * (x + 0.5), SCALE * (y + 0.5)
            draw.ellipse((x - 11, y - 11, x + 11, y + 11), fill=colour, outline="white", width=3)
        return tile

    cases = [
        ("two points", picture(points=True),
         ["position\n+ inside", "position\n+ outside", "no point"], [GREEN, PINK, PALE]),
        ("a box", picture(boxed=True), ["position\n+ top left", "position\n+ bottom right"], [ORANGE, ORANGE]),
        ("points and a box", picture(points=True, boxed=True),
         ["inside", "outside", "top left", "bottom\nright"], [GREEN, PINK, ORANGE, ORANGE]),
        ("a mask", picture(mask=True), ["no token: three convolutions,\nadded to every patch"], [YELLOW]),
    ]  # fmt: skip
    tiles = []
    for _, tile, names, colours in cases:
        sheet, _ = canvas(tile.width, tile.height + 120)
        sheet.paste(tile, (0, 0))
        sheet.paste(token_row(names, colours, tile.width), (0, tile.height + 10))
        tiles.append(sheet)
    return panels(tiles, [name for name, *_ in cases], columns=4, gap=28, size=30)


def main() -> int:
    save(network(), IMG / "sam.png")
    save(windows(), IMG / "sam_windows.png")
    prompts().save(IMG / "sam_prompts.png", optimize=True)  # in all colours: few pixels are green or red
    return 0


if __name__ == "__main__":
    sys.exit(main())
