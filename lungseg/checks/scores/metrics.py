"""Checks of counts of pixels, and of the scores and summaries computed from them, against loops in Python."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, first_difference, judge, row
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.scores.scores import NOTHING, PAGE, Counts, score_of

SCORES = ("dice", "iou", "precision", "recall", "rmse")
COUNTED = ("images", "empty_targets", "empty_predictions", "false_alarms")
NAMES = ("tp", "fp", "fn", "tn")

# ---- counts ---------------------------------------------------------------------------------------------------

COUNTS = Lesson(
    "confusion_counts",
    "confusion_counts(logits, target, threshold=0.5), both (B, 1, *spatial) -> (B, 4) int64: tp, fp, fn, tn",
    "a pixel is predicted to be lesion where its probability, sigmoid(logit), is above the threshold; each image is "
    "counted by itself, in int64, which is exact for any volume.",
    PAGE,
    {
        "threshold on the logit": "the logit is compared with the threshold: a logit of 0.5 is a probability of 0.62.",
        "threshold ignored": "the threshold is always 0.5: a logit above 0.",
        "at or above": "a probability equal to the threshold counts as lesion; it must be above.",
        "fp and fn exchanged": "false positives and false negatives are exchanged: fp is predicted, but no lesion.",
        "order of scikit-learn": "the order is tn, fp, fn, tp, that of confusion_matrix().ravel(); here it is tp, fp, "
        "fn, tn.",
        "tn second": "the order is tp, tn, fp, fn; here it is tp, fp, fn, tn.",
        "batch pooled": "the images of the batch are added up: each image has a row of its own.",
        "background": "0 and 1 are exchanged.",
        "predictions counted": "the second and third are all predicted and all lesion pixels, tp included.",
        "counted in uint8": "the counts wrap around at 256: sum in int64.",
    },
)


class Batch(NamedTuple):
    """Logits and targets (B, pixels), the spatial shape of the pixels, and the threshold."""

    logits: Sequence[Sequence[float]]
    target: Sequence[Sequence[int]]
    shape: tuple[int, ...]
    threshold: float

    def __str__(self) -> str:
        return (
            f"{len(self.logits)} image(s) of {' x '.join(map(str, self.shape))} pixels at probability {self.threshold}"
        )

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(logits, target), both (B, 1, *spatial) float32."""
        shape = (len(self.logits), 1, *self.shape)
        return torch.tensor(self.logits).reshape(shape), torch.tensor(self.target).reshape(shape).float()


MIXED, LESION = [3.0, 0.3, -0.5, -2.0, 1.0, -50.0], [1, 0, 1, 0, 1, 0]
BATCHES = [
    Batch([[0.3]], [[1]], (1, 1), 0.5), Batch([[2.0, -2.0]], [[0, 1]], (1, 2), 0.5),
    Batch([MIXED], [LESION], (2, 3), 0.5), Batch([MIXED], [LESION], (2, 3), 0.3),
    Batch([MIXED], [LESION], (3, 2), 0.9), Batch([MIXED, MIXED[::-1]], [LESION, [0] * 6], (2, 3), 0.5),
    Batch([MIXED] * 3, [[0] * 6, [1] * 6, LESION], (2, 3), 0.3),
    Batch([MIXED * 2], [LESION + [0] * 6], (3, 2, 2), 0.5), Batch([[0.0, 1.0]], [[1, 1]], (1, 2), 0.5),
    Batch([[50.0] * 600], [[1] * 300 + [0] * 300], (20, 30), 0.5),
]  # fmt: skip


def counts_by_loops(case: Batch, slip: str = "") -> Tensor:
    """(B, 4): pixel by pixel."""
    rows = []
    for logits, target in zip(case.logits, case.target, strict=True):
        tp = fp = fn = tn = 0
        for x, lesion in zip(logits, target, strict=True):
            p = 1 / (1 + math.exp(-x))
            predicted = p > case.threshold or (slip == "at or above" and p == case.threshold)
            predicted = x > case.threshold if slip == "threshold on the logit" else predicted
            predicted = x > 0 if slip == "threshold ignored" else predicted
            tp += predicted and lesion == 1
            fp += predicted and lesion == 0
            fn += not predicted and lesion == 1
            tn += not predicted and lesion == 0
        rows.append({
            "fp and fn exchanged": [tp, fn, fp, tn],
            "order of scikit-learn": [tn, fp, fn, tp],
            "tn second": [tp, tn, fp, fn],
            "background": [tn, fn, fp, tp],
            "predictions counted": [tp, tp + fp, tp + fn, tn],
            "counted in uint8": [n % 256 for n in (tp, fp, fn, tn)],
        }.get(slip, [tp, fp, fn, tn]))  # fmt: skip
    counts = torch.tensor(rows)
    return counts.sum(0, keepdim=True) if slip == "batch pooled" else counts


