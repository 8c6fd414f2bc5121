"""Draw docs/img/rrc_unet.png (the U with the size of each map) and docs/img/rrc_unet_steps.png (what a unit sees)."""

import sys
from pathlib import Path

import torch
from shapes import save
from torch import nn
from u_diagram import conv_rows, draw_u

from lungseg.draw import contact_sheet, heatmap
from lungseg.nn.rrc_unet import RecurrentConv, RRCUNet

IMG = Path(__file__).resolve().parents[1] / "img"
NOTE = (
    "In each box, last line: rows x columns x slices x channels that it returns. Grey: skips; head: conv 1 x 1 x 1.\n"
    "A recurrent unit of 2 steps: d = conv x, h = d, and twice h = ReLU(norm(d + conv' h)), with the same conv'."
)


def seen_by_the_centre(steps: int) -> torch.Tensor:
    """How strongly the output at the centre depends on each pixel: (15, 15), largest 1."""
    unit = RecurrentConv(8, steps=steps, spatial_dims=2, norm="batch").eval()
    for norm in unit.norms:
        nn.init.constant_(norm.bias, 9.0)  # keeps every ReLU open, so that nothing is hidden by chance
    x = torch.randn(1, 8, 15, 15, requires_grad=True)
    seen = torch.autograd.grad(unit(x)[0, :, 7, 7].sum(), x)[0].abs().sum((0, 1))
    return seen / seen.max()


def main() -> int:
    block = ("conv 1 x 1 x 1 to the new channels,", "then x + 2 recurrent units of x")
    bottom = ("max-pool 2 x 2 x 2; bottleneck:\n" + "\n".join(block), "bottleneck")
    rows = conv_rows(*block)
    rows = [tuple((text.replace("2 x 2;", "2 x 2 x 2;"), module) for text, module in row) for row in rows]
    save(draw_u(RRCUNet, (1, 96, 96, 64), rows, bottom, NOTE), IMG / "rrc_unet.png")
    torch.manual_seed(0)
    steps = (1, 2, 4)
    tiles = [heatmap(seen_by_the_centre(n).sqrt().numpy()) for n in steps]
    labels = [f"{n} step{'s' if n > 1 else ''}: {2 * n + 3} x {2 * n + 3} pixels" for n in steps]
    contact_sheet([tiles], column_labels=labels, scale=28, font_size=28).save(IMG / "rrc_unet_steps.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
