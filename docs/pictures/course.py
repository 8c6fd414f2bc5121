"""Draw docs/img/course.png: what `python -m lungseg.checks --draw` shows of a mask that forgets the wrapped columns."""

import sys
from pathlib import Path

import torch

from lungseg.checks.drawing import draw
from lungseg.checks.lessons import Wrong
from lungseg.checks.networks.masks import check_shifted_window_mask

IMG = Path(__file__).resolve().parents[1] / "img"


def shifted_window_mask(height: int, width: int, window_size: int, shift_size: int) -> torch.Tensor:
    """A student's mask: only the rows that wrapped around are kept apart."""
    ws, H, W = window_size, height + -height % window_size, width + -width % window_size
    row, col = torch.arange(H).roll(-shift_size)[:, None], torch.arange(W).roll(-shift_size)[None, :]
    region = 2 * (row < shift_size) + ((row >= height) | (col >= width))
    region = region.view(H // ws, ws, W // ws, ws).transpose(1, 2).reshape(-1, ws * ws)
    return region[:, :, None] == region[:, None, :]


def main() -> int:
    try:
        check_shifted_window_mask(shifted_window_mask)
    except Wrong as wrong:
        draw("shifted_window_mask", wrong.picture).save(IMG / "course.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
