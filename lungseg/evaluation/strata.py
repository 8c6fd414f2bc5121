"""From scores per image to rows of a table: by lesion size and label, with intervals by patient.

    rows = table_rows(scores)

Every score of a table comes from sums over images: a mean is (sum of the scores) / (number of images that have one), a
pooled Dice is made from the sums of the pixel counts. So the sums of each patient are all that the bootstrap needs.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lungseg.evaluation.lesions import SIZES_MM, SIZES_PX, Lesion, size_class
from lungseg.evaluation.metrics import per_image
from lungseg.evaluation.scores import ImageScore, scores_per_image

FEWEST_PATIENTS = 5  # for an interval; below about ten it is still too narrow

Row = dict[str, str | int | float]  # of a table


# ---- strata -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stratum:
    """Images and lesions of one size or one label; None means any.

    An image belongs to the size of its largest lesion, a lesion to its own size: an image with a large lesion may also
    hold a small one.
    """

    size: str | None = None  # a value of `size_class`
    label: str | None = None

    @property
    def name(self) -> str:
        """The text for a table."""
        if self.label is not None:
            return f"label {self.label}" if self.label else "no label"
        return self.size or "all"

    def has_image(self, score: ImageScore) -> bool:
        """Whether an image belongs to the stratum."""
        return self.size in (None, size_class(score.diameter, score.unit)) and self.label in (None, score.label)

    def select_lesions(self, score: ImageScore) -> list[Lesion]:
        """The lesions of an image that belong to the stratum."""
        same_label = self.label in (None, score.label)
        return [x for x in score.lesions if same_label and self.size in (None, size_class(x.diameter, score.unit))]


EVERYTHING = Stratum()


def strata(scores: Sequence[ImageScore]) -> list[Stratum]:
    """All images; each size; each label if any image has one. Strata without an image or a lesion are left out."""
    labels = sorted({s.label for s in scores})
    found = [EVERYTHING] + [Stratum(size=size) for size in (*SIZES_MM, *SIZES_PX, "no lesion")]
    found += [Stratum(label=label) for label in labels if set(labels) - {"", "none"}]
    return [stratum for stratum in found if any(stratum.has_image(s) or stratum.select_lesions(s) for s in scores)]


# ---- sums, and the scores computed from them --------------------------------------------------------------------


def addends(scores: Sequence[ImageScore], stratum: Stratum) -> dict[str, NDArray[np.float64]]:
    """The contribution of each image to the sums of a stratum: name -> (n,), zeros for images outside."""
    inside = np.array([stratum.has_image(s) for s in scores], dtype=bool)  # (n,)
    no_lesion = np.array([s.tp + s.fn == 0 for s in scores], dtype=bool)
    nothing_predicted = np.array([s.tp + s.fp == 0 for s in scores], dtype=bool)
    counted = ("tp", "fp", "fn", "tn", "false_positives")
    columns = {name: np.array([getattr(s, name) for s in scores], dtype=float) for name in counted}
    columns |= {
        "slices": np.ones(len(scores)),
        "empty_targets": no_lesion.astype(float),
        "empty_predictions": nothing_predicted.astype(float),
        "false_alarms": (no_lesion & ~nothing_predicted).astype(float),
    }
    for name, values in scores_per_image(scores).items():
        columns |= {f"sum of {name}": np.nan_to_num(values), f"number of {name}": (~np.isnan(values)).astype(float)}
    columns = {name: np.where(inside, values, 0.0) for name, values in columns.items()}
    lesions = [stratum.select_lesions(s) for s in scores]
    columns["lesions"] = np.array([len(of_image) for of_image in lesions], dtype=float)
    columns["lesions_found"] = np.array([sum(x.found for x in of_image) for of_image in lesions], dtype=float)
    return columns


def scores_from_sums(sums: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """name -> (m,) scores of m sets of images, from their sums; NaN for 0/0."""
    with np.errstate(invalid="ignore"):
        found = {
            name: sums[f"sum of {name}"] / sums[f"number of {name}"]
            for name in ("dice", "iou", "precision", "recall", "rmse", "hd95_mm", "hd95_px")
        }
        found["lesion_recall"] = sums["lesions_found"] / sums["lesions"]
        found["false_positives_per_slice"] = sums["false_positives"] / sums["slices"]
    counts = torch.from_numpy(np.stack([sums[name] for name in ("tp", "fp", "fn", "tn")], axis=-1)).long()  # (m, 4)
    return found | {f"pooled_{name}": values.numpy() for name, values in per_image(counts).items()}


def patient_sums(scores: Sequence[ImageScore], stratum: Stratum) -> tuple[list[str], NDArray[np.float64]]:
    """The names of the sums, and the sums (patients, names) of each patient who contributes to the stratum."""
    columns = addends(scores, stratum)
    # Sorted names: the order of the images does not matter.
    _, patient = np.unique([s.group for s in scores], return_inverse=True)
    sums = np.stack([np.bincount(patient, values) for values in columns.values()], axis=-1)  # (patients, names)
    return list(columns), sums[sums.any(axis=1)].astype(float)


# ---- tables -----------------------------------------------------------------------------------------------------


def bootstrap(
    scores: Sequence[ImageScore], *, stratum: Stratum = EVERYTHING, draws: int = 2000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """name -> (draws,): each score, computed again on as many patients as there are, drawn at random with replacement.

    Patients are drawn with all their images, because the slices of one patient are not independent (Efron and
    Tibshirani 1993, An Introduction to the Bootstrap). A score that no image of a draw has is NaN. The same seed draws
    the same patients for every network scored on them, so the difference between two networks is paired.
    """
    names, sums = patient_sums(scores, stratum)
    drawn = draw_patients(len(sums), draws, seed) @ sums
    return scores_from_sums(dict(zip(names, drawn.T, strict=True)))


@functools.lru_cache(maxsize=8)  # every network, and most strata, are scored on the same patients
def draw_patients(number: int, draws: int, seed: int) -> NDArray[np.float64]:
    """(draws, number): how often each patient is drawn when `number` are drawn; without patients there are no draws."""
    if number == 0:
        return np.zeros((0, 0))
    drawn = np.random.default_rng(seed).integers(0, number, (draws, number))
    cells = drawn + number * np.arange(draws)[:, None]  # one number for each draw and patient
    return np.bincount(cells.ravel(), minlength=draws * number).reshape(draws, number).astype(float)


def intervals(
    scores: Sequence[ImageScore], *, stratum: Stratum = EVERYTHING, draws: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """name -> (low, high): the middle 95 % of `bootstrap`.

    (NaN, NaN) where fewer than FEWEST_PATIENTS have the score, too few to show how much patients differ; and without
    draws.
    """
    names, sums = patient_sums(scores, stratum)
    of_patients = scores_from_sums(dict(zip(names, sums.T, strict=True)))
    found = {}
    for name, values in bootstrap(scores, stratum=stratum, draws=draws, seed=seed).items():
        enough = draws > 0 and np.isfinite(of_patients[name]).sum() >= FEWEST_PATIENTS
        low, high = np.nanpercentile(values, [2.5, 97.5]).tolist() if enough else (math.nan, math.nan)
        found[name] = low, high
    return found


def interval(scores: Sequence[ImageScore], of: str = "dice", **options: Any) -> tuple[float, float]:
    """(low, high) of one score, a key of `intervals`, which takes the options."""
    return intervals(scores, **options)[of]


def table_row(scores: Sequence[ImageScore], *, stratum: Stratum = EVERYTHING, draws: int = 2000, seed: int = 0) -> Row:
    """A row of a table: the name of a stratum, its counts, and each score with its interval.

    Returns:
        "stratum"; "unit" of its sizes and distances ("mm", "px", or "mm, px" if images of both kinds have their own);
        the numbers "slices", "patients" (those with an image in the stratum; the intervals also draw patients who have
        a lesion of that size only in an image with a larger one), "lesions", "lesions_found",
        "false_positives", "empty_targets", "empty_predictions", "false_alarms" (as in `metrics.summarise`);
        then for each score NAME, NAME_low and NAME_high: the means over the images that have it ("dice", "iou",
        "precision", "recall", "rmse", "hd95_mm", "hd95_px"), "lesion_recall", "false_positives_per_slice", and the
        scores of all pixels together ("pooled_dice", ...). NaN where there is none.
    """
    columns = addends(scores, stratum)
    sums = {name: values.sum(keepdims=True) for name, values in columns.items()}  # (1,) each
    counts = ("lesions", "lesions_found", "false_positives", "empty_targets", "empty_predictions", "false_alarms")
    row: Row = {"stratum": stratum.name, "unit": ", ".join(sorted({s.unit for s in scores})) or "mm"}
    row["slices"] = int(sums["slices"][0])
    row["patients"] = len({s.group for s in scores if stratum.has_image(s)})
    row |= {name: int(sums[name][0]) for name in counts}
    bounds = intervals(scores, stratum=stratum, draws=draws, seed=seed)
    for name, value in scores_from_sums(sums).items():
        row |= {name: value.item(), f"{name}_low": bounds[name][0], f"{name}_high": bounds[name][1]}
    return row


def table_rows(scores: Sequence[ImageScore], *, draws: int = 2000, seed: int = 0) -> list[Row]:
    """One `table_row` for each of the `strata`."""
    return [table_row(scores, stratum=stratum, draws=draws, seed=seed) for stratum in strata(scores)]


def class_rows(scores: Sequence[ImageScore], classes: Sequence[str], **options: Any) -> list[Row]:
    """One `table_row`, which takes the options, for each lesion class on its own: "class NAME".

    An image with neither target nor prediction of a class has no Dice in its row; a false alarm has 0. So a class that
    no image holds has a Dice of 0 if it was ever predicted, and otherwise none.

    Args:
        scores: of `score_all` with by_class.
        classes: their names.
    """
    rows = [table_row([s.classes[k] for s in scores], **options) for k in range(len(classes))]
    return [row | {"stratum": f"class {name}"} for row, name in zip(rows, classes, strict=True)]


def confusion_rows(scores: Sequence[ImageScore], classes: Sequence[str]) -> list[Row]:
    """For each class, how its lesions were classified: "class", "lesions", "missed", and "called NAME" per name."""
    table = np.sum([s.called_as for s in scores], axis=0)  # (K, K + 1)
    return [
        {"class": name, "lesions": sum(calls), "missed": calls[0]}
        | {f"called {other}": number for other, number in zip(classes, calls[1:], strict=True)}
        for name, calls in zip(classes, table.tolist(), strict=True)
    ]
