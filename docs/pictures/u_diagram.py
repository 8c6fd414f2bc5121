"""What the pictures of U-shaped networks share: a box for each module, with the size of what it returns."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw
from torch import nn

from lungseg.draw import font

INK, FILL, SKIP = (40, 40, 40), (214, 230, 245), (120, 120, 120)
WIDTH, HEIGHT, STEP, TOP = 300, 42, 74, 44  # of a box, from row to row, and above the first row, in pixels
LEFT, RIGHT, MIDDLE = 30, 530, 280  # where the boxes of the two columns and the bottom one begin

Box = tuple[str, str]  # (words, name of the module whose output it stands for)


def unet_rows(stages: int = 4) -> list[tuple[Box, Box]]:
    """The boxes of a `UNet` above its bottleneck, whatever its blocks are."""
    down = [(f"encoder[{i}]", f"encoder.{i}") for i in range(stages)]
    up = [(f"up[{i}], crop, join, decoder[{i}]", f"decoder.{i}") for i in reversed(range(stages))]
    return list(zip(down, up, strict=True))


def output_sizes(build: Callable[[], nn.Module], image_size: Sequence[int]) -> dict[str, str]:
    """Name of each module -> "H x W x C" of what it returns. On torch's meta device, so nothing is computed."""
    seen = {}
    with torch.device("meta"):
        network, image = build(), torch.zeros(1, *image_size)
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    network.eval()(image)
    sizes = {name: (*out.shape[2:], out.shape[1]) for name, out in seen.items() if isinstance(out, torch.Tensor)}
    return {name: " x ".join(map(str, size)) for name, size in sizes.items()}


def draw_u(
    build: Callable[[], nn.Module],
    image_size: Sequence[int],
    rows: Sequence[tuple[Box | None, Box]],
    bottom: Box,
    note: str,
) -> Image.Image:
    """The U of a network: `rows` from the full size down, each with its box on the way down (or none) and up.

    Args:
        build: () -> network.
        image_size: (C, H, W) or (C, H, W, D).
        rows: (box on the left, box on the right) of each size; a grey arrow, the skip, joins the two.
        bottom: the box of the deepest map.
        note: a line under the picture.
    """
    size = output_sizes(build, image_size)
    picture = Image.new("RGB", (RIGHT + WIDTH + LEFT, TOP + STEP * len(rows) + HEIGHT + 50), "white")
    draw = ImageDraw.Draw(picture)

    def box(x: int, y: int, words: str, module: str) -> None:
        draw.rounded_rectangle((x, y, x + WIDTH, y + HEIGHT), 8, fill=FILL, outline=INK)
        draw.text((x + WIDTH // 2, y + 14), words, fill=INK, font=font(14), anchor="mm")
        draw.text((x + WIDTH // 2, y + 31), size[module], fill=INK, font=font(12), anchor="mm")

    def arrow(*points: tuple[int, int], colour: tuple[int, int, int] = INK) -> None:
        draw.line(points, fill=colour, width=2)
        (x0, y0), (x1, y1) = points[-2:]
        dx, dy = 8 * ((x1 > x0) - (x1 < x0)), 8 * ((y1 > y0) - (y1 < y0))
        corners = [(x1, y1), (x1 - dx - dy // 2, y1 - dy + dx // 2), (x1 - dx + dy // 2, y1 - dy - dx // 2)]
        draw.polygon(corners, fill=colour)

    left, right = LEFT + WIDTH // 2, RIGHT + WIDTH // 2  # the middles of the columns
    ends = [" x ".join(map(str, (*image_size[1:], image_size[0]))), size["head"]]
    draw.text((left, 20), f"image {ends[0]}", fill=INK, font=font(14), anchor="mm")
    draw.text((right, 20), f"logits {ends[1]}", fill=INK, font=font(14), anchor="mm")
    above = 30  # where the arrow into the next box on the left begins
    for i, (down, up) in enumerate(rows):
        y = TOP + STEP * i
        box(RIGHT, y, *up)
        arrow((right, y), (right, 30 if i == 0 else y - STEP + HEIGHT))
        if down is not None:
            arrow((left, above), (left, y))
            arrow((LEFT + WIDTH, y + HEIGHT // 2), (RIGHT, y + HEIGHT // 2), colour=SKIP)
            box(LEFT, y, *down)
            above = y + HEIGHT
    y = TOP + STEP * len(rows) + 8
    box(MIDDLE, y, *bottom)
    arrow((left, above), (left, y + HEIGHT // 2), (MIDDLE, y + HEIGHT // 2))
    arrow((MIDDLE + WIDTH, y + HEIGHT // 2), (right, y + HEIGHT // 2), (right, y - 8 - STEP + HEIGHT))
    draw.text((LEFT, y + HEIGHT + 12), note, fill=INK, font=font(13))
    return picture
