"""Draw docs/img/swin_block.png: two successive Swin blocks, each with its two residual connections."""

import sys
from pathlib import Path

from PIL import ImageDraw
from shapes import BLUE, ORANGE, YELLOW, arrow, box, canvas, plus, save, words

IMG = Path(__file__).resolve().parents[1] / "img"
WIDTH = 210  # of a box, in pixels


def block(draw: ImageDraw.ImageDraw, y: int, name: str, windows: str, before: str, after: str) -> None:
    """One block along a line at height y, read from left to right: x + attention(norm(x)), then x + mlp(norm(x))."""
    words(draw, 120, y - 115, name, size=30, anchor="lm")
    words(draw, 55, y, before, size=34)
    x = 85
    for attention in (True, False):
        begin, parts = x + 30, [("LayerNorm", YELLOW), (windows, BLUE) if attention else ("MLP", ORANGE)]
        for text, colour in parts:
            arrow(draw, (x, y), (x + 60, y))
            box(draw, x + 60 + WIDTH / 2, y, WIDTH, 92, text, colour)
            x += 60 + WIDTH
        arrow(draw, (x, y), (x + 50, y))
        arrow(draw, (begin, y), (begin, y + 85), (x + 70, y + 85), (x + 70, y + 20), colour=(0, 114, 178))
        plus(draw, x + 70, y)
        words(draw, (begin + x + 70) / 2, y + 106, "residual", size=26)
        x += 90
    arrow(draw, (x, y), (x + 60, y))
    words(draw, x + 72, y, after, size=28, anchor="lm")


def main() -> int:
    sheet, draw = canvas(1540, 650)
    block(draw, 150, "Block 1: attention inside regular windows", "W-MSA", "x", "y")
    block(draw, 480, "Block 2: attention inside windows shifted by half their side", "SW-MSA", "y", "")
    save(sheet, str(IMG / "swin_block.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
