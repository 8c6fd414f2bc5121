"""What a run says: a line per epoch, and at its end the scores beside the baselines, curves and three predictions."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from lungseg.charts import line_chart
from lungseg.data.folder_files import held_kind
from lungseg.data.samples import Samples, shown
from lungseg.draw import contact_sheet, prediction_sheet
from lungseg.evaluation.baselines import baseline_counts
from lungseg.evaluation.metrics import per_image, worst_median_best
from lungseg.evaluation.pictures import prediction_rows
from lungseg.files import or_warn
from lungseg.inference import resize_logits
from lungseg.training.decide import Decided
from lungseg.training.log import RunLog
from lungseg.training.step import Evaluation


def epoch_line(epoch: int, epochs: int, train_loss: float, val: dict[str, float], is_best: bool) -> str:
    """One line per epoch for the screen."""
    return (
        f"epoch {epoch:3d}/{epochs}  train loss {train_loss:.4f}  val loss {val['loss']:.4f}  "
        f"val Dice {val['dice']:.4f}  IoU {val['iou']:.4f}{'  best' if is_best else ''}"
    )


class ZeroDiceWatch:
    """Notices, once, that the validation Dice stays 0, the usual sign of a fault in the data or in the settings."""

    EPOCHS = 5  # in a row

    def __init__(self) -> None:
        self.in_a_row, self.said = 0, False

    def remark(self, dice: float, data: Path, out: Path) -> str:
        """A sentence after the fifth epoch in a row with a Dice of 0.0000, otherwise "".

        Args:
            data, out: folders of the data and of the run, for the command that the sentence recommends.
        """
        self.in_a_row = self.in_a_row + 1 if round(dice, 4) == 0 else 0  # NaN is no zero
        if self.said or self.in_a_row < self.EPOCHS:
            return ""
        self.said = True
        where = [shlex.quote(str(path)) for path in (data, out / "last.pt")]
        command = f"python examples/diagnose.py --data {where[0]} --checkpoint {where[1]}"
        how = f"Look for the cause with: {command}"
        if held_kind(data) == "volumes":  # the script examines slices only
            how = "docs/diagnose.md lists the likely causes."
        return f"The validation Dice has been 0 for {self.EPOCHS} epochs. {how}"


def write_summary(
    log: RunLog,
    test: Evaluation,
    model: nn.Module,
    train_set: Samples,
    test_set: Samples,
    *,
    split: str,
    decided: Decided | None = None,
) -> str:
    """Write the last line of the log, curves.png and predictions.png; return the last line for the screen.

    The run may have taken days: what fails here, a picture or a baseline, is left out with a warning.

    Args:
        log: of the whole run; the pictures are written next to it.
        test: the result of `evaluate` for `model` on the test split.
        train_set: without augmentation, for the threshold of the baseline.
        split: the real name of the test split, "test" or "val".
        decided: what was chosen on validation, and its scores: for the log only.
    """
    scores = {"best epoch": test.scores}
    with or_warn("The baselines were not computed"):
        for name, counts in baseline_counts(train_set, test_set).items():
            scores[name] = replace(test, counts=counts).scores  # of the same images, with the same classes
            del scores[name]["loss"]
    log.write(split=split, **scores, **({"decision": decided.to_dict()} if decided else {}))
    with or_warn("curves.png was not drawn"):
        draw_curves(log.lines()).save(log.path.with_name("curves.png"))
    with or_warn("predictions.png was not drawn"):
        draw_predictions(test_set, test, model).save(log.path.with_name("predictions.png"))
    parts = [
        f"{name}: Dice {s['dice']:.4f}, IoU {s['iou']:.4f}, RMSE {s['rmse']:.4f}, recall {s['recall']:.4f}"
        for name, s in scores.items()
    ]
    if test.counts.ndim == 3:
        parts.insert(1, classes_line(test))
    noun = "slices" if test_set[0][0].ndim == 3 else "volumes"  # an image is (C, H, W) or (1, D, H, W)
    return f"{split}, {len(test.ids)} {noun}, " + " | ".join(parts)


def classes_line(test: Evaluation) -> str:
    """The Dice of each class, for the screen; the mean is the Dice of the best epoch."""
    dice = {name: test.scores[f"dice of {name}"] for name in test.class_names}
    parts = [f"{name} (none there)" if math.isnan(d) else f"{name} {d:.4f}" for name, d in dice.items()]
    return "Dice of each class: " + ", ".join(parts)


def draw_curves(lines: list[dict[str, Any]], *, scale: int = 1) -> Image.Image:
    """Curves of the losses (above) and the validation scores (below) over the epochs in a log, enlarged by `scale`."""
    epochs = [line for line in lines if "epoch" in line]

    losses = {
        "training": [(e["epoch"], as_number(e["train_loss"])) for e in epochs],
        "validation": [(e["epoch"], as_number(e["val"]["loss"])) for e in epochs],
    }
    of_classes = [name for name in (epochs[0]["val"] if epochs else ()) if name.startswith("dice of ")]
    names = ("dice", *of_classes) if of_classes else ("dice", "iou", "recall")
    scores = {name: [(e["epoch"], as_number(e["val"][name])) for e in epochs] for name in names}
    return contact_sheet(
        [
            [line_chart(losses, title="loss per image", x_label="epoch", y_label="loss", scale=scale)],
            [line_chart(scores, title="validation, mean per image", x_label="epoch", y_label="score", y_range=(0, 1),
                        scale=scale)],
        ]
    )  # fmt: skip


def as_number(value: float | None) -> float:
    """A number from a log, in which NaN and infinity are null."""
    return math.nan if value is None else value


def dice_per_image(test: Evaluation) -> list[float]:
    """The Dice of each image; with several classes the mean over those that the image has. NaN where it has none."""
    counts = test.counts if test.counts.ndim == 3 else test.counts[:, None]  # (n, K, 4)
    return torch.stack([per_image(of_class)["dice"] for of_class in counts.unbind(1)], dim=1).nanmean(1).tolist()


@torch.no_grad()
def draw_predictions(samples: Samples, test: Evaluation, model: nn.Module) -> Image.Image:
    """Image, target, prediction, probability and errors of the worst, the median and the best image.

    Of a volume, the slice with the most lesion is shown.
    """
    was_training, device = model.training, next(model.parameters()).device
    dice, by_class = dict(zip(test.ids, dice_per_image(test), strict=True)), test.counts.ndim == 3
    index_of = {record.id: index for index, record in enumerate(samples.records)}
    chosen = [(name, index_of[test.ids[i]]) for name, i in worst_median_best(list(dice.values()))]

    def predict(index: int, image: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = model(shown(samples)[index][0][None].to(device))  # of (C, *spatial), with neighbours
        probs = resize_logits(logits, image.shape).sigmoid().float().cpu()[0].numpy()
        return probs if by_class else probs[0]  # (K, *spatial), (*spatial)

    def caption(name: str, index: int, z: int | None) -> str:
        id_ = samples.records[index].id
        text = f"{name}\nDice {dice[id_]:.3f}\n{id_}"
        return text if z is None else f"{text}\nits slice {z}"

    model.eval()
    rows = prediction_rows(samples, chosen, predict, caption, by_class=by_class, by_target=True)
    model.train(was_training)
    classes = test.class_names if by_class else ()
    return prediction_sheet(rows, scale=max(1, 192 // rows[0][1].shape[0]), classes=classes)
