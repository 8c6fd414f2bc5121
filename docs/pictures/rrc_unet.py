"""Draw docs/img/rrc_unet.png (the U with the size of each map) and docs/img/rrc_unet_steps.png (what a unit sees)."""

import sys
from pathlib import Path

import torch
from torch import nn
from u_diagram import draw_u, unet_rows

from lungseg.draw import contact_sheet, heatmap
from lungseg.nn.rrc_unet import RecurrentConv, RRCUNet

IMG = Path(__file__).resolve().parents[1] / "img"
NOTE = (
    "Under each box: rows x columns x slices x channels of what it returns. "
    "Grey: skips. Every box holds two recurrent units."
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
    picture = draw_u(RRCUNet, (1, 96, 96, 64), unet_rows(), ("bottleneck", "bottleneck"), NOTE)
    picture.save(IMG / "rrc_unet.png")
    torch.manual_seed(0)
    steps = (1, 2, 4)
    tiles = [heatmap(seen_by_the_centre(n).sqrt().numpy()) for n in steps]
    labels = [f"{n} step{'s' if n > 1 else ''}: {2 * n + 3} x {2 * n + 3} pixels" for n in steps]
    contact_sheet([tiles], column_labels=labels, scale=28, font_size=28).save(IMG / "rrc_unet_steps.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
