"""Draw docs/img/unet_axes.png: which numbers share a mean in batch, layer, instance and group norm."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from shapes import PALE, canvas, cells, panels, save, words

IMG = Path(__file__).resolve().parents[1] / "img"
BATCH, CHANNELS, SIDE, CELL, GAP = 3, 4, 3, 36, 18  # images, channels, and pixels along each side of a map
SHARED = (240, 160, 60)


def maps(shared: np.ndarray) -> Image.Image:
    """A row for each image, a map for each channel; `shared` is (BATCH, CHANNELS, SIDE, SIDE) bool."""
    pitch = SIDE * CELL + GAP
    sheet, draw = canvas(170 + CHANNELS * pitch, 50 + BATCH * pitch)
    for b in range(BATCH):
        words(draw, 150, 50 + b * pitch + SIDE * CELL / 2, f"image {b}", size=28, anchor="rm")
        for c in range(CHANNELS):
            colours = np.where(shared[b, c][..., None], np.uint8(SHARED), np.uint8(PALE))
            sheet.paste(cells(colours, cell=CELL), (170 + c * pitch, 50 + b * pitch))
    words(draw, 170 + CHANNELS * pitch / 2, 22, "channels 0 to 3", size=28)
    return sheet


def main() -> int:
    none = np.zeros((BATCH, CHANNELS, SIDE, SIDE), bool)
    batch, layer, instance, group = (none.copy() for _ in range(4))
    batch[:, 0] = True
    layer[0, :, 1, 1] = True
    instance[0, 0] = True
    group[0, :2] = True
    titles = [
        "batch norm: one channel\nof all images",
        "layer norm: all channels\nof one token",
        "instance norm: one channel\nof one image",
        "group norm: some channels\nof one image",
    ]
    tiles = [maps(shared) for shared in (batch, layer, instance, group)]
    save(panels(tiles, titles, columns=2, gap=90, size=32), str(IMG / "unet_axes.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
