"""Draw docs/img/metrics.png: Dice of an outline one pixel off; where a mean Dice lies, given a mean IoU."""

import numpy as np
import torch

from lungseg.charts import line_chart
from lungseg.draw import contact_sheet
from lungseg.evaluation.metrics import counts_from_pred, per_image

SIDE = 64


def disc(radius: float) -> torch.Tensor:
    axis = torch.arange(SIDE) - SIDE // 2
    return (axis[:, None] ** 2 + axis[None, :] ** 2 <= radius**2)[None, None]  # (1, 1, SIDE, SIDE) bool


radii = range(2, 26)
series = {"one pixel too large": [], "one pixel too small": []}
for name, error in zip(series, (1, -1), strict=True):
    for r in radii:
        scores = per_image(counts_from_pred(disc(r + error), disc(r)))
        series[name].append((r, scores["dice"].item()))
by_size = line_chart(
    series,
    title="Dice of an outline that is one pixel off",
    x_label="radius of the lesion (px)",
    y_label="Dice",
    y_range=(0, 1),
    size=(640, 300),
    scale=2,
)

iou = np.linspace(0.5, 0.9, 41)
bound = line_chart(
    {
        "upper bound, 2 IoU / (1 + IoU)": [(i, 2 * i / (1 + i)) for i in iou],
        "lower bound, IoU": [(i, i) for i in iou],
        "reported: Swin-UNet": [(0.7143, 0.7969)],
        "reported: UNETR": [(0.6772, 0.8063)],
        "reported: ResNet50-U-Net": [(0.6754, 0.7558)],
    },
    title="where the mean Dice must lie",
    x_label="mean IoU over the same images",
    y_label="mean Dice",
    size=(640, 340),
    scale=2,
)
contact_sheet([[by_size], [bound]]).save("docs/img/metrics.png", optimize=True)
