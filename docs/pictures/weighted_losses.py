"""Draw docs/img/weighted_losses.png: what a pixel pulls, what a map of the wrong size costs, what a power does."""

import numpy as np
import torch

from lungseg.charts import line_chart
from lungseg.draw import contact_sheet
from lungseg.losses import bce_loss, dice_bce_loss, dice_loss, focal_loss, focal_tversky_loss, tversky_loss

SIZE = {"size": (440, 300), "scale": 2}


def disc(radius: float, side: int = 64) -> torch.Tensor:
    """Logits of a centred disc, (1, 1, side, side): 0 at its rim, 2 more per pixel inwards, within +-6."""
    axis = torch.arange(side) - (side - 1) / 2
    return (2 * (radius - torch.hypot(axis[:, None], axis[None, :]))).clamp(-6, 6)[None, None]


def pull(loss, probability: float) -> float:
    """Minus the slope of the loss of one lesion pixel with respect to its logit."""
    logits = torch.logit(torch.tensor([[[probability]]], dtype=torch.float64)).requires_grad_()
    (grad,) = torch.autograd.grad(loss(logits, torch.ones(1, 1, 1)), logits)
    return -grad.item()


probabilities = np.linspace(0.005, 0.995, 100)
pulls = {
    "bce": bce_loss,
    "pos_weight 2": lambda x, g: bce_loss(x, g, pos_weight=2.0),
    "focal, gamma 2": lambda x, g: focal_loss(x, g, gamma=2.0),
}
of_a_pixel = line_chart(
    {name: [(p, pull(loss, p)) for p in probabilities] for name, loss in pulls.items()},
    title="how strongly a lesion pixel pulls at its logit",
    x_label="its probability",
    y_label="minus the slope of its loss",
    **SIZE,
)

target = (disc(6) > 0).float()
radii = np.arange(0, 12.1, 0.25)
of_a_size = line_chart(
    {
        f"beta {beta:g}": [(r, tversky_loss(disc(r), target, alpha=1 - beta, beta=beta).item()) for r in radii]
        for beta in (0.5, 0.7, 0.9)
    },
    title="Tversky loss: a lesion of radius 6 px",
    x_label="radius of the predicted disc (px)",
    y_label="loss",
    y_range=(0, 1),
    **SIZE,
)

lesion = torch.ones(1, 1, 400)
found = [50 - 100 * (torch.arange(400) < missed).float()[None, None] for missed in range(0, 401, 4)]
tversky = {"alpha": 0.5, "beta": 1.0}
of_a_power = line_chart(
    {
        f"gamma {gamma:.3g}": [
            (tversky_loss(x, lesion, **tversky).item(), focal_tversky_loss(x, lesion, **tversky, gamma=gamma).item())
            for x in found
        ]
        for gamma in (1.0, 4 / 3, 3.0)
    },
    title="focal Tversky loss",
    x_label="Tversky loss, 1 - TI",
    y_label="(1 - TI)^(1/gamma)",
    y_range=(0, 1),
    **SIZE,
)

tried = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)


def best_probability(loss, share: float) -> float:
    """The probability at which the loss of a map of 9 pixels with this share is lowest."""
    soft = torch.full((1, 1, 9), share, dtype=torch.float64)
    return tried[min(range(len(tried)), key=lambda i: loss(torch.logit(tried[i]).expand(1, 1, 9), soft).item())].item()


wished = {
    "bce": bce_loss,
    "pos_weight 3": lambda x, g: bce_loss(x, g, pos_weight=3.0),
    "focal, gamma 2": lambda x, g: focal_loss(x, g, gamma=2.0),
    "dice + bce": dice_bce_loss,
    "dice": dice_loss,
}
of_a_share = line_chart(
    {name: [(g, best_probability(loss, g)) for g in np.linspace(0.02, 0.98, 49)] for name, loss in wished.items()},
    title="soft target: the probability of lowest loss",
    x_label="share of the readers, on 9 pixels",
    y_label="probability",
    y_range=(0, 1),
    **SIZE,
)
charts = [[of_a_pixel, of_a_size], [of_a_power, of_a_share]]
contact_sheet(charts).quantize(128).save("docs/img/weighted_losses.png", optimize=True)
