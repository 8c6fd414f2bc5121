"""From slices to a table: each slice becomes one record of numbers, and everything else is made from the records.

    scores = score_all(data, predict)   # one slice after the other; its pictures may go
    rows = rows_of_table(scores)

Every score of a table comes from sums over slices: a mean is (sum of the slices' scores) / (number that have one),
a pooled Dice is made from the sums of the pixel counts. So the sums of each patient are all that the bootstrap needs.
A slice may also be a volume; "patient" is what the manifest calls `group`. Sizes and distances are in mm where the
manifest says how large a pixel is, else in pixels of the original slice; never does a mean mix the two.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lungseg.data.classes import to_labels
from lungseg.data.manifest import ImageRecord
from lungseg.evaluation.lesions import SIZES_MM, SIZES_PX, Lesion, called_as, match_lesions, size_of
from lungseg.evaluation.metrics import counts_from_pred, hausdorff95, per_image

FEWEST_PATIENTS = 5  # for an interval; below about ten it is still too narrow
# (image in [0, 1], its row of the manifest) -> map in {0, 1}, or labels 0..K of lesion classes
Predict = Callable[[NDArray, ImageRecord], NDArray]


# ---- one slice --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageScore:
    """What is left of a slice or volume once it is scored: a few numbers."""

    id: str
    group: str  # patient
    label: str
    tp: int  # pixels (or voxels): lesion, and predicted
    fp: int  # background, and predicted
    fn: int  # lesion, and not predicted
    tn: int  # background, and not predicted
    hd95: float  # in `unit`; nan if either map is empty
    lesions: tuple[Lesion, ...]
    false_positives: int  # connected pieces of the prediction that lie on no lesion
    unit: str = "mm"  # of hd95 and of diameters; "px" (of the original slice) where the spacing is unknown
    classes: tuple["ImageScore", ...] = ()  # the same for each lesion class by itself, where they were asked for
    called_as: tuple[tuple[int, ...], ...] = ()  # then also: `lungseg.evaluation.lesions.called_as`

    @property
    def diameter(self) -> float:
        """Of the largest lesion; 0 if there is none."""
        return max((lesion.diameter for lesion in self.lesions), default=0.0)


def score_image(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    id: str,
    group: str,
    label: str = "",
    spacing_mm: float | tuple[float, ...] = math.nan,
    spacing_px: float | tuple[float, ...] = 1.0,
) -> ImageScore:
    """Compare a prediction with its target.

    Args:
        pred, target: (H, W) or (D, H, W), bool or values in {0, 1}.
        id, group, label: as in the manifest.
        spacing_mm: distance between neighbouring pixels, one number or one per axis; nan = unknown.
        spacing_px: the same in pixels of the slice that was scaled to this size; in use where spacing_mm is unknown.

    Raises:
        ValueError: naming the slice, for maps of two shapes, other values than {0, 1}, or an impossible spacing.
    """
    pred, target = np.asarray(pred), np.asarray(target)
    if pred.shape != target.shape or pred.ndim not in (2, 3):
        raise ValueError(
            f"{id}: prediction {pred.shape} and target {target.shape} must have one shape, (H, W) or (D, H, W). "
            f"Bring the prediction back to the size of the file first."
        )
    spacing = np.asarray(spacing_mm, dtype=float)
    possible = np.isnan(spacing) | (spacing > 0) & (spacing < math.inf)
    if spacing.shape not in ((), (target.ndim,)) or not possible.all():
        raise ValueError(
            f"{id}: spacing_mm={spacing_mm} must be one positive number, or one for each of the {target.ndim} axes. "
            f"NaN is unknown."
        )
    try:
        counts = sum(counts_from_pred(*pair) for pair in zip(in_slices(pred), in_slices(target), strict=True))  # (1, 4)
    except ValueError as error:
        raise ValueError(f"{id}: {error}") from None
    unit, distance = ("mm", spacing_mm) if np.isfinite(spacing).all() else ("px", spacing_px)
    lesions, false_positives = match_lesions(pred, target, distance)
    hd95 = hausdorff95(pred, target, distance)
    return ImageScore(id, group, label, *counts[0].tolist(), hd95, lesions, false_positives, unit)


def in_slices(volume: NDArray) -> Iterator[Tensor]:
    """(1, 1, H, W) of each slice: work on all of a volume at once would need many times its memory."""
    for slice_ in volume.reshape(-1, *volume.shape[-2:]):
        yield torch.from_numpy(np.ascontiguousarray(slice_))[None, None]


def score_all(
    data: Dataset, predict: Predict, *, title: str = "score", in_mm: bool | None = None, by_class: bool = False
) -> list[ImageScore]:
    """Score every slice or volume of a data set in turn; no more than one is in memory.

    Args:
        data: items (image (1, *spatial), target (K, *spatial), id), with their manifest rows as `records`.
        predict: (image (*spatial) in [0, 1], its record) -> prediction (*spatial), bool or in {0, 1}. For K > 1 lesion
            classes it may also be a label map 0..K: scored is whether there is a lesion of any class.
        title: stands before the progress bar, which is silent where there is no terminal.
        in_mm: measure sizes and distances in mm, not in pixels; None does if all spacings are known.
        by_class: score each class by itself too (`ImageScore.classes`); predictions are label maps.
    """
    in_mm = all(known_spacings(data)) if in_mm is None else in_mm
    scores = []
    for index in tqdm(range(len(data)), desc=title, disable=None):
        image, target, _ = data[index]
        record = data.records[index]
        pred = predict(image[0].numpy(), record)  # (*spatial)
        about = {"id": record.id, "group": record.group, "label": record.label}
        about["spacing_mm"] = spacing_of(data, index) if in_mm else math.nan
        about["spacing_px"] = source_pixels(record, target.shape[1:])
        if len(target) == 1:
            scores.append(score_image(pred, target[0].numpy(), **about))
            continue
        pred, labels = np.asarray(pred), to_labels(target.numpy())  # (*spatial) in 0..K
        score = score_image(pred != 0, labels != 0, **about)
        if by_class:
            each = tuple(score_image(pred == k, labels == k, **about) for k in range(1, len(target) + 1))
            called = tuple(map(tuple, called_as(pred, labels, len(target)).tolist()))
            score = replace(score, classes=each, called_as=called)
        scores.append(score)
    return scores


def known_spacings(data: Dataset) -> list[bool]:
    """Of each slice or volume: does its manifest or its file say how large a pixel is, along every side?"""
    return [bool(np.isfinite(spacing_of(data, i)).all()) for i in range(len(data))]


def spacing_of(data: Dataset, index: int) -> float | tuple[float, ...]:
    """In mm: of a volume the three of its file, of a slice the one of its manifest; nan if unknown."""
    return data.spacing_mm(index) if hasattr(data, "spacing_mm") else data.records[index].spacing_mm


def unit_remark(data: Dataset, known: Sequence[bool]) -> str:
    """One paragraph on what "px" means here and why; "" where all spacings are `known_spacings`, so in mm."""
    if all(known):
        return ""
    why = "The spacing is" if not any(known) else f"Of {len(known) - sum(known)} of {len(known)} images the spacing is"
    told = all(getattr(record, "source_height", 0) for record in data.records)
    of = "original slices" if told else "original slices, or of the files where the manifest has no source_height"
    return (
        f"{why} unknown, so all sizes and distances are in pixels (px) of the {of}; mm and pixels are never averaged "
        f"together. At 0.7 mm a pixel, 7, 14 and 28 px are about 5, 10 and 20 mm. Give every spacing_mm to have mm."
    )


def source_pixels(record: ImageRecord, shape: Sequence[int]) -> tuple[float, ...]:
    """How many pixels of the original slice one of the file is along each side; 1 where the manifest does not tell.

    Args:
        shape: (H, W) or (D, H, W) of the file. The slices of a volume are never scaled along D.
    """
    source = getattr(record, "source_height", 0), getattr(record, "source_width", 0)
    scales = [there / here if there else 1.0 for there, here in zip(source, shape[-2:], strict=True)]
    return (*[1.0] * (len(shape) - 2), *scales)


def scores_per_image(scores: Sequence[ImageScore]) -> dict[str, NDArray[np.float64]]:
    """dice, iou, precision, recall, rmse (`lungseg.evaluation.metrics.per_image`), hd95_mm and hd95_px, each (n,).

    NaN where undefined: each slice has one of the last two, by its unit.
    """
    counts = torch.tensor([(s.tp, s.fp, s.fn, s.tn) for s in scores], dtype=torch.int64).view(-1, 4)  # (n, 4)
    found = {name: values.numpy() for name, values in per_image(counts).items()}
    for unit in ("mm", "px"):
        found[f"hd95_{unit}"] = np.array([s.hd95 if s.unit == unit else math.nan for s in scores], dtype=float)
    return found


# ---- strata -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stratum:
    """Slices of one size or one label; None is any.

    A slice belongs to the size of its largest lesion, a lesion to its own: the slice of a large one may hold a
    small one too.
    """

    size: str | None = None  # a value of `size_of`
    label: str | None = None

    @property
    def name(self) -> str:
        if self.label is not None:
            return f"label {self.label}" if self.label else "no label"
        return self.size or "all"

    def has_slice(self, score: ImageScore) -> bool:
        return self.size in (None, size_of(score.diameter, score.unit)) and self.label in (None, score.label)

    def lesions_of(self, score: ImageScore) -> list[Lesion]:
        same_label = self.label in (None, score.label)
        return [x for x in score.lesions if same_label and self.size in (None, size_of(x.diameter, score.unit))]


EVERYTHING = Stratum()


def strata(scores: Sequence[ImageScore]) -> list[Stratum]:
    """All slices; each size; and each label if any slice has one. Those with no slice and no lesion are left out."""
    labels = sorted({s.label for s in scores})
    found = [EVERYTHING] + [Stratum(size=size) for size in (*SIZES_MM, *SIZES_PX, "no lesion")]
    found += [Stratum(label=label) for label in labels if set(labels) - {"", "none"}]
    return [stratum for stratum in found if any(stratum.has_slice(s) or stratum.lesions_of(s) for s in scores)]


# ---- sums, and what is made of them -----------------------------------------------------------------------------


def addends(scores: Sequence[ImageScore], stratum: Stratum) -> dict[str, NDArray[np.float64]]:
    """What each slice adds to the sums of a stratum: name -> (n,), zeros for a slice outside."""
    inside = np.array([stratum.has_slice(s) for s in scores], dtype=bool)  # (n,)
    no_lesion = np.array([s.tp + s.fn == 0 for s in scores], dtype=bool)
    nothing_predicted = np.array([s.tp + s.fp == 0 for s in scores], dtype=bool)
    columns = {name: [getattr(s, name) for s in scores] for name in ("tp", "fp", "fn", "tn", "false_positives")}
    columns |= {
        "slices": np.ones(len(scores)),
        "empty_targets": no_lesion,
        "empty_predictions": nothing_predicted,
        "false_alarms": no_lesion & ~nothing_predicted,
    }
    for name, values in scores_per_image(scores).items():
        columns |= {f"sum of {name}": np.nan_to_num(values), f"number of {name}": ~np.isnan(values)}
    columns = {name: np.where(inside, values, 0.0) for name, values in columns.items()}
    lesions = [stratum.lesions_of(s) for s in scores]
    columns["lesions"] = np.array([len(of_slice) for of_slice in lesions], dtype=float)
    columns["lesions_found"] = np.array([sum(x.found for x in of_slice) for of_slice in lesions], dtype=float)
    return columns


def scores_of_sums(sums: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """name -> (m,) scores of m sets of slices, from the sums of what their slices add; NaN for 0/0."""
    with np.errstate(invalid="ignore"):
        found = {
            name: sums[f"sum of {name}"] / sums[f"number of {name}"]
            for name in ("dice", "iou", "precision", "recall", "rmse", "hd95_mm", "hd95_px")
        }
        found["lesion_recall"] = sums["lesions_found"] / sums["lesions"]
        found["false_positives_per_slice"] = sums["false_positives"] / sums["slices"]
    counts = torch.from_numpy(np.stack([sums[name] for name in ("tp", "fp", "fn", "tn")], axis=-1)).long()  # (m, 4)
    return found | {f"pooled_{name}": values.numpy() for name, values in per_image(counts).items()}


def sums_of_patients(scores: Sequence[ImageScore], stratum: Stratum) -> tuple[list[str], NDArray[np.float64]]:
    """The names of the sums, and the sums (patients, names) of each patient who adds anything to the stratum."""
    columns = addends(scores, stratum)
    _, patient = np.unique([s.group for s in scores], return_inverse=True)  # sorted: the slices' order is nothing
    sums = np.stack([np.bincount(patient, values) for values in columns.values()], axis=-1)  # (patients, names)
    return list(columns), sums[sums.any(axis=1)]


# ---- tables -----------------------------------------------------------------------------------------------------


def bootstrap(
    scores: Sequence[ImageScore], *, stratum: Stratum = EVERYTHING, draws: int = 2000, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """name -> (draws,): each score when as many patients as there are, with all their slices, are drawn anew.

    Patients are drawn with replacement and whole, since slices of one patient are no independent witnesses (Efron
    and Tibshirani 1993, An Introduction to the Bootstrap). A draw in which no slice has a score is NaN there. The
    same seed draws the same patients for every network scored on them: the difference of two networks is a paired one.
    """
    rng = np.random.default_rng(seed)
    names, sums = sums_of_patients(scores, stratum)
    num = len(sums)  # patients
    drawn = [np.bincount(rng.integers(0, num, num), minlength=num) @ sums for _ in range(draws if num else 0)]
    return scores_of_sums(dict(zip(names, np.reshape(drawn, (-1, len(names))).T, strict=True)))


def intervals(
    scores: Sequence[ImageScore], *, stratum: Stratum = EVERYTHING, draws: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """name -> (low, high): the middle 95 % of `bootstrap`.

    (nan, nan) where fewer than FEWEST_PATIENTS have the score: so few cannot show how much patients differ.
    """
    names, sums = sums_of_patients(scores, stratum)
    of_patients = scores_of_sums(dict(zip(names, sums.T, strict=True)))
    found = {}
    for name, values in bootstrap(scores, stratum=stratum, draws=draws, seed=seed).items():
        enough = np.isfinite(of_patients[name]).sum() >= FEWEST_PATIENTS
        low, high = np.nanpercentile(values, [2.5, 97.5]).tolist() if enough else (math.nan, math.nan)
        found[name] = low, high
    return found


def interval(scores: Sequence[ImageScore], of: str = "dice", **options: object) -> tuple[float, float]:
    """(low, high) of one score: a key of `intervals`, which takes the options."""
    return intervals(scores, **options)[of]


def table_row(
    scores: Sequence[ImageScore], *, stratum: Stratum = EVERYTHING, draws: int = 2000, seed: int = 0
) -> dict[str, str | int | float]:
    """All that is known of a stratum: its name, how much there is of what, and each score with its interval.

    Returns:
        "stratum"; "unit", in which its sizes and distances are ("mm", "px" or, of slices of both kinds, "mm, px": then
        each has its own); the numbers "slices", "patients" (those with a slice in the stratum; the intervals also
        draw those who have only a lesion of it, in a slice of a larger one), "lesions", "lesions_found",
        "false_positives", "empty_targets", "empty_predictions", "false_alarms" (as in `metrics.summarise`);
        then for each score NAME, NAME_low and NAME_high: the means over the slices that have it ("dice", "iou",
        "precision", "recall", "rmse", "hd95_mm", "hd95_px"), "lesion_recall", "false_positives_per_slice", and the
        scores of all pixels together ("pooled_dice", ...). NaN where there is none.
    """
    columns = addends(scores, stratum)
    sums = {name: values.sum(keepdims=True) for name, values in columns.items()}  # (1,) each
    counts = ("lesions", "lesions_found", "false_positives", "empty_targets", "empty_predictions", "false_alarms")
    row = {"stratum": stratum.name, "unit": ", ".join(sorted({s.unit for s in scores})) or "mm"}
    row["slices"] = int(sums["slices"][0])
    row["patients"] = len({s.group for s in scores if stratum.has_slice(s)})
    row |= {name: int(sums[name][0]) for name in counts}
    bounds = intervals(scores, stratum=stratum, draws=draws, seed=seed)
    for name, value in scores_of_sums(sums).items():
        row |= {name: value.item(), f"{name}_low": bounds[name][0], f"{name}_high": bounds[name][1]}
    return row


def rows_of_table(scores: Sequence[ImageScore], *, draws: int = 2000, seed: int = 0) -> list[dict]:
    """One `table_row` for each of the `strata`."""
    return [table_row(scores, stratum=stratum, draws=draws, seed=seed) for stratum in strata(scores)]


def rows_of_classes(scores: Sequence[ImageScore], classes: Sequence[str], **options: int) -> list[dict]:
    """One `table_row`, which takes the options, for each lesion class by itself: "class NAME".

    A slice without lesion and prediction of a class has no Dice in its row, and one where something was predicted
    has 0. So a class that no slice holds has 0, or no score at all.

    Args:
        scores: of `score_all` with by_class.
        classes: their names.
    """
    rows = [table_row([s.classes[k] for s in scores], **options) for k in range(len(classes))]
    return [row | {"stratum": f"class {name}"} for row, name in zip(rows, classes, strict=True)]


def rows_of_calls(scores: Sequence[ImageScore], classes: Sequence[str]) -> list[dict]:
    """For each class, what its lesions were taken for: "class", "lesions", "missed", and "called NAME" of each name."""
    table = np.sum([s.called_as for s in scores], axis=0)  # (K, K + 1)
    return [
        {"class": name, "lesions": sum(calls), "missed": calls[0]}
        | {f"called {other}": number for other, number in zip(classes, calls[1:], strict=True)}
        for name, calls in zip(classes, table.tolist(), strict=True)
    ]
