"""Draw docs/img/training*.png: the learning rates of the recipes, and when each early stopping rule stops."""

import importlib.util
import sys
from pathlib import Path

from lungseg.charts import line_chart
from lungseg.training.early_stopping import EarlyStopping
from lungseg.training.optim import warmup_cosine

ROOT = Path(__file__).resolve().parents[2]
IMG = ROOT / "docs/img"
STEPS = 40  # optimizer steps in an epoch, for the picture

spec = importlib.util.spec_from_file_location("train_swin", ROOT / "examples/train_swin.py")
train_swin = importlib.util.module_from_spec(spec)
sys.modules["train_swin"] = train_swin
spec.loader.exec_module(train_swin)


def schedules():
    """Learning rate over the epochs, as a share of each recipe's peak: the peaks differ by a factor of ten."""
    series = {}
    for name, recipe in train_swin.RECIPES.items():
        floor = 0.01 if recipe.schedule == "cosine" else 1.0
        warmup, total = round(recipe.warmup_epochs * STEPS), recipe.epochs * STEPS
        rates = [warmup_cosine(s, warmup_steps=warmup, total_steps=total, floor=floor) for s in range(0, total, 5)]
        series[f"{name}: peak {recipe.lr:g}"] = [(5 * i / STEPS, rate) for i, rate in enumerate(rates)]
    return line_chart(
        series,
        title="learning rate",
        x_label="epoch",
        y_label="share of the peak",
        size=(720, 300),
        y_range=(0, 1.1),
        scale=2,
    )


def counting():
    """A validation score, and the epoch after which each rule stops."""
    rising = [0.30, 0.48, 0.57, 0.60, 0.59, 0.60, 0.62]
    values = rising + [0.61, 0.60, 0.62, 0.61, 0.60, 0.63, 0.64, 0.63, 0.62, 0.63, 0.62, 0.61, 0.62]
    series = {"validation Dice": [(epoch, v) for epoch, v in enumerate(values, start=1)]}
    for patience, min_epochs, height in ((3, 0, 0.42), (3, 12, 0.38), (6, 0, 0.34)):
        stopping, epoch = EarlyStopping(patience, "max", min_epochs=min_epochs), 0
        while not stopping.stop:
            stopping.update(values[epoch])
            epoch += 1
        name = f"patience {patience}" + (f", min_epochs {min_epochs}" if min_epochs else "")
        series[name] = [(stopping.best_epoch, height), (epoch, height)]
    title = "each bar runs from the best epoch to the last one trained"
    return line_chart(series, title=title, x_label="epoch", y_label="Dice", size=(720, 320), scale=2)


if __name__ == "__main__":
    schedules().save(IMG / "training_rates.png")
    counting().save(IMG / "training_stopping.png")
