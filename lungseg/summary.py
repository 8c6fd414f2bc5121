"""What a training tells at its end: the scores beside the baselines, the curves, and three predictions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from lungseg.baselines import baseline_counts
from lungseg.draw import contact_sheet, line_chart, prediction_sheet
from lungseg.files import or_warn
from lungseg.metrics import per_image, summarise, worst_median_best
from lungseg.run import RunLog
from lungseg.training import Evaluation


def epoch_line(epoch: int, epochs: int, train_loss: float, val: dict[str, float], is_best: bool) -> str:
    """One line per epoch for the screen."""
    return (
        f"epoch {epoch:3d}/{epochs}  train loss {train_loss:.4f}  val loss {val['loss']:.4f}  "
        f"val Dice {val['dice']:.4f}  IoU {val['iou']:.4f}{'  best' if is_best else ''}"
    )


def write_summary(
    log: RunLog, test: Evaluation, model: nn.Module, train_slices: Dataset, test_slices: Dataset, *, split: str
) -> str:
    """Write the last line of the log, curves.png and predictions.png; return the last line for the screen.

    A training may have taken days: what fails here, a picture or a baseline, is left out with a warning.

    Args:
        log: of the whole run; the pictures go beside it.
        test: what `evaluate` found for `model` on the test slices.
        train_slices: un-augmented, for the threshold of the baseline.
        split: what the test slices really are, "test" or "val".
    """
    scores = {"best epoch": test.scores}
    with or_warn("The baselines were not computed"):
        scores |= {name: summarise(counts) for name, counts in baseline_counts(train_slices, test_slices).items()}
    log.write(split=split, **scores)
    with or_warn("curves.png was not drawn"):
        draw_curves(log.lines()).save(log.path.with_name("curves.png"))
    with or_warn("predictions.png was not drawn"):
        draw_predictions(test_slices, test, model).save(log.path.with_name("predictions.png"))
    parts = [
        f"{name}: Dice {s['dice']:.4f}, IoU {s['iou']:.4f}, RMSE {s['rmse']:.4f}, recall {s['recall']:.4f}"
        for name, s in scores.items()
    ]
    noun = "slices" if test_slices[0][0].ndim == 3 else "volumes"  # an image is (1, H, W) or (1, D, H, W)
    return f"{split}, {len(test.ids)} {noun}, " + " | ".join(parts)


def draw_curves(lines: list[dict[str, Any]]) -> Image.Image:
    """The losses above, the validation scores below, over the epochs found in the lines of a log."""
    epochs = [line for line in lines if "epoch" in line]

    def curve(read: Callable[[dict], float | None]) -> list[tuple[float, float]]:
        return [(e["epoch"], math.nan if read(e) is None else read(e)) for e in epochs]

    losses = {"training": curve(lambda e: e["train_loss"]), "validation": curve(lambda e: e["val"]["loss"])}
    scores = {name: curve(lambda e, name=name: e["val"][name]) for name in ("dice", "iou", "recall")}
    return contact_sheet(
        [
            [line_chart(losses, title="loss per image", x_label="epoch", y_label="loss")],
            [line_chart(scores, title="validation, mean per image", x_label="epoch", y_label="score", y_range=(0, 1))],
        ]
    )


def three_slices(test: Evaluation) -> list[tuple[str, float, str]]:
    """(name, Dice, id) of the worst, the median and the best slice; slices without a Dice are left out."""
    dice = per_image(test.counts)["dice"].tolist()
    return [(name, dice[i], test.ids[i]) for name, i in worst_median_best(dice)]


@torch.no_grad()
def draw_predictions(slices: Dataset, test: Evaluation, model: nn.Module) -> Image.Image:
    """Image, target, prediction, probability and errors of `three_slices`; of a volume, its slice with most lesion."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    place = {record.id: i for i, record in enumerate(slices.records)}
    rows = []
    for name, dice, id_ in three_slices(test):
        image, target, _ = slices[place[id_]]
        probs = model(image[None].to(device)).sigmoid().float().cpu()  # (1, 1, H, W)
        pictures = [image[0].numpy(), target[0].numpy(), probs[0, 0].numpy()]  # (H, W) each, or (D, H, W)
        caption = f"{name}\nDice {dice:.3f}\n{id_}"
        if pictures[1].ndim == 3:
            largest = pictures[1].sum(axis=(1, 2)).argmax()
            caption += f"\nits slice {largest}"
            pictures = [volume[largest].copy() for volume in pictures]  # a view would keep the whole volume
        rows.append((caption, *pictures))
    model.train(was_training)
    return prediction_sheet(rows, scale=max(1, 192 // rows[0][1].shape[0]))
