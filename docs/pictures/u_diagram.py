"""What the pictures of networks share: a box for each module, with what happens in it and the size of its output."""

from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageDraw
from shapes import BLUE, GREY, INK, Colour, arrow, canvas, words
from torch import nn

from lungseg.draw import font, text_size

WIDTH, LINE, TEXT = 640, 34, 25  # of a box, from line to line in it, and the height of its text, in pixels
LEFT, RIGHT, MIDDLE, TOP = 20, 940, 480, 60  # where the boxes of both columns and the bottom one begin
GAP = 44  # between rows
SIZE_INK = (0, 60, 140)

Box = tuple[str, str]  # (what happens in it, which may hold line breaks; name of the module whose output it stands for)


def conv_rows(first: str, second: str, stages: int = 4) -> list[tuple[Box, Box]]:
    """The boxes of a `UNet` above its bottleneck; `first` and `second` are the words for a block, in two lines."""
    down = [(f"{'max-pool 2 x 2; ' * (i > 0)}encoder[{i}]:\n{first}\n{second}", f"encoder.{i}") for i in range(stages)]
    up = [
        (f"up[{i}]: deconvolution 2 x 2; join the skip;\ndecoder[{i}]: {first}\n{second}", f"decoder.{i}")
        for i in reversed(range(stages))
    ]
    return list(zip(down, up, strict=True))


def output_shapes(build: Callable[[], nn.Module], image_size: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Name of each module -> shape of what it returns, without the batch. On the meta device: nothing is computed."""
    seen = {}
    with torch.device("meta"):
        network, image = build(), torch.zeros(1, *image_size)
    for name, module in network.named_modules():
        module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    network.eval()(image)
    return {name: tuple(out.shape[1:]) for name, out in seen.items() if isinstance(out, torch.Tensor)}


def channels_last(shape: Sequence[int]) -> str:
    """(C, H, W) -> "H x W x C"."""
    return " x ".join(map(str, (*shape[1:], shape[0])))


def box_height(text: str) -> int:
    """Height of a box with this text and a line for the size."""
    return 26 + LINE * (text.count("\n") + 2)


def content_box(
    draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: str, *, width: int = WIDTH, fill: Colour = BLUE
) -> None:
    """A box whose upper left corner is (x, y): lines of what happens, and the size of what comes out."""
    assert text_size(text, font(TEXT))[0] < width - 10, f"too long for its box: {text!r}"
    draw.rounded_rectangle((x, y, x + width, y + box_height(text)), 14, fill=fill, outline=INK, width=2)
    lines = text.split("\n")
    for n, line in enumerate(lines):
        words(draw, x + width / 2, y + 13 + LINE * (n + 0.5), line, size=TEXT)
    draw.text((x + width / 2, y + 13 + LINE * (len(lines) + 0.5)), size, SIZE_INK, font(TEXT + 3), anchor="mm")


def draw_u(
    build: Callable[[], nn.Module],
    image_size: Sequence[int],
    rows: Sequence[tuple[Box | None, Box]],
    bottom: Box,
    note: str,
    *,
    size_of: Callable[[str, Sequence[int]], str] = lambda module, shape: channels_last(shape),
    skip_rows: int = 0,
) -> Image.Image:
    """The U of a network: `rows` from the full size down, each with its box on the way down (or none) and up.

    Args:
        build: () -> network.
        image_size: (C, H, W) or (C, H, W, D).
        rows: (box on the left, box on the right) of each size; a grey arrow, the skip, joins the two.
        bottom: the box of the deepest map.
        note: lines under the picture.
        size_of: (module, shape of its output) -> the words for it.
        skip_rows: how many rows below its own the skip of a box on the left arrives.
    """
    shapes = output_shapes(build, image_size)
    heights = [max(box_height(cell[0]) for cell in row if cell) for row in rows]
    tops = [TOP + sum(heights[:i]) + GAP * i for i in range(len(rows) + 1)]
    end = tops[-1] + box_height(bottom[0])
    picture, draw = canvas(RIGHT + WIDTH + LEFT, end + 40 + 36 * (note.count("\n") + 1))
    left, right = LEFT + WIDTH // 2, RIGHT + WIDTH // 2  # the middles of the columns
    words(draw, left, 24, f"image {channels_last(image_size)}", size=30)
    words(draw, right, 24, f"logits {channels_last(shapes['head'])}", size=30)
    for i, (down, _) in enumerate(rows):
        target = i + skip_rows
        if down is not None and target < len(rows):
            start, stop = (tops[n] + box_height(rows[n][side][0]) / 2 for n, side in ((i, 0), (target, 1)))
            arrow(draw, (LEFT + WIDTH, start), (RIGHT, stop), colour=GREY)
    above = 44  # where the arrow into the next box on the left begins
    for i, (down, up) in enumerate(rows):
        y, before = tops[i], 44 if i == 0 else tops[i - 1] + box_height(rows[i - 1][1][0])
        content_box(draw, RIGHT, y, up[0], size_of(up[1], shapes[up[1]]))
        arrow(draw, (right, y), (right, before))
        if down is not None:
            arrow(draw, (left, above), (left, y))
            content_box(draw, LEFT, y, down[0], size_of(down[1], shapes[down[1]]))
            above = y + box_height(down[0])
    y, middle = tops[-1], (tops[-1] + end) / 2
    content_box(draw, MIDDLE, y, bottom[0], size_of(bottom[1], shapes[bottom[1]]))
    arrow(draw, (left, above), (left, middle), (MIDDLE, middle))
    arrow(draw, (MIDDLE + WIDTH, middle), (right, middle), (right, tops[-2] + box_height(rows[-1][1][0])))
    words(draw, LEFT, end + 22, note, size=26, anchor="la")
    return picture
