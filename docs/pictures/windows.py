"""Draw docs/img/windows_mask.png and windows_reach.png: who may attend to whom, and what is seen after some blocks."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shapes import PALE, canvas, cells, frame, panels, save, stack, words
from windows_steps import SHIFT, WS, cell_colours, number_map, roll, shaded

from lungseg.nn.swin_unet import SwinBlock
from lungseg.nn.windows import shifted_window_mask

IMG = Path(__file__).resolve().parents[1] / "img"
H, W = 6, 8  # in tokens: two rows of padding complete the windows
SIDE, QUERY = 20, (9, 9)  # of the map for the reach, and the token


def mask_picture(numbers: np.ndarray, colours: np.ndarray, mask: np.ndarray) -> Image.Image:
    """One window (4, 4) of token numbers and colours, beside its mask (16, 16) with queries and keys named."""
    cell, left, top = 36, 380, 84
    names = ["pad" if n < 0 else str(n) for n in numbers.ravel().tolist()]
    allowed = np.where(mask[..., None], colours.reshape(-1, 1, 3), np.uint8(PALE))  # (16, 16, 3)
    sheet, draw = canvas(left + 16 * cell + 20, top + 16 * cell + 10)
    window = cells(colours, [names[i : i + WS] for i in range(0, WS * WS, WS)], cell=64)
    sheet.paste(window, (10, top + 8 * cell - window.height // 2))
    sheet.paste(cells(allowed, cell=cell), (left, top))
    words(draw, left + 8 * cell, 18, "key", size=30)
    words(draw, left - 10, top - 22, "query", size=30, anchor="rm")
    for n, name in enumerate(names):
        name = name.replace("pad", "p")
        words(draw, left - 8, top + (n + 0.5) * cell, name, size=26, anchor="rm")
        words(draw, left + (n + 0.5) * cell, top - 18, name, size=26)
    return sheet


def masks() -> Image.Image:
    numbers = number_map(H, W)
    colours = shaded(cell_colours(*numbers.shape), numbers)
    numbers, colours = roll(numbers, SHIFT, SHIFT), roll(colours, SHIFT, SHIFT)
    mask = shifted_window_mask(H, W, WS, SHIFT).numpy()  # (4, 16, 16)
    tiles = []
    for n in range(4):
        rows, cols = slice(n // 2 * WS, n // 2 * WS + WS), slice(n % 2 * WS, n % 2 * WS + WS)
        tiles.append(mask_picture(numbers[rows, cols], colours[rows, cols], mask[n]))
    note, draw = canvas(1800, 50)
    words(
        draw,
        900,
        24,
        "In colour: may attend. Grey: blocked. Darker, p: padding, which attends to padding only.",
        size=30,
    )
    return stack([panels(tiles, [f"window {n}" for n in range(4)], columns=2, size=30), note], gap=0)


def reach(blocks: int) -> np.ndarray:
    """(SIDE, SIDE) bool: the tokens that influence the token QUERY after so many blocks, by the gradient."""
    torch.manual_seed(0)
    x = torch.randn(1, SIDE, SIDE, 8, dtype=torch.double, requires_grad=True)
    y = x
    for n in range(blocks):
        y = SwinBlock(8, 2, WS, shift_size=n % 2 * SHIFT).double().eval()(y)
    return torch.autograd.grad(y[0, QUERY[0], QUERY[1]].sum(), x)[0][0].abs().sum(-1).numpy() > 0


def reaches() -> Image.Image:
    tiles, titles, before = [], [], np.zeros((SIDE, SIDE), bool)
    for blocks in range(1, 5):
        seen = reach(blocks)
        new = np.where((seen & ~before)[..., None], np.uint8((230, 159, 0)), np.uint8((150, 195, 235)))
        picture = cells(np.where(seen[..., None], new, np.uint8(PALE)), cell=18)
        frame(picture, *QUERY, cell=18)
        rows, cols = np.ptp(np.nonzero(seen), axis=1) + 1
        kind = "shifted" if blocks % 2 == 0 else "regular"
        titles.append(f"after block {blocks}, {kind}:\n{rows} x {cols} tokens")
        tiles.append(picture)
        before = seen
    return panels(tiles, titles, columns=4, gap=30)


def main() -> int:
    save(masks(), str(IMG / "windows_mask.png"))
    save(reaches(), str(IMG / "windows_reach.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
