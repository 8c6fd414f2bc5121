"""Draw docs/img/attention_scale.png and attention_bias.png: why 1/sqrt(d), and what a bias table is."""

import sys
from pathlib import Path

import numpy as np
import torch

from lungseg.charts import line_chart
from lungseg.draw import contact_sheet, heatmap, label_map
from lungseg.nn.attention import WindowAttention, attention
from lungseg.nn.windows import relative_position_index

IMG = Path(__file__).resolve().parents[1] / "img"


def sharpness() -> list[tuple[str, list[tuple[float, float]]]]:
    """Largest attention weight among 196 tokens, for three scales, as the head grows."""
    generator = torch.Generator().manual_seed(0)
    curves = []
    for name, power in [("no scale", 0.0), ("1 / sqrt(d), the paper", -0.5), ("1 / d, as one report prints it", -1.0)]:
        points = []
        for d in (4, 8, 16, 32, 64, 128):
            q, k = torch.randn(196, d, generator=generator), torch.randn(196, d, generator=generator)
            _, weights = attention(q, k, k, scale=d**power)
            points.append((d, weights.amax(-1).mean().item()))
        curves.append((name, points))
    return curves


def main() -> int:
    chart = line_chart(
        dict(sharpness()),
        title="Largest of 196 weights (uniform would be 0.005)",
        x_label="channels d of a head",
        y_label="largest weight",
        y_range=(0.005, 1),
        log="xy",
        scale=2,
    )
    chart.save(IMG / "attention_scale.png")

    torch.manual_seed(0)
    attn = WindowAttention(8, 4, 1)
    with torch.no_grad():  # a table that prefers near tokens, as trained ones often do
        offset = torch.arange(-3.0, 4.0)
        attn.relative_position_bias_table[:, 0] = -(offset[:, None] ** 2 + offset[None, :] ** 2).flatten() / 4
        bias = attn.relative_position_bias(4)[0].numpy()  # (16, 16)
    table = attn.relative_position_bias_table.detach().view(7, 7).numpy()
    tiles = [heatmap(np.kron(table, np.ones((48, 48))), -4.5, 0), heatmap(np.kron(bias, np.ones((21, 21))), -4.5, 0)]
    query = [heatmap(np.kron(bias[i].reshape(4, 4), np.ones((84, 84))), -4.5, 0) for i in (0, 6)]
    tiles = [label_map(relative_position_index(2).numpy(), cell=84), *tiles, *query]
    names = [
        "index,\n2 x 2 window",
        "table of offsets,\n7 x 7",
        "bias B, 16 x 16",
        "row 0 of B\nin the window",
        "row 6 of B\nin the window",
    ]
    contact_sheet([tiles], column_labels=names, font_size=26).save(IMG / "attention_bias.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
