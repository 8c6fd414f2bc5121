"""Draw docs/img/summary.png: the curves of a run, drawn by `lungseg.training.summary` from made-up numbers."""

import math
from pathlib import Path

from lungseg.training.summary import draw_curves

IMG = Path(__file__).resolve().parents[2] / "docs/img"


def made_up_run(epochs: int = 40) -> list[dict]:
    """A network that begins to memorise its training slices halfway."""
    lines = []
    for epoch in range(1, epochs + 1):
        wobble = 0.02 * math.sin(2.7 * epoch) * math.exp(-epoch / 40)
        train_loss = 0.15 + 0.85 * math.exp(-epoch / 8)
        loss = 0.3 + 0.7 * math.exp(-epoch / 6) + 0.005 * max(0, epoch - 18) + 2 * wobble
        dice = 0.82 - 0.75 * math.exp(-epoch / 5) - 0.002 * max(0, epoch - 20) + wobble
        scores = {"loss": loss, "dice": dice, "iou": dice / (2 - dice), "recall": min(1.0, dice + 0.05 - 2 * wobble)}
        lines.append({"epoch": epoch, "train_loss": train_loss, "val": scores})
    return lines


if __name__ == "__main__":
    draw_curves(made_up_run(), scale=2).save(IMG / "summary.png")
