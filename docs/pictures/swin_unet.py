"""Draw docs/img/swin_unet.png: the U of Swin-UNet, what happens in each box, and the size of each map."""

import sys
from collections.abc import Sequence
from pathlib import Path

from shapes import save
from u_diagram import channels_last, draw_u

from lungseg.nn.swin_unet import SwinUNet

IMG = Path(__file__).resolve().parents[1] / "img"
HEADS = (3, 6, 12)
NOTE = (
    "In each box, last line: rows x columns x channels that it returns. Grey: skips, taken before a stage's blocks.\n"
    "W: attention inside windows of 7 x 7 tokens. SW: the same, shifted by 3 tokens."
)


def size_of(module: str, shape: Sequence[int]) -> str:
    return channels_last(shape) if module == "head" else " x ".join(map(str, shape))  # tokens have channels last


def main() -> int:
    down = [
        (
            f"encoder[{i}]: 2 Swin blocks (W, SW), {HEADS[i]} heads\nmerging[{i}]: 2 x 2 tokens become one",
            f"merging.{i}",
        )
        for i in range(3)
    ]
    up = [
        (
            f"expanding[{i}]: one token becomes 2 x 2\nfuse[{i}]: join the skip, linear to half the channels\n"
            f"decoder[{i}]: 2 Swin blocks (W, SW), {HEADS[2 - i]} heads",
            f"decoder.{i}",
        )
        for i in (2, 1, 0)
    ]
    ends = (
        ("patch_embed: 4 x 4 pixels become a token;\nlinear, layer norm", "patch_embed"),
        ("final_expanding: one token becomes 4 x 4 pixels;\nthen head: linear, 96 channels to 1", "final_expanding"),
    )
    rows = [ends, *zip(down, up, strict=True)]
    bottom = ("bottleneck: 2 Swin blocks, 24 heads, layer norm;\none window, so no shift", "bottleneck")
    picture = draw_u(SwinUNet, (1, 224, 224), rows, bottom, NOTE, size_of=size_of, skip_rows=1)
    save(picture, IMG / "swin_unet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
