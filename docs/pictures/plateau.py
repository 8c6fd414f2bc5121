"""Draw docs/img/plateau.png: three schedules for the same validation losses."""

from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lungseg.charts import line_chart
from lungseg.training.optim import reduce_on_plateau, warmup_cosine

IMG = Path(__file__).resolve().parents[1] / "img"
EPOCHS = 40


def main() -> None:
    rng = np.random.default_rng(0)
    losses = [0.4 + 0.6 * np.exp(-epoch / 5) + 0.01 * rng.standard_normal() for epoch in range(EPOCHS)]
    makers = {
        "Keras' count": lambda optimizer: reduce_on_plateau(optimizer, "min", patience=3, factor=0.5, min_delta=1e-3),
        "torch's count": lambda optimizer: ReduceLROnPlateau(optimizer, patience=3, factor=0.5, threshold=1e-3),
    }
    series = {"loss": list(enumerate(losses, start=1))}
    for name, make in makers.items():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule, series[name] = make(optimizer), []
        for epoch, loss in enumerate(losses, start=1):
            rate = optimizer.param_groups[0]["lr"]
            series[name] += [(epoch - 0.5, rate), (epoch + 0.5, rate)]
            schedule.step(loss)
    cosine = [warmup_cosine(epoch, warmup_steps=0, total_steps=EPOCHS) for epoch in range(EPOCHS)]
    series["cosine"] = list(enumerate(cosine, start=1))
    chart = line_chart(
        series,
        title="validation loss, and the learning rate as a share of its peak",
        x_label="epoch",
        y_range=(0, 1),
        scale=2,
    )
    chart.save(IMG / "plateau.png", optimize=True)


if __name__ == "__main__":
    main()