def check_confusion_counts(confusion_counts: Callable) -> None:
    """Fail unless `confusion_counts(logits, target, threshold=p)` counts each image exactly.

    logits and target are (B, 1, *spatial), the result (B, 4) int64: tp, fp, fn, tn. The threshold p is a
    probability, not a logit.
    """

    def student(case: Batch) -> Tensor:
        return as_tensor(COUNTS, call(COUNTS, confusion_counts, *case.tensors(), threshold=case.threshold))

    def describe(case: Batch, got: Tensor, want: Tensor) -> str:
        b, k = first_difference(got, want)
        return f"{case}: {NAMES[k]} of image {b} is {got[b, k].item():g}, a loop over the pixels counts {want[b, k]}."

    def numbers(case: Batch, got: Tensor, want: Tensor) -> str:
        b, _ = first_difference(got, want)
        p = [1 / (1 + math.exp(-x)) for x in case.logits[b]]
        return (
            f"logits        {row(case.logits[b])}\nprobabilities {row(p)}\ntarget        {row(case.target[b])}\n"
            f"expected tp, fp, fn, tn = {want[b].tolist()}\nyours                     {got[b].tolist()}"
        )

    judge(COUNTS, student, BATCHES, counts_by_loops, describe, numbers=numbers)
    if (dtype := student(BATCHES[0]).dtype) != torch.int64:
        raise Wrong(COUNTS, f"the counts are {dtype}, expected torch.int64, which is exact for any volume.")


# ---- scores of each image -------------------------------------------------------------------------------------

PER_IMAGE = Lesson(
    "per_image",
    'per_image(counts (n, 4) int64: tp, fp, fn, tn) -> {"dice": (n,), "iou": (n,), "precision": (n,), "recall": (n,), '
    '"rmse": (n,)}',
    "each image is scored by itself: dice = 2 tp / (2 tp + fp + fn), iou = tp / (tp + fp + fn), precision = tp / (tp + "
    "fp), recall = tp / (tp + fn), rmse = sqrt((fp + fn) / all). " + NOTHING,
    PAGE,
    {
        "0/0 is 1": "0/0 counts as 1: then a mean rises with every empty image in the set. Our rule: NaN.",
        "0/0 is 0": "0/0 counts as 0: then a mean falls with every empty image, though nothing was wrong. Our rule: "
        "NaN.",
        "smoothing of 1": "1 is added above and below the fractions: that belongs into the loss, not into the scores.",
        "an empty target scores 1": "every image without a lesion counts as perfect, false alarms included.",
        "an empty target scores NaN": "every image without a lesion is left out, so false alarms cost nothing.",
        "factor 2 missing": "the factor 2 is missing in the Dice.",
        "precision and recall exchanged": "precision divides by the prediction, tp + fp; recall by the lesion, tp + "
        "fn. (Or the columns were read as tp, fn, fp, tn.)",
        "IoU": "the Dice is computed by the formula of the IoU.",
        "Dice": "the IoU is computed by the formula of the Dice.",
        "root missing": "the square root of the RMSE is missing.",
        "pooled": "the counts of all images are added first: each image has scores of its own.",
    },
)
HUGE = 10**10  # pixels: 2**31 is too small, and so are the 24 bits of a float32
TABLES = [[Counts(*c, 1) for c in table] for table in [
    [(6, 2, 1, 11)], [(1, 0, 3, 4)], [(2, 3, 0, 1), (1, 1, 2, 5)], [(0, 0, 7, 3)], [(0, 7, 0, 3)], [(0, 0, 0, 5)],
    [(5, 0, 0, 0)],
    [(6, 2, 2, 90), (0, 0, 7, 93), (0, 7, 0, 93), (0, 0, 0, 100)], [(HUGE, 1, 2, HUGE), (1, HUGE, HUGE, 5)],
]]  # fmt: skip
OF_DICE_AND_IOU = ("an empty target scores 1", "an empty target scores NaN")


