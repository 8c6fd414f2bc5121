"""What drawn pictures share: boxes, arrows, words, grids of cells, and titled panels, large enough for a projector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from lungseg.draw import font, text_size

Colour = tuple[int, int, int]

INK, GREY, PALE = (40, 40, 40), (130, 130, 130), (238, 238, 238)
BLUE, ORANGE, GREEN, PURPLE = (190, 215, 240), (255, 214, 165), (175, 225, 190), (222, 200, 235)
PINK, YELLOW, TEAL, BROWN, LIME = (250, 200, 205), (250, 235, 150), (165, 220, 225), (220, 200, 180), (215, 235, 160)
COLOURS = [BLUE, ORANGE, GREEN, PURPLE, PINK, YELLOW, TEAL, BROWN, LIME]
FRAME = (213, 94, 0)  # around what a picture is about
TEXT = 24  # pixels, of ordinary words


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A white picture and what draws on it."""
    picture = Image.new("RGB", (width, height), "white")
    return picture, ImageDraw.Draw(picture)


def words(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int = TEXT, anchor: str = "mm") -> None:
    """Text at a point; the anchor is Pillow's: "mm" is its middle, "lm" the middle of its left side."""
    draw.multiline_text((x, y), text, INK, font(size), anchor=anchor, align="center" if anchor[0] == "m" else "left")


def box(draw: ImageDraw.ImageDraw, x: float, y: float, width: float, height: float, text: str, fill: Colour) -> None:
    """A rounded box around (x, y), with words in it."""
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    draw.rounded_rectangle(corners, 12, fill=fill, outline=INK, width=2)
    words(draw, x, y, text, size=28)


def plus(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int = 20) -> None:
    """A circled +: what arrives is added."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline=INK, width=3)
    draw.line((x - radius + 8, y, x + radius - 8, y), fill=INK, width=3)
    draw.line((x, y - radius + 8, x, y + radius - 8), fill=INK, width=3)


def arrow(draw: ImageDraw.ImageDraw, *points: tuple[float, float], colour: Colour = INK) -> None:
    """A line through the points, with a head at the last."""
    (x0, y0), (x1, y1) = points[-2:]
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    dx, dy = 14 * (x1 - x0) / length, 14 * (y1 - y0) / length
    draw.line([*points[:-1], (x1 - dx / 2, y1 - dy / 2)], fill=colour, width=3)
    draw.polygon([(x1, y1), (x1 - dx - dy / 2, y1 - dy + dx / 2), (x1 - dx + dy / 2, y1 - dy - dx / 2)], fill=colour)


def cells(colours: ArrayLike, texts: Sequence[Sequence[str]] | None = None, *, cell: int = 48) -> Image.Image:
    """A grid of squares of `cell` pixels with thin lines between them.

    Args:
        colours: (H, W, 3) uint8.
        texts: H rows of W short words, or none.
    """
    rgb = np.asarray(colours, np.uint8)
    H, W, _ = rgb.shape
    picture = Image.fromarray(rgb.repeat(cell, 0).repeat(cell, 1))
    picture = picture.crop((0, 0, W * cell + 1, H * cell + 1))  # room for the last line
    draw = ImageDraw.Draw(picture)
    for i in range(H + 1):
        draw.line((0, i * cell, W * cell, i * cell), fill=GREY)
    for j in range(W + 1):
        draw.line((j * cell, 0, j * cell, H * cell), fill=GREY)
    for i, row in enumerate(texts or []):
        for j, text in enumerate(row):
            words(draw, (j + 0.5) * cell, (i + 0.5) * cell, text, round(0.46 * cell))
    return picture


def frame(picture: Image.Image, row: int, col: int, *, cell: int, rows: int = 1, cols: int = 1) -> None:
    """Draw a thick frame around cells of a picture by `cells`."""
    corners = (col * cell, row * cell, (col + cols) * cell, (row + rows) * cell)
    ImageDraw.Draw(picture).rectangle(corners, outline=FRAME, width=5)


def panels(
    tiles: Sequence[Image.Image], titles: Sequence[str], *, columns: int, gap: int = 40, size: int = TEXT
) -> Image.Image:
    """Pictures in rows, each under its title."""
    across = [max(text_size(title, font(size))[0], tile.width) for tile, title in zip(tiles, titles, strict=True)]
    width, height = max(across) + gap, max(tile.height for tile in tiles)
    head = max(text_size(title, font(size))[1] for title in titles) + 16
    rows = -(-len(tiles) // columns)
    picture, draw = canvas(width * columns, (head + height + gap // 2) * rows)
    for n, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        x, y = width * (n % columns) + width // 2, (head + height + gap // 2) * (n // columns)
        words(draw, x, y + head - 8, title, size, anchor="md")
        picture.paste(tile, (x - tile.width // 2, y + head))
    return picture


def stack(pictures: Sequence[Image.Image], gap: int = 30) -> Image.Image:
    """Pictures below each other, each in the middle."""
    sheet, _ = canvas(max(p.width for p in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1))
    top = 0
    for picture in pictures:
        sheet.paste(picture, ((sheet.width - picture.width) // 2, top))
        top += picture.height + gap
    return sheet


def save(picture: Image.Image, path: str | Path) -> None:
    """Save in few colours, so that the file is small."""
    picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
