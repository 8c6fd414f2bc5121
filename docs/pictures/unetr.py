"""Draw docs/img/unetr.png, unetr_scale.png and unetr_patches.png: the network, its attention scale, its patches."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from shapes import BLUE, GREY, ORANGE, Colour, arrow, canvas, save, words
from torch import nn
from u_diagram import channels_last, content_box, output_shapes

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet, heatmap, overlay
from lungseg.nn.unetr import UNETR

IMG = Path(__file__).resolve().parents[1] / "img"
TOKENS, PIXELS = BLUE, ORANGE
WIDTH, HEIGHT, STEP, TOP = 505, 128, 180, 60  # of a box, from row to row, and above the first row, in pixels
COLUMNS = (20, 548, 1076)  # where the boxes of the three columns begin


def size_of(name: str, shape: Sequence[int]) -> str:
    """The words for the shape of what a module returns: tokens, or a map."""
    if len(shape) == 2:
        return f"{shape[0]} tokens x {shape[1]}"
    return " x ".join(map(str, shape)) if name == "patch_embed" else channels_last(shape)


def network_picture() -> Image.Image:
    """Figure 2 of the paper as three columns: hidden states, the paths they take, the decoder."""
    shapes = output_shapes(UNETR, (1, 256, 256))
    picture, draw = canvas(1600, TOP + 4 * STEP + HEIGHT + 110)
    middles, ends = [x + WIDTH // 2 for x in COLUMNS], [x + WIDTH for x in COLUMNS]

    def box(column: int, row: int, text: str, module: str, fill: Colour) -> None:
        size = size_of(module, shapes[module])
        content_box(draw, COLUMNS[column], TOP + STEP * row, text, size, width=WIDTH, fill=fill)

    words(draw, middles[0], 24, "image 256 x 256 x 1", size=30)
    words(draw, middles[2], 24, f"logits {channels_last(shapes['head'])}", size=30)
    arrow(draw, (middles[0], 44), (middles[0], TOP))
    arrow(draw, (middles[0] + 160, 24), (middles[1], 24), (middles[1], TOP), colour=GREY)
    box(0, 0, "patch_embed: 16 x 16 pixels\nbecome a token; + positions: z0", "patch_embed", TOKENS)
    box(1, 0, "image_block, on the image:\n2 x conv 3 x 3, + conv 1 x 1", "image_block", PIXELS)
    for row, (first, last) in enumerate([(1, 3), (4, 6), (7, 9), (10, 12)], start=1):
        tail = "; layer norm" if last == 12 else ""
        text = f"blocks {first} to {last}: z{last}; each:\nattention (12 heads), MLP{tail}"
        box(0, row, text, f"blocks.{last - 1}", TOKENS)
        arrow(draw, (middles[0], TOP + STEP * (row - 1) + HEIGHT), (middles[0], TOP + STEP * row))
    for row in range(4):
        y, k = TOP + STEP * row + HEIGHT // 2, 3 - row
        if row:
            doublings = 4 - row
            text = f"skips[{k}]: {doublings} deconvolutions,\n{doublings - 1} with a residual block"
            box(1, row, text if doublings > 1 else f"skips[{k}]:\n1 deconvolution 2 x 2", f"skips.{k}", PIXELS)
            arrow(draw, (ends[0], y), (COLUMNS[1], y), colour=GREY)
        box(2, row, f"decoder[{k}]: deconvolution 2 x 2,\njoin the skip, residual block", f"decoder.{k}", PIXELS)
        arrow(draw, (ends[1], y), (COLUMNS[2], y), colour=GREY)
        arrow(draw, (middles[2], TOP + STEP * row), (middles[2], 44 if row == 0 else TOP + STEP * (row - 1) + HEIGHT))
    bottom = TOP + 4 * STEP + HEIGHT // 2
    arrow(draw, (ends[0], bottom), (middles[2], bottom), (middles[2], TOP + 3 * STEP + HEIGHT))
    note = (
        "In each box, last line: the size of its output. Blue: tokens, 16 x 16 of them all the way. Orange: maps.\n"
        "A residual block: 2 x conv 3 x 3 with instance norm, added to its input. head: conv 1 x 1."
    )
    words(draw, COLUMNS[0], TOP + 4 * STEP + HEIGHT + 24, note, size=26, anchor="la")
    return picture


def scale_picture() -> Image.Image:
    """Whom one of 196 tokens listens to, with queries and keys of variance 1, for two scales and none."""
    tiles, captions = [], []
    for name, attn_scale in [("undivided", None), ("/ sqrt(64), paper", "sqrt"), ("/ 64, report", "head_dim")]:
        torch.manual_seed(0)
        attn = UNETR(img_size=224, embed_dim=192, depth=4, num_heads=3, attn_scale=attn_scale or "sqrt").blocks[0].attn
        nn.init.normal_(attn.qkv.weight, std=192**-0.5)
        if attn_scale is None:
            attn.scale = 1.0
        with torch.no_grad():
            _, weights = attn(torch.randn(1, 196, 192), return_weights=True)  # (1, 3, 196, 196)
        row = weights[0, 0, 90].view(14, 14).double().numpy()
        entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1).mean().item()
        tiles.append(heatmap(np.kron(np.log10(row.clip(1e-30)), np.ones((32, 32))), -4, 0))
        captions.append(f"{name}: entropy {entropy:.2f}")
    return contact_sheet(
        [tiles],
        captions=[captions],
        row_labels=[
            "colour: log10\nof the weight,\n-4 black,\n0 pale yellow\n\nof 196 tokens;\nuniform:\nentropy 5.28"
        ],
        font_size=28,
    )


def patches_picture() -> Image.Image:
    """A small nodule under the grid of patches of 16 and of 8 pixels."""
    window = phantom_crops(np.random.default_rng(5), num=3, size=64, diameter_mm=(5.5, 6.0), kinds=("solid",))[1]
    grey = hu_to_grey(window.hu)
    tiles = []
    for patch in (16, 8):
        picture = overlay(grey, window.target, scale=6)
        picture[:: 6 * patch] = picture[:, :: 6 * patch] = (255, 236, 120)
        tiles.append(picture)
    names = [f"patch {p}: {(64 // p) ** 2} tokens" for p in (16, 8)]
    return contact_sheet([tiles], column_labels=names, scale=2, font_size=28)


def main() -> int:
    save(network_picture(), IMG / "unetr.png")
    scale_picture().save(IMG / "unetr_scale.png")
    patches_picture().save(IMG / "unetr_patches.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
