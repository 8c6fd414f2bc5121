"""Draw docs/img/resnet_unet_blocks.png: the residual block of a ResNet34 and the bottleneck block of a ResNet50."""

import sys
from pathlib import Path

from PIL import Image
from shapes import BLUE, ORANGE, arrow, box, canvas, panels, plus, save, words

IMG = Path(__file__).resolve().parents[1] / "img"
HIGH, STEP = 88, 132  # of a box, and from one to the next


def branch(layers: list[tuple[str, tuple[int, int, int]]], ends: str) -> Image.Image:
    """x, the layers of f below each other, and the way around them to the sum."""
    sheet, draw = canvas(740, 250 + STEP * len(layers))
    middle, around = 270, 650
    words(draw, middle, 20, f"x: {ends}", size=28)
    y = 45
    for text, colour in layers:
        arrow(draw, (middle, y), (middle, y + STEP - HIGH))
        y += STEP - HIGH
        box(draw, middle, y + HIGH / 2, 450, HIGH, text, colour)
        y += HIGH
    arrow(draw, (middle, y), (middle, y + 38))
    arrow(draw, (middle, 62), (around, 62), (around, y + 58), (middle + 22, y + 58), colour=(0, 114, 178))
    words(draw, around - 10, (62 + y) / 2, "x\nitself", size=28, anchor="rm")
    plus(draw, middle, y + 58)
    arrow(draw, (middle, y + 78), (middle, y + 118))
    words(draw, middle, y + 140, f"ReLU, then {ends}", size=28)
    return sheet


def main() -> int:
    wide, narrow = "64 channels", "256 channels"
    basic = [("3 x 3 convolution, 64 -> 64,\nnorm, ReLU", BLUE), ("3 x 3 convolution, 64 -> 64,\nnorm", BLUE)]
    bottleneck = [
        ("1 x 1 convolution, 256 -> 64,\nnorm, ReLU", ORANGE),
        ("3 x 3 convolution, 64 -> 64,\nnorm, ReLU", BLUE),
        ("1 x 1 convolution, 64 -> 256,\nnorm", ORANGE),
    ]
    counts = [2 * 9 * 64 * 64, 256 * 64 + 9 * 64 * 64 + 64 * 256]  # of the convolutions, without bias
    titles = [f"residual block: {counts[0]:,} weights", f"bottleneck block: {counts[1]:,} weights"]
    save(
        panels([branch(basic, wide), branch(bottleneck, narrow)], titles, columns=2, size=32),
        str(IMG / "resnet_unet_blocks.png"),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
