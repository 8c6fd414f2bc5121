"""Draw docs/img/windows_shift.png and windows_mask.png: what the shift does to a map, and the mask it needs."""

import sys
from pathlib import Path

import numpy as np
import torch

from lungseg.draw import contact_sheet, label_map
from lungseg.nn.windows import cyclic_shift, shifted_window_mask, window_partition

IMG = Path(__file__).resolve().parents[1] / "img"
H, W, WS, SHIFT = 6, 8, 4, 2  # 6 rows: two rows of padding complete the windows


def main() -> int:
    padded = torch.zeros(8, 8, dtype=torch.long)
    row, col = torch.arange(8)[:, None], torch.arange(8)[None, :]
    plain = row // WS * 2 + col // WS  # which window of the regular grid
    shifted = (row - SHIFT).div(WS, rounding_mode="floor") * 3 + (col - SHIFT).div(WS, rounding_mode="floor") + 4
    padding = (row >= H).expand(8, 8)
    shifted = padded + shifted
    rolled = cyclic_shift(shifted[None, :, :, None], SHIFT)[0, :, :, 0]
    rolled_padding = cyclic_shift(padding[None, :, :, None], SHIFT)[0, :, :, 0]
    grids = [(padded + plain, padding), (shifted, padding), (rolled, rolled_padding)]
    tiles = [label_map(labels.masked_fill(pad, -1).numpy(), cell=28) for labels, pad in grids]
    names = ["regular windows", "shifted grid (-1: padding)", "rolled: four windows again"]
    contact_sheet([tiles], column_labels=names).save(IMG / "windows_shift.png")

    mask = shifted_window_mask(H, W, WS, SHIFT)  # (4, 16, 16)
    regions = window_partition(rolled.masked_fill(rolled_padding, -1)[None, :, :, None], WS)[..., 0]
    colours = np.array([(40, 40, 40), (150, 215, 170)], dtype=np.uint8)  # blocked, allowed
    pictures = [colours[m.numpy().astype(int)].repeat(10, 0).repeat(10, 1) for m in mask]
    windows = [label_map(w.numpy(), cell=40) for w in regions]
    names = [f"window {w}" for w in range(4)]
    sheet = contact_sheet(
        [windows, pictures], column_labels=names, row_labels=["its tokens come from", "may attend (green)"]
    )
    sheet.save(IMG / "windows_mask.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
