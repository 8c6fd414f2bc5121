"""Draw docs/img/after_training_ema.png and after_training_decision.png: averaged weights, and a choice on validation.

A U-Net learns phantom crops around one nodule for a minute of processor time in all: once at a constant learning
rate and once along a cosine, each with a running average of its weights.
"""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from lungseg.charts import line_chart
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.evaluation.choosing import MIN_PIXELS, THRESHOLDS, choose, dice_grid, known_mean
from lungseg.losses import dice_bce_loss
from lungseg.nn.unet import UNet
from lungseg.training.ema import WeightAverage, averaged_weights
from lungseg.training.step import evaluate, train_one_epoch

IMG = Path(__file__).resolve().parents[1] / "img"
EPOCHS, RATE, DECAY = 14, 3e-3, 0.97
SIZES = (0, 12, 32)  # pixels: of the curves in the second picture


def crops(seeds: range) -> TensorDataset:
    """Two crops of each phantom patient, around a nodule of 4 to 14 mm."""
    found = [c for s in seeds for c in phantom_crops(np.random.default_rng(s), num=2, diameter_mm=(4, 14))]
    image = torch.from_numpy(hu_to_unit(np.stack([[c.hu] for c in found])))  # (n, 1, 64, 64)
    return TensorDataset(image, torch.from_numpy(np.stack([[c.target] for c in found])).float())


TRAIN, VAL, TEST = crops(range(120)), crops(range(500, 560)), crops(range(700, 800))


def train(schedule: str) -> tuple[UNet, WeightAverage, dict[str, list[tuple[float, float]]]]:
    """The network, its average, and the validation Dice of both after each epoch."""
    torch.manual_seed(0)
    model = UNet(channels=(8, 16, 32))
    batches = DataLoader(TRAIN, batch_size=8, shuffle=True, drop_last=True)
    optimizer, steps = torch.optim.AdamW(model.parameters(), lr=RATE), EPOCHS * len(batches)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if schedule == "cosine" else None
    average, curves = WeightAverage(model, DECAY), {"weights of the last step": [], "running average": []}
    for epoch in range(1, EPOCHS + 1):
        train_one_epoch(model, batches, dice_bce_loss, optimizer, schedule=rates, grad_clip=1.0, ema=average)
        for name, used in zip(curves, (None, average), strict=True):
            with averaged_weights(used):
                curves[name].append((epoch, evaluate(model, DataLoader(VAL, 20), dice_bce_loss).scores["dice"]))
    return model, average, curves


def grids(model: UNet, data: TensorDataset) -> list:
    """What each image says about every decision."""
    image, target = data.tensors
    with torch.no_grad():
        probs = model.eval()(image).sigmoid().numpy()
    return [dice_grid(f"{i:04d}", p, y, 2) for i, (p, y) in enumerate(zip(probs, target.numpy(), strict=True))]


def decisions(model: UNet):
    """Mean Dice of the validation images by threshold, for three smallest components."""
    val, test = grids(model, VAL), grids(model, TEST)
    mean = known_mean(np.stack([grid.dice[0] for grid in val]))  # (thresholds, sizes)
    names = {size: f"components of at least {size} pixels" if size else "all components" for size in SIZES}
    series = {name: list(zip(THRESHOLDS, mean[:, MIN_PIXELS.index(size)], strict=True)) for size, name in names.items()}
    choice = choose(val)
    t, s = THRESHOLDS.index(choice.decision.threshold), MIN_PIXELS.index(choice.decision.min_pixels)
    tested = known_mean(np.stack([grid.dice[0] for grid in test]))
    print(choice, "test", tested[t, s], "with 0.5", tested[THRESHOLDS.index(0.5), 0])
    return line_chart(
        series,
        title="mean Dice of 120 validation images",
        x_label="threshold",
        y_label="Dice",
        size=(720, 360),
        scale=2,
    )


if __name__ == "__main__":
    pictures = []
    for schedule in ("constant", "cosine"):
        model, average, curves = train(schedule)
        print(schedule, {name: [round(dice, 3) for _, dice in curve] for name, curve in curves.items()})
        pictures.append((schedule, curves))
    with averaged_weights(average):
        decisions(model).save(IMG / "after_training_decision.png")
    series = {f"{s} rate: {name}": curve for s, curves in pictures for name, curve in curves.items()}
    line_chart(
        series, title="validation Dice", x_label="epoch", y_label="Dice", size=(720, 420), y_range=(0, 1), scale=2
    ).save(IMG / "after_training_ema.png")