def scores_by_formula(c: Counts, slip: str = "") -> dict[str, float]:
    """The five scores of one image."""
    of = dict.fromkeys(SCORES, slip)
    if slip in OF_DICE_AND_IOU:
        of |= dict.fromkeys(("precision", "recall", "rmse"), "")
    elif slip in ("factor 2 missing", "IoU"):
        of = dict.fromkeys(SCORES, "") | {"dice": slip}
    elif slip == "Dice":
        of = dict.fromkeys(SCORES, "") | {"iou": slip}
    elif slip == "root missing":
        of = dict.fromkeys(SCORES, "") | {"rmse": slip}
    elif slip in ("smoothing of 1", "0/0 is 1", "0/0 is 0"):
        of |= {"rmse": ""}
    found = {name: score_of(name, c, of[name]) for name in SCORES}
    scores = {name: math.nan if score is None else score for name, score in found.items()}
    if slip == "precision and recall exchanged":
        scores["precision"], scores["recall"] = scores["recall"], scores["precision"]
    return scores


def total(table: Sequence[Counts]) -> Counts:
    tp, fp, fn, tn = (sum(c[k] for c in table) for k in range(4))
    return Counts(tp, fp, fn, tn, 1)


def table_of(table: Sequence[Counts]) -> Tensor:
    """(n, 4) int64."""
    return torch.tensor([c[:4] for c in table])


def check_per_image(per_image: Callable) -> None:
    """Fail unless `per_image(counts)` scores each image separately, with NaN exactly where the formula is 0/0.

    counts is (n, 4) int64: tp, fp, fn, tn. The result maps "dice", "iou", "precision", "recall" and "rmse" to
    tensors of shape (n,).
    """

    def student(table: Sequence[Counts]) -> Tensor:
        result = named(PER_IMAGE, call(PER_IMAGE, per_image, table_of(table)), SCORES)
        columns = [as_tensor(PER_IMAGE, result[name]) for name in SCORES]
        for name, column in zip(SCORES, columns, strict=True):
            if column.shape != (len(table),):
                raise Wrong(PER_IMAGE, f"{len(table)} image(s): {name} has shape {tuple(column.shape)}, expected "
                            f"({len(table)},), a score per image.")  # fmt: skip
        return torch.stack([c.double() for c in columns])

    def oracle(table: Sequence[Counts], slip: str) -> Tensor:
        rows = [total(table)] * len(table) if slip == "pooled" else table
        each = [scores_by_formula(c, "" if slip == "pooled" else slip) for c in rows]
        return torch.tensor([[scores[name] for scores in each] for name in SCORES], dtype=torch.float64)

    def describe(table: Sequence[Counts], got: Tensor, want: Tensor) -> str:
        k, i = first_difference(got, want, 1e-7)
        why = ", as the formula is 0/0" if want[k, i].isnan() else ""
        return (f"(tp, fp, fn, tn) = {table[i][:4]}, image {i} of {len(table)}: {SCORES[k]} is {got[k, i].item():.6g}, "
                f"expected {want[k, i].item():.6g}{why}.")  # fmt: skip

    judge(PER_IMAGE, student, TABLES, oracle, describe, tolerance=1e-7)


