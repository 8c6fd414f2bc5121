"""Draw docs/img/swin_unet.png: the U of Swin-UNet with the size of each map, read off a real forward pass."""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from lungseg.draw import font
from lungseg.nn.swin_unet import SwinUNet

IMG = Path(__file__).resolve().parents[1] / "img"
INK, FILL, SKIP = (40, 40, 40), {"blocks": (214, 230, 245), "between": (255, 236, 210)}, (120, 120, 120)


def sizes() -> dict[str, str]:
    """Name of each module -> "H x W x C" of what it returns, for a 224 x 224 image."""
    network, seen = SwinUNet().eval(), {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out.shape}))
    with torch.no_grad():
        network(torch.zeros(1, 1, 224, 224))
    return {name: " x ".join(map(str, s[1:])) for name, s in seen.items() if len(s) == 4 and name != "head"}


def main() -> int:
    size = sizes()
    picture = Image.new("RGB", (920, 560), "white")
    draw = ImageDraw.Draw(picture)
    left, right, middle, step, height = 40, 560, 300, 92, 40

    def box(x: int, y: int, words: str, module: str, kind: str = "blocks") -> None:
        draw.rounded_rectangle((x, y, x + 320, y + height), 8, fill=FILL[kind], outline=INK)
        draw.text((x + 160, y + 13), words, fill=INK, font=font(14), anchor="mm")
        draw.text((x + 160, y + 29), size[module], fill=INK, font=font(12), anchor="mm")

    def arrow(x0: int, y0: int, x1: int, y1: int, colour=INK) -> None:
        draw.line((x0, y0, x1, y1), fill=colour, width=2)
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        dx, dy = 8 * (x1 - x0) / length, 8 * (y1 - y0) / length
        draw.polygon(
            [(x1, y1), (x1 - dx - dy / 2, y1 - dy + dx / 2), (x1 - dx + dy / 2, y1 - dy - dx / 2)], fill=colour
        )

    draw.text((left + 160, 16), "image 224 x 224 x 1", fill=INK, font=font(14), anchor="mm")
    box(left, 30, "patch_embed", "patch_embed", "between")
    for i in range(3):
        y = 30 + step * (i + 1)
        arrow(left + 160, y - step + height, left + 160, y)
        arrow(left + 320, y - step + height // 2, right, y - step + height // 2 + step, SKIP)
        box(left, y, f"encoder[{i}]: 2 blocks, then merging[{i}]", f"merging.{i}")
        y_up = 30 + step * (3 - i)
        box(right, y_up, f"expanding[{i}], fuse[{i}], decoder[{i}]: 2 blocks", f"decoder.{i}")
        arrow(right + 160, y_up, right + 160, y_up - step + height)
    draw.line((left + 160, 30 + 3 * step + height, left + 160, 460), fill=INK, width=2)
    arrow(left + 160, 460, middle, 460)
    box(middle, 440, "bottleneck: 2 blocks, norm", "bottleneck")
    draw.line((middle + 320, 460, right + 160, 460), fill=INK, width=2)
    arrow(right + 160, 460, right + 160, 30 + 3 * step + height)
    box(right, 30, "norm_up, final_expanding (x4), head", "final_expanding", "between")
    draw.text((right + 160, 16), "logits 224 x 224 x 1", fill=INK, font=font(14), anchor="mm")
    legend = "Under each box: rows x columns x channels of what it returns. Grey: skips, before a stage's blocks."
    draw.text((left, 520), legend, fill=INK, font=font(13))
    picture.save(IMG / "swin_unet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
