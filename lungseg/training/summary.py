"""What a training tells at its end: the scores beside the baselines, the curves, and three predictions."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

from lungseg.data.classes import to_labels
from lungseg.draw import contact_sheet, line_chart, prediction_sheet
from lungseg.evaluation.baselines import baseline_counts
from lungseg.evaluation.metrics import per_image, worst_median_best
from lungseg.files import or_warn
from lungseg.training.log import RunLog
from lungseg.training.step import Evaluation


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
        for name, counts in baseline_counts(train_slices, test_slices).items():
            scores[name] = replace(test, counts=counts).scores  # of the same slices, with the same classes
            del scores[name]["loss"]
    log.write(split=split, **scores)
    with or_warn("curves.png was not drawn"):
        draw_curves(log.lines()).save(log.path.with_name("curves.png"))
    with or_warn("predictions.png was not drawn"):
        draw_predictions(test_slices, test, model).save(log.path.with_name("predictions.png"))
    parts = [
        f"{name}: Dice {s['dice']:.4f}, IoU {s['iou']:.4f}, RMSE {s['rmse']:.4f}, recall {s['recall']:.4f}"
        for name, s in scores.items()
    ]
    if test.counts.ndim == 3:
        parts.insert(1, classes_line(test))
    noun = "slices" if test_slices[0][0].ndim == 3 else "volumes"  # an image is (1, H, W) or (1, D, H, W)
    return f"{split}, {len(test.ids)} {noun}, " + " | ".join(parts)


def classes_line(test: Evaluation) -> str:
    """The Dice of each class, for the screen; their mean is the Dice of the best epoch."""
    dice = {name: test.scores[f"dice of {name}"] for name in test.class_names}
    parts = [f"{name} (none there)" if math.isnan(d) else f"{name} {d:.4f}" for name, d in dice.items()]
    return "Dice of each class: " + ", ".join(parts)


def draw_curves(lines: list[dict[str, Any]]) -> Image.Image:
    """The losses above, the validation scores below, over the epochs found in the lines of a log."""
    epochs = [line for line in lines if "epoch" in line]

    def curve(read: Callable[[dict], float | None]) -> list[tuple[float, float]]:
        return [(e["epoch"], math.nan if read(e) is None else read(e)) for e in epochs]

    losses = {"training": curve(lambda e: e["train_loss"]), "validation": curve(lambda e: e["val"]["loss"])}
    of_classes = [name for name in (epochs[0]["val"] if epochs else ()) if name.startswith("dice of ")]
    names = ("dice", *of_classes) if of_classes else ("dice", "iou", "recall")
    scores = {name: curve(lambda e, name=name: e["val"][name]) for name in names}
    return contact_sheet(
        [
            [line_chart(losses, title="loss per image", x_label="epoch", y_label="loss")],
            [line_chart(scores, title="validation, mean per image", x_label="epoch", y_label="score", y_range=(0, 1))],
        ]
    )


def three_slices(test: Evaluation) -> list[tuple[str, float, str]]:
    """(name, Dice, id) of the worst, the median and the best slice; slices without a Dice are left out.

    Of several classes, a slice has the mean Dice over those that it has one of.
    """
    counts = test.counts if test.counts.ndim == 3 else test.counts[:, None]  # (n, K, 4)
    dice = torch.stack([per_image(of_class)["dice"] for of_class in counts.unbind(1)], dim=1).nanmean(1).tolist()
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
        probs = model(image[None].to(device)).sigmoid().float().cpu()[0].numpy()  # (K, H, W) or (K, D, H, W)
        image, target = image[0].numpy(), to_labels(target.numpy())  # (H, W) each, or (D, H, W)
        caption = f"{name}\nDice {dice:.3f}\n{id_}"
        if target.ndim == 3:
            largest = (target > 0).sum(axis=(1, 2)).argmax()
            caption += f"\nits slice {largest}"
            parts = image[largest], target[largest], probs[:, largest]
            image, target, probs = (x.copy() for x in parts)  # a view would keep the whole volume
        rows.append((caption, image, target, probs if len(probs) > 1 else probs[0]))
    model.train(was_training)
    return prediction_sheet(rows, scale=max(1, 192 // rows[0][1].shape[0]), classes=test.class_names)