def named(lesson: Lesson, result: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """A student's dict, or Wrong if it is none or a name is missing."""
    if not isinstance(result, Mapping):
        raise Wrong(lesson, f"the result is a {type(result).__name__}, expected a dict: {lesson.signature}")
    if missing := [name for name in names if name not in result]:
        raise Wrong(lesson, f"the result lacks {missing[0]!r}; it has {', '.join(map(str, result))}.")
    return result


# ---- summary of a set of images -------------------------------------------------------------------------------

SUMMARY = (*SCORES, *(f"pooled_{name}" for name in SCORES), *COUNTED)
SUMMARISE = Lesson(
    "summarise",
    "summarise(counts (n, 4) int64: tp, fp, fn, tn) -> dict: " + ", ".join(SUMMARY),
    "each score is the mean over the images that have it (NaN if none has); pooled_dice and so on are the scores of "
    "all pixels together; empty_targets have no lesion pixel, empty_predictions no predicted one, and false_alarms "
    "are the images without a lesion where something was predicted.",
    PAGE,
    {
        "NaN counts as 0": "an image without a score counts as 0 in the mean: leave it out (nanmean).",
        "NaN counts as 1": "an image without a score counts as 1 in the mean: leave it out (nanmean).",
        "NaN spreads": "one image without a score makes the mean NaN: leave it out (nanmean).",
        "pooled for mean": "the scores of all pixels together are given as the means over the images.",
        "mean for pooled": "the means over the images are given as pooled scores: add up the counts first.",
        "false alarms are all empty targets": "every image without a lesion counts as a false alarm: only those where "
        "something was predicted.",
        "false alarms are all images with fp": "every image with a false positive pixel counts as a false alarm: only "
        "those without a lesion.",
        "targets and predictions exchanged": "empty_targets and empty_predictions are exchanged.",
        "median": "the median over the images is given; expected the mean.",
    },
)
SETS = [
    *TABLES[:7],
    [*TABLES[0], *TABLES[3]],
    [*TABLES[0], *TABLES[4]],
    TABLES[7],
    [*TABLES[0], *TABLES[5], *TABLES[1]],
]


def summary_by_loops(table: Sequence[Counts], slip: str = "") -> Tensor:
    """The numbers of SUMMARY, in that order."""
    each, whole = [scores_by_formula(c) for c in table], scores_by_formula(total(table))
    means = {}
    for name in SCORES:
        values = [s[name] for s in each]
        if slip in ("NaN counts as 0", "NaN counts as 1"):
            values = [float(slip[-1]) if math.isnan(v) else v for v in values]
        elif slip != "NaN spreads":
            values = [v for v in values if not math.isnan(v)]
        means[name] = sum(values) / len(values) if values else math.nan
        if slip == "median" and values:
            means[name] = sorted(values)[(len(values) - 1) // 2]
    no_lesion, silent = [c.tp + c.fn == 0 for c in table], [c.tp + c.fp == 0 for c in table]
    alarms = {
        "false alarms are all empty targets": no_lesion,
        "false alarms are all images with fp": [c.fp > 0 for c in table],
    }.get(slip, [c.tp + c.fn == 0 and c.fp > 0 for c in table])
    if slip == "targets and predictions exchanged":
        no_lesion, silent = silent, no_lesion
    of_images, of_pixels = (
        (whole if slip == "pooled for mean" else means),
        (means if slip == "mean for pooled" else whole),
    )
    numbers = [*of_images.values(), *of_pixels.values(), len(table), sum(no_lesion), sum(silent), sum(alarms)]
    return torch.tensor(numbers, dtype=torch.float64)


def check_summarise(summarise: Callable) -> None:
    """Fail unless `summarise(counts)` averages over the images that have a score, and counts the others."""

    def student(table: Sequence[Counts]) -> Tensor:
        result = named(SUMMARISE, call(SUMMARISE, summarise, table_of(table)), SUMMARY)
        values = [as_tensor(SUMMARISE, result[name]) for name in SUMMARY]
        for name, value in zip(SUMMARY, values, strict=True):
            if value.numel() != 1:
                raise Wrong(SUMMARISE, f"{name} has shape {tuple(value.shape)}, expected one number.")
        return torch.stack([value.double().reshape(()) for value in values])

    def describe(table: Sequence[Counts], got: Tensor, want: Tensor) -> str:
        (k,) = first_difference(got, want, 1e-7)
        return f"{len(table)} image(s): {SUMMARY[k]} is {got[k].item():.6g}, expected {want[k].item():.6g}."

    def numbers(table: Sequence[Counts], got: Tensor, want: Tensor) -> str:
        (k,) = first_difference(got, want, 1e-7)
        name = SUMMARY[k].removeprefix("pooled_")
        lines = ["(tp, fp, fn, tn) of the images:"]
        for c in table:
            lines.append(f"  {c[:4]}" + (f"  {name} {scores_by_formula(c)[name]:.4g}" if name in SCORES else ""))
        return "\n".join([*lines, f"  {total(table)[:4]} together"])

    judge(SUMMARISE, student, SETS, summary_by_loops, describe, numbers=numbers, tolerance=1e-7)
