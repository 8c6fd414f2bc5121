"""Draw docs/img/patches_layers.png and patches_drop_path.png: merging and expanding by colours; who skips a branch."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shapes import BLUE, FRAME, GREEN, ORANGE, PALE, PURPLE, arrow, canvas, cells, save, words

from lungseg.nn.layers import DropPath

IMG = Path(__file__).resolve().parents[1] / "img"
FOUR = np.array([[BLUE, ORANGE], [GREEN, PURPLE]], np.uint8)  # the places in a 2 x 2 square
ORDER = [(0, 0), (1, 0), (0, 1), (1, 1)]  # of PatchMerging: down the first column, then the second


def merging(draw, sheet: Image.Image, y: int) -> None:
    """4 x 4 tokens of C channels -> 2 x 2 tokens of 4C channels -> 2C."""
    tokens = cells(np.tile(FOUR, (2, 2, 1)), [[str(4 * r + c) for c in range(4)] for r in range(4)], cell=60)
    sheet.paste(tokens, (30, y))
    words(draw, 150, y - 40, "4 x 4 tokens,\nC channels each")
    arrow(draw, (290, y + 120), (360, y + 120))
    for n in range(4):
        top, left = n // 2 * 2, n % 2 * 2
        names = [str(4 * (top + r) + left + c) for r, c in ORDER]
        joined = cells(np.array([[FOUR[place] for place in ORDER]]), [names], cell=60)
        sheet.paste(joined, (380 + n % 2 * 270, y + 20 + n // 2 * 120))
    words(draw, 635, y - 40, "2 x 2 tokens of 4C channels:\n(0,0), (1,0), (0,1), (1,1) of each square")
    arrow(draw, (920, y + 120), (990, y + 120))
    words(draw, 1090, y + 120, "LayerNorm,\nlinear map\n4C to 2C")
    arrow(draw, (1190, y + 120), (1260, y + 120))
    sheet.paste(cells(np.full((2, 2, 3), PALE, np.uint8), [["0'", "1'"], ["2'", "3'"]], cell=90), (1290, y + 30))
    words(draw, 1380, y - 40, "2 x 2 tokens,\n2C channels each")


def expanding(draw, sheet: Image.Image, y: int) -> None:
    """2 x 2 tokens of 2C channels -> 4C -> 4 x 4 tokens of C channels."""
    sheet.paste(cells(np.full((2, 2, 3), PALE, np.uint8), [["0", "1"], ["2", "3"]], cell=90), (60, y + 30))
    words(draw, 150, y - 40, "2 x 2 tokens,\n2C channels each")
    arrow(draw, (260, y + 120), (330, y + 120))
    words(draw, 430, y + 120, "linear map\n2C to 4C")
    arrow(draw, (520, y + 120), (590, y + 120))
    for n in range(4):
        joined = cells(FOUR.reshape(1, 4, 3), [[f"{n}{part}" for part in "abcd"]], cell=60)
        sheet.paste(joined, (610 + n % 2 * 270, y + 20 + n // 2 * 120))
    words(draw, 865, y - 40, "2 x 2 tokens of 4C channels:\nfour pieces, a to d")
    arrow(draw, (1150, y + 120), (1220, y + 120))
    texts = [[f"{r // 2 * 2 + c // 2}{'abcd'[r % 2 * 2 + c % 2]}" for c in range(4)] for r in range(4)]
    sheet.paste(cells(np.tile(FOUR, (2, 2, 1)), texts, cell=60), (1250, y))
    words(draw, 1370, y - 40, "4 x 4 tokens, C channels each:\nrow by row, then LayerNorm")


def drop_path(rate: float = 0.25, batch: int = 8) -> Image.Image:
    """x + f(x) for a batch: where f is kept, in colour with its factor, and where it is dropped."""
    torch.manual_seed(6)
    factors = DropPath(rate)(torch.ones(batch, 1))[:, 0].tolist()
    sheet, draw = canvas(1500, 480)
    for n, factor in enumerate(factors):
        x = 330 + 142 * n
        words(draw, x, 30, f"image {n}")
        draw.rounded_rectangle((x - 55, 65, x + 55, 145), 10, fill=BLUE, outline=(40, 40, 40), width=2)
        words(draw, x, 105, "x", size=30)
        words(draw, x, 178, "+", size=34)
        kept = factor > 0
        draw.rounded_rectangle((x - 55, 210, x + 55, 290), 10, fill=ORANGE if kept else "white",
                               outline=(40, 40, 40) if kept else (190, 190, 190), width=2)  # fmt: skip
        words(draw, x, 250, f"{factor:.2f} f(x)" if kept else "", size=24)
        if not kept:
            draw.line((x - 40, 222, x + 40, 278), fill=FRAME, width=5)
            draw.line((x - 40, 278, x + 40, 222), fill=FRAME, width=5)
    words(draw, 20, 105, "the input,\nalways kept", anchor="lm")
    words(draw, 20, 250, "the branch,\nscaled or dropped", anchor="lm")
    note = (
        f"Training, rate {rate}: one draw per image. What is kept is divided by 1 - {rate}: times {1 / (1 - rate):.2f}."
    )
    words(draw, 20, 370, note, size=28, anchor="lm")
    words(
        draw, 20, 425, "Evaluation: every image gets x + f(x), which is the mean over the draws.", size=28, anchor="lm"
    )
    return sheet


def main() -> int:
    sheet, draw = canvas(1560, 800)
    words(draw, 20, 20, "PatchMerging", size=30, anchor="lm")
    merging(draw, sheet, 130)
    words(draw, 20, 430, "PatchExpanding", size=30, anchor="lm")
    expanding(draw, sheet, 540)
    save(sheet, str(IMG / "patches_layers.png"))
    save(drop_path(), str(IMG / "patches_drop_path.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
