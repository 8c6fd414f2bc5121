"""Draw docs/img/losses.png: what each loss says about a prediction that is too small, right, or too large."""

import numpy as np
import torch

from lungseg.charts import line_chart
from lungseg.draw import contact_sheet
from lungseg.losses import bce_loss, dice_loss


def disc(radius: float, side: int = 64) -> torch.Tensor:
    """Logits of a centred disc, (1, 1, side, side): 0 at its rim, 2 more per pixel inwards, within +-6."""
    axis = torch.arange(side) - (side - 1) / 2
    return (2 * (radius - torch.hypot(axis[:, None], axis[None, :]))).clamp(-6, 6)[None, None]


radii = np.arange(0, 16.1, 0.25)
rows = []
for lesion_radius in (3, 10):
    target = (disc(lesion_radius) > 0).float()
    series = {
        "Dice": [(r, dice_loss(disc(r), target).item()) for r in radii],
        "BCE": [(r, bce_loss(disc(r), target).item()) for r in radii],
    }
    rows.append(
        line_chart(
            series,
            title=f"a lesion of radius {lesion_radius} px in 64 x 64",
            x_label="radius of the predicted disc (px)",
            y_label="loss",
            y_range=(0, 1),
            size=(430, 300),
            scale=2,
        )
    )

series = {}
for smooth in (1e-5, 1.0, 100.0):
    points = []
    for pixels in np.geomspace(0.01, 1000, 60):
        share = torch.tensor(pixels / 64**2)
        logits = torch.logit(share).expand(1, 1, 64, 64).clone().requires_grad_()
        dice_loss(logits, torch.zeros(1, 1, 64, 64), smooth=smooth).backward()
        points.append((np.log10(pixels), logits.grad.sum().item()))
    series[f"smooth {smooth:g}"] = points
empty = line_chart(
    series,
    title="an empty target: slope of the Dice loss",
    x_label="log10 of the predicted pixels, sum(p)",
    y_label="sum of the gradient",
    size=(860, 300),
    scale=2,
)
contact_sheet([[contact_sheet([rows])], [empty]]).save("docs/img/losses.png", optimize=True)
