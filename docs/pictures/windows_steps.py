"""Draw docs/img/windows_steps.png, windows_steps_padded.png and windows_steps.gif: pad, roll, cut, mask, and back."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shapes import COLOURS, PALE, canvas, cells, frame, panels, save, words

from lungseg.nn.windows import cyclic_shift, pad_to_multiple, shifted_window_mask

IMG = Path(__file__).resolve().parents[1] / "img"
WS, SHIFT, CELL, GAP = 4, 2, 56, 26
QUERIES = [(1, 1), (1, 2), (2, 1), (2, 2)]  # in window 0 to 3: the token whose row of the mask is shown


def number_map(height: int, width: int) -> np.ndarray:
    """(H', W'): the token numbers, row by row from 0, after padding; -1 is padding."""
    numbers = 1 + torch.arange(height * width).view(1, height, width, 1)
    return pad_to_multiple(numbers, WS)[0, :, :, 0].numpy() - 1


def cell_colours(H: int, W: int) -> np.ndarray:
    """(H, W, 3): each cell of the shifted grid in its colour."""
    row, col = np.indices((H, W))
    down, across = (row - SHIFT) // WS + 1, (col - SHIFT) // WS + 1
    return np.array(COLOURS, np.uint8)[3 * down + across]


def roll(array: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """`cyclic_shift` of a map, (H, W) or (H, W, 3)."""
    x = torch.from_numpy(array).reshape(1, *array.shape[:2], -1)
    return cyclic_shift(x, (rows, cols))[0].view(array.shape).numpy()


def texts(numbers: np.ndarray) -> list[list[str]]:
    return [["pad" if n < 0 else str(n) for n in row] for row in numbers.tolist()]


def shaded(colours: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Padding in a darker shade of its cell's colour."""
    return np.where((numbers < 0)[..., None], colours // 10 * 8, colours).astype(np.uint8)


def picture_of(numbers: np.ndarray, colours: np.ndarray) -> Image.Image:
    return cells(shaded(colours, numbers), texts(numbers), cell=CELL)


def cut(picture: Image.Image) -> Image.Image:
    """The windows of a drawn map, moved apart."""
    side, (rows, cols) = WS * CELL, (picture.height // (WS * CELL), picture.width // (WS * CELL))
    sheet, _ = canvas(cols * side + (cols - 1) * GAP + 1, rows * side + (rows - 1) * GAP + 1)
    for i in range(rows):
        for j in range(cols):
            window = picture.crop((j * side, i * side, (j + 1) * side + 1, (i + 1) * side + 1))
            sheet.paste(window, (j * (side + GAP), i * (side + GAP)))
    return sheet


def attended(height: int, width: int, H: int, W: int) -> np.ndarray:
    """(H, W) of the rolled map: True where the query of its window may attend, by `shifted_window_mask`."""
    mask = shifted_window_mask(height, width, WS, SHIFT).numpy()  # (4, 16, 16)
    rows = [m[r * WS + c].reshape(WS, WS) for m, (r, c) in zip(mask, QUERIES, strict=True)]
    return np.block([rows[:2], rows[2:]])


def steps(height: int, width: int) -> tuple[list[Image.Image], list[str]]:
    """The six pictures, and what each step is."""
    numbers = number_map(height, width)
    colours = cell_colours(*numbers.shape)
    rolled, rolled_colours = roll(numbers, SHIFT, SHIFT), roll(colours, SHIFT, SHIFT)
    seen = attended(height, width, *numbers.shape)
    masked_colours = np.where(seen[..., None], rolled_colours, np.uint8(PALE))
    masked = picture_of(rolled, masked_colours)
    for n, (r, c) in enumerate(QUERIES):
        frame(masked, n // 2 * WS + r, n % 2 * WS + c, cell=CELL)
    back = picture_of(numbers, roll(masked_colours, -SHIFT, -SHIFT))
    for n, (r, c) in enumerate(QUERIES):
        row, col = (n // 2 * WS + r + SHIFT) % numbers.shape[0], (n % 2 * WS + c + SHIFT) % numbers.shape[1]
        frame(back, row, col, cell=CELL)
    pad = "needs no padding" if numbers.min() == 0 else f"{numbers.shape[0] - height} rows of padding below"
    pictures = [
        picture_of(numbers[:height, :width], colours[:height, :width]),
        picture_of(numbers, colours),
        picture_of(rolled, rolled_colours),
        cut(picture_of(rolled, rolled_colours)),
        cut(masked),
        back.crop((0, 0, width * CELL + 1, height * CELL + 1)),
    ]
    titles = [
        f"1. The map, {height} x {width} tokens. A colour\nis a cell of the shifted grid",
        f"2. Pad to a multiple of {WS}:\n{pad}",
        f"3. Roll: row {SHIFT} and column {SHIFT}\nbecome row 0 and column 0",
        f"4. Cut into windows of {WS} x {WS}:\ncells share windows now",
        "5. Mask: the framed query of each\nwindow attends to its cell only",
        "6. Put together, roll back, crop:\neach query saw its cell",
    ]
    return pictures, titles


def animation(height: int, width: int) -> list[Image.Image]:
    """The six steps as frames of one size, with the roll one row or column at a time."""
    pictures, titles = steps(height, width)
    numbers = number_map(height, width)
    colours = cell_colours(*numbers.shape)
    moves = [(1, 0), (2, 0), (2, 1)]
    rolling = [picture_of(roll(numbers, *m), roll(colours, *m)) for m in moves]
    pictures[2:2], titles[2:2] = rolling, [titles[2]] * len(moves)
    frames = []
    for picture, title in zip(pictures, titles, strict=True):
        sheet, draw = canvas(8 * CELL + GAP + 40, 8 * CELL + GAP + 110)
        words(draw, sheet.width // 2, 42, title, size=26)
        sheet.paste(picture, ((sheet.width - picture.width) // 2, 90))
        frames.append(sheet)
    return frames


def main() -> int:
    for name, height in (("windows_steps", 8), ("windows_steps_padded", 6)):
        save(panels(*steps(height, 8), columns=3), str(IMG / f"{name}.png"))
    frames = [f.quantize(64, dither=Image.Dither.NONE) for f in animation(6, 8)]
    seconds = [3000, 2500, 700, 700, 700, 2500, 3000, 4000, 4000]
    frames[0].save(IMG / "windows_steps.gif", save_all=True, append_images=frames[1:], duration=seconds, loop=0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
