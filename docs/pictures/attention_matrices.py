"""Draw docs/img/attention_matrices.png and attention_matrices_heads.png: the formula with numbers, and two heads."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shapes import BLUE, GREEN, ORANGE, PURPLE, YELLOW, arrow, canvas, cells, frame, save, words

from lungseg.nn.attention import attention

IMG = Path(__file__).resolve().parents[1] / "img"
N, D, CELL, ROW = 5, 3, 64, 1  # tokens, channels of the head, pixels of a cell, and the query that is framed
BLUE_INK, ORANGE_INK = (86, 160, 220), (240, 160, 60)  # of the largest weight


def matrix(values: torch.Tensor, colour: tuple[int, int, int], *, digits: int = 1) -> Image.Image:
    """A matrix with its numbers."""
    texts = [[f"{value:.{digits}f}".replace("-0.0", "0.0") for value in row] for row in values.tolist()]
    return cells(np.full((*values.shape, 3), colour, np.uint8), texts, cell=CELL)


def shaded(weights: torch.Tensor, colour: tuple[int, int, int], *, cell: int) -> Image.Image:
    """Attention weights with their numbers, the darker the larger."""
    share = (weights / weights.max()).numpy()[..., None]
    texts = [[f"{value:.2f}".removeprefix("0") for value in row] for row in weights.tolist()]
    return cells((255 - share * (255 - np.array(colour))).astype(np.uint8), texts, cell=cell)


def formula() -> Image.Image:
    """Two rows: from q and k to the weights; weights times v = output."""
    q, k, v = (torch.randn(N, D, generator=torch.Generator().manual_seed(n)).mul(10).round() / 10 for n in (1, 2, 5))
    out, weights = attention(q, k, v)
    sheet, draw = canvas(1560, 980)

    def place(x: int, y: int, tile: Image.Image, title: str, *, framed: bool = True) -> int:
        words(draw, x + tile.width / 2, y - 40, title)
        if framed:
            frame(tile, ROW, 0, cell=CELL, cols=tile.width // CELL)
        sheet.paste(tile, (x, y))
        return x + tile.width

    top, below = 90, 550
    middle = top + N * CELL // 2
    x = place(20, top, matrix(q, BLUE), f"q: {N} tokens x {D}")
    words(draw, x + 25, middle, "x", size=34)
    x = place(x + 50, top, matrix(k.T, GREEN), f"k^T: {D} x {N} tokens", framed=False)
    words(draw, x + 25, middle, "=", size=34)
    x = place(x + 50, top, matrix(q @ k.T, YELLOW), "q k^T\nrow: query, column: key")
    words(draw, x + 125, middle - 70, f"divide by\nsqrt({D}) = {D**0.5:.2f},\nthen softmax\nof each row")
    arrow(draw, (x + 30, middle + 10), (x + 220, middle + 10))
    place(x + 250, top, shaded(weights, ORANGE_INK, cell=CELL), "weights\neach row sums to 1")

    middle = below + N * CELL // 2
    x = place(20, below, shaded(weights, ORANGE_INK, cell=CELL), "weights")
    words(draw, x + 25, middle, "x", size=34)
    x = place(x + 50, below, matrix(v, PURPLE), f"v: {N} tokens x {D}", framed=False)
    words(draw, x + 25, middle, "=", size=34)
    place(x + 50, below, matrix(out, BLUE), f"output: {N} tokens x {D}")
    row = " + ".join(f"{w:.2f} v{j}" for j, w in enumerate(weights[ROW].tolist()))
    words(draw, 20, below + N * CELL + 50, f"Framed: output {ROW} = {row}, where v0 is row 0 of v.", anchor="lm")
    return sheet


def heads() -> Image.Image:
    """Tokens of 6 channels: two heads of 3 channels, each with its own weights, joined side by side."""
    cell, top = 46, 280
    rgb = np.array([BLUE] * D + [ORANGE] * D, np.uint8)[None].repeat(N, 0)  # (N, 2 D, 3)
    both, middle = cells(rgb, cell=cell), top + N * cell // 2
    sheet, draw = canvas(1600, 790)
    for x, title in ((20, "q, k, v: each\n5 tokens x 6 channels"), (1120, "heads side by side:\n5 x 6")):
        sheet.paste(both, (x, top))
        words(draw, x + both.width / 2, top - 44, title)
    for n, (y, ink) in enumerate(((110, BLUE_INK), (510, ORANGE_INK))):
        half, centre = cells(rgb[:, n * D : n * D + D], cell=cell), y + N * cell // 2
        weights = torch.randn(N, N, generator=torch.Generator().manual_seed(n)).mul(1.5).softmax(-1)
        pieces = [
            (390, half, f"head {n}: q, k, v\n5 x 3"),
            (630, shaded(weights, ink, cell=cell), "its own weights\n5 x 5"),
        ]
        pieces.append((920, half, "weights x v\n5 x 3"))
        for x, tile, title in pieces:
            sheet.paste(tile, (x, y))
            words(draw, x + tile.width / 2, y - 40, title)
        arrow(draw, (305, middle), (380, centre))
        arrow(draw, (540, centre), (620, centre))
        arrow(draw, (870, centre), (910, centre))
        arrow(draw, (1066, centre), (1112, middle))
    arrow(draw, (1405, middle), (1450, middle))
    words(draw, 1520, middle, "proj:\na linear\nmap mixes\nthe heads")
    return sheet


def main() -> int:
    save(formula(), str(IMG / "attention_matrices.png"))
    save(heads(), str(IMG / "attention_matrices_heads.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
