"""Draw docs/img/unetr.png, unetr_scale.png and unetr_patches.png: the network, its attention scale, its patches."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet, font, heatmap, overlay
from lungseg.nn.unetr import UNETR

IMG = Path(__file__).resolve().parents[1] / "img"
INK, SKIP = (40, 40, 40), (120, 120, 120)
FILL = {"tokens": (214, 230, 245), "pixels": (255, 236, 210)}
WIDTH, HEIGHT, STEP, TOP = 250, 44, 84, 44  # of a box, from row to row, and above the first row, in pixels
COLUMNS = (20, 320, 620)  # where the boxes of the three columns begin


def output_sizes() -> dict[str, str]:
    """Name of each module -> size of what it returns for a 256 x 256 image. On the meta device: nothing is computed."""
    seen = {}
    with torch.device("meta"):
        network, image = UNETR(), torch.zeros(1, 1, 256, 256)
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    network.eval()(image)
    sizes = {}
    for name, out in seen.items():
        if isinstance(out, torch.Tensor) and out.dim() == 3:  # (B, N, K)
            sizes[name] = f"{out.shape[1]} tokens x {out.shape[2]}"
        elif isinstance(out, torch.Tensor):
            channels_last = name.startswith("patch_embed")
            sizes[name] = " x ".join(map(str, out.shape[1:] if channels_last else (*out.shape[2:], out.shape[1])))
    return sizes


def network_picture() -> Image.Image:
    """Figure 2 of the paper as three columns: hidden states, the paths they take, the decoder."""
    size = output_sizes()
    picture = Image.new("RGB", (890, TOP + 4 * STEP + HEIGHT + 66), "white")
    draw = ImageDraw.Draw(picture)

    def box(column: int, row: int, words: str, module: str, kind: str) -> None:
        x, y = COLUMNS[column], TOP + STEP * row
        draw.rounded_rectangle((x, y, x + WIDTH, y + HEIGHT), 8, fill=FILL[kind], outline=INK)
        draw.text((x + WIDTH // 2, y + 14), words, fill=INK, font=font(14), anchor="mm")
        draw.text((x + WIDTH // 2, y + 32), size[module], fill=INK, font=font(12), anchor="mm")

    def arrow(x0: int, y0: int, x1: int, y1: int, colour: tuple[int, int, int] = INK) -> None:
        draw.line((x0, y0, x1, y1), fill=colour, width=2)
        dx, dy = 8 * ((x1 > x0) - (x1 < x0)), 8 * ((y1 > y0) - (y1 < y0))
        draw.polygon(
            [(x1, y1), (x1 - dx - dy // 2, y1 - dy - dx // 2), (x1 - dx + dy // 2, y1 - dy + dx // 2)], fill=colour
        )

    middles = [x + WIDTH // 2 for x in COLUMNS]
    ends = [x + WIDTH for x in COLUMNS]
    draw.text((middles[0], 16), "image 256 x 256 x 1", fill=INK, font=font(14), anchor="mm")
    draw.text((middles[2], 16), f"logits {size['head']}", fill=INK, font=font(14), anchor="mm")
    box(0, 0, "patch_embed, + positions: z0", "patch_embed", "tokens")
    box(1, 0, "image_block, on the image itself", "image_block", "pixels")
    arrow(middles[0], 26, middles[0], TOP)
    draw.line((middles[0], 30, middles[1], 30), fill=SKIP, width=2)
    arrow(middles[1], 30, middles[1], TOP, SKIP)
    for row, (first, last) in enumerate([(1, 3), (4, 6), (7, 9), (10, 12)], start=1):
        tail = ", norm" if last == 12 else ""
        box(0, row, f"blocks {first} to {last}{tail}: z{last}", f"blocks.{last - 1}", "tokens")
        arrow(middles[0], TOP + STEP * (row - 1) + HEIGHT, middles[0], TOP + STEP * row)
    for row in range(4):
        y = TOP + STEP * row + HEIGHT // 2
        if row:
            doublings = 4 - row
            box(
                1,
                row,
                f"skips[{3 - row}]: {doublings} deconvolution{'s' * (doublings > 1)}",
                f"skips.{3 - row}",
                "pixels",
            )
            arrow(ends[0], y, COLUMNS[1], y, SKIP)
        box(2, row, f"decoder[{3 - row}]" + (", then head" if row == 0 else ""), f"decoder.{3 - row}", "pixels")
        arrow(ends[1], y, COLUMNS[2], y, SKIP)
        arrow(middles[2], TOP + STEP * row, middles[2], 30 if row == 0 else TOP + STEP * (row - 1) + HEIGHT)
    bottom = TOP + 4 * STEP + HEIGHT // 2
    draw.line((ends[0], bottom, middles[2], bottom), fill=INK, width=2)
    arrow(middles[2], bottom, middles[2], TOP + 3 * STEP + HEIGHT)
    note = (
        "In each box: the size of what it returns. Blue: tokens, 16 x 16 of them all the way. Orange: maps of pixels."
    )
    draw.text((COLUMNS[0], TOP + 4 * STEP + HEIGHT + 34), note, fill=INK, font=font(13))
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
    network_picture().save(IMG / "unetr.png")
    scale_picture().save(IMG / "unetr_scale.png")
    patches_picture().save(IMG / "unetr_patches.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
