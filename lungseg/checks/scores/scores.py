"""Checks of the scores of one image under their plain names: dice, iou, precision, recall and rmse of two hard maps.

A case is given by its four counts, so its right score is a formula of whole numbers.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, judge
from lungseg.checks.lessons import Lesson, Wrong

PAGE = "docs/metrics.md"
NOTHING = "Where the formula is 0/0 the image has no such score: NaN, which a mean leaves out."
SLIPS = {
    "0/0 is 1": "an image where the formula is 0/0 counts as perfect (also by an epsilon above and below the "
    "fraction). Some libraries do so, but then a mean rises with every empty image in the set. Our rule: NaN.",
    "0/0 is 0": "an image where the formula is 0/0 counts as failed (also by an epsilon below the fraction). Then a "
    "mean falls with every empty image in the set, though nothing was wrong. Our rule: NaN.",
    "smoothing of 1": "1 is added above and below the fraction: that belongs into the loss, not into the score.",
    "an empty target scores 1": "every image without a lesion counts as perfect, false alarms included.",
    "an empty target scores NaN": "every image without a lesion is left out, so false alarms cost nothing. Only 0/0 "
    "is.",
    "0/0 unhandled": "0/0 raises an error. Return float('nan'), which torch and numpy give by themselves.",
    "accuracy": "this is the share of right pixels; on a slice that is nearly all background it is always near 1.",
    "background": "this is the score of the background: 0 and 1 are exchanged.",
    "mean of lesion and background": "averaged with the score of the background, which is always near 1.",
    "one minus the score": "this is one minus the score.",
    "percent": "this is in per cent; a score is in [0, 1].",
    "mean over rows": "computed row by row and averaged; count the pixels of the whole image.",
    "counted in uint8": "the counts wrap around at 256: sum in int64.",
}
ONLY = {  # slips of one score: name -> slip -> (what it seems to do, its value)
    "dice": {
        "factor 2 missing": "the factor 2 of the overlap is missing: two equal maps would have 0.5.",
        "IoU": "this is the IoU, overlap / union, not the Dice.",
        "precision": "divided by the predicted pixels only: this is the precision.",
        "recall": "divided by the lesion pixels only: this is the recall.",
    },
    "iou": {
        "Dice": "this is the Dice, 2 overlap / sum of the sizes, not the IoU.",
        "sizes summed": "divided by the sum of the two sizes: the union holds the overlap once, not twice.",
    },
    "precision": {"fp and fn exchanged": "this is the recall: divide by the predicted pixels, tp + fp."},
    "recall": {"fp and fn exchanged": "this is the precision: divide by the lesion pixels, tp + fn."},
    "rmse": {
        "root missing": "the square root is missing: this is the mean squared error.",
        "root of the sum": "the root of the sum of squares: divide by the number of pixels first.",
        "lesion pixels only": "only the lesion pixels are compared: false alarms cost nothing.",
        "lesion in either map": "only the pixels that are lesion in either map are compared; the mean is over all "
        "pixels.",
    },
}
FORMULAS = {
    "dice": "2 tp / (2 tp + fp + fn), twice the overlap over the sum of both sizes",
    "iou": "tp / (tp + fp + fn), overlap over union",
    "precision": "tp / (tp + fp), the share of the prediction that is lesion",
    "recall": "tp / (tp + fn), the share of the lesion that was found",
    "rmse": "the root of the mean over all pixels of (pred - target)^2, which for maps of 0 and 1 is sqrt((fp + fn) / "
    "all)",
}


def lesson_of(name: str) -> Lesson:
    known = {k: v for k, v in SLIPS.items() if name != "rmse" or "0/0" not in k and k not in NOT_OF_RMSE}
    rule = f"{name} = {FORMULAS[name]}." + (f" {NOTHING}" if name != "rmse" else "")
    return Lesson(name, f"{name}(pred, target), both (H, W) of 0 and 1 -> float", rule, PAGE, ONLY[name] | known)


NOT_OF_RMSE = ("smoothing of 1", "an empty target scores 1", "an empty target scores NaN", "background")
LESSONS = {name: lesson_of(name) for name in FORMULAS}


class Counts(NamedTuple):
    """An image given by its pixel counts, in rows of `width` pixels."""

    tp: int
    fp: int
    fn: int
    tn: int
    width: int

    def __str__(self) -> str:
        return f"{self.tp} lesion pixels found, {self.fp} too many, {self.fn} missed, {self.tn} of background"

    def pixels(self) -> tuple[list[int], list[int]]:
        """(pred, target), pixel by pixel."""
        pred = [1] * (self.tp + self.fp) + [0] * (self.fn + self.tn)
        return pred, [1] * self.tp + [0] * self.fp + [1] * self.fn + [0] * self.tn

    def maps(self) -> tuple[Tensor, Tensor]:
        """(pred, target), both (H, W) int64."""
        pred, target = (torch.tensor(p).reshape(-1, self.width) for p in self.pixels())
        return pred, target

    def rows(self) -> "list[Counts]":
        """The counts of each row."""
        found = []
        for p, t in zip(*(m.tolist() for m in self.maps()), strict=True):
            pairs = list(zip(p, t, strict=True))
            tp, fp, fn, tn = (pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0)))
            found.append(Counts(tp, fp, fn, tn, self.width))
        return found


CASES = [Counts(*c) for c in [
    (2, 1, 0, 1, 2), (1, 2, 3, 3, 3), (3, 0, 1, 4, 4), (1, 0, 0, 3, 2), (5, 2, 1, 1, 3), (0, 1, 2, 1, 2),
    (4, 0, 0, 0, 2), (0, 0, 2, 2, 2), (0, 3, 0, 3, 3), (0, 0, 0, 4, 2), (30_007, 20_000, 10_001, 29_992, 300),
]]  # fmt: skip


def ratio(top: float, bottom: float, empty: float = math.nan) -> float:
    return top / bottom if bottom else empty


def score_of(name: str, c: Counts, slip: str = "") -> float | None:
    """The score of one image by its formula, or as the slip would have it."""
    tp, fp, fn, tn = c[:4]
    if slip == "fp and fn exchanged":
        fp, fn = fn, fp
    if slip == "background":
        tp, fp, fn, tn = tn, fn, fp, tp
    if slip == "counted in uint8":
        tp, fp, fn, tn = (n % 256 for n in (tp, fp, fn, tn))
    top, bottom = {
        "dice": (2 * tp, 2 * tp + fp + fn),
        "iou": (tp, tp + fp + fn),
        "precision": (tp, tp + fp),
        "recall": (tp, tp + fn),
        "rmse": (fp + fn, tp + fp + fn + tn),
    }[name]
    right = math.sqrt(top / bottom) if name == "rmse" and bottom else ratio(top, bottom)
    if slip == "mean over rows":
        each = [s for s in (score_of(name, row) for row in c.rows()) if s is not None and not math.isnan(s)]
        return sum(each) / len(each) if len(each) == len(c.rows()) else None  # with 0/0 in a row there is no telling
    if slip == "mean of lesion and background":
        return (right + (score_of(name, c, "background") or 0.0)) / 2
    return other_formulas(Counts(tp, fp, fn, tn, c.width), top, bottom, right).get(slip, right)


def other_formulas(c: Counts, top: int, bottom: int, right: float) -> dict[str, float]:
    """slip -> value, for all slips that are another formula of the same counts."""
    tp, fp, fn, tn, _ = c
    empty = tp + fn == 0
    return {
        "0/0 is 1": ratio(top, bottom, 1.0),
        "0/0 is 0": ratio(top, bottom, 0.0),
        "smoothing of 1": (top + 1) / (bottom + 1),
        "an empty target scores 1": 1.0 if empty else right,
        "an empty target scores NaN": math.nan if empty else right,
        "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "one minus the score": 1 - right,
        "percent": 100 * right,
        "factor 2 missing": ratio(tp, 2 * tp + fp + fn),
        "sizes summed": ratio(tp, 2 * tp + fp + fn),
        "IoU": ratio(tp, tp + fp + fn),
        "Dice": ratio(2 * tp, 2 * tp + fp + fn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "root missing": ratio(fp + fn, tp + fp + fn + tn),
        "root of the sum": math.sqrt(fp + fn),
        "lesion pixels only": math.sqrt(ratio(fn, tp + fn)),
        "lesion in either map": math.sqrt(ratio(fp + fn, tp + fp + fn)),
    }


# The kinds of maps a function may have been written for; it is judged with the first one that it can compute with.
KINDS: Mapping[str, Callable[[Tensor], Any]] = {
    "float32 tensors": lambda x: x.float(),
    "bool tensors": lambda x: x.bool(),
    "int64 tensors": lambda x: x,
    "float arrays": lambda x: x.double().numpy(),
    "bool arrays": lambda x: x.bool().numpy(),
    "uint8 arrays": lambda x: x.numpy().astype(np.uint8),
}


def kind_taken(lesson: Lesson, function: Callable) -> Callable[[Tensor], Any]:
    """The first kind of maps that the function takes without an error, or Wrong with its first error."""
    errors = []
    for kind in KINDS.values():
        try:
            call(lesson, function, *map(kind, CASES[0].maps()))
            return kind
        except Wrong as error:
            errors.append(error)
    raise errors[0]


def check_score(name: str, score: Callable) -> None:
    """Fail unless `score(pred, target)` is the score `name` of one image, with NaN for 0/0.

    Args:
        score: (pred, target), (H, W) maps of 0 and 1, tensors or arrays, bool, int or float -> float or 0-dim tensor.
    """
    lesson = LESSONS[name]
    kind = kind_taken(lesson, score)

    def student(case: Counts) -> Tensor:
        try:
            result = call(lesson, score, *map(kind, case.maps()))
        except Wrong as error:
            if "ZeroDivisionError" in str(error):
                raise Wrong(lesson, f"{case}: 0/0 raises ZeroDivisionError.", slip="0/0 unhandled") from None
            raise
        return as_tensor(lesson, result)

    def oracle(case: Counts, slip: str) -> Tensor | None:
        value = score_of(name, case, slip)
        return None if value is None else torch.tensor(value, dtype=torch.float64)

    def describe(case: Counts, got: Tensor, want: Tensor) -> str:
        why = ", as the formula is 0/0" if want.isnan() else ""
        return f"{case}: {name} is {got.item():.6g}, expected {want.item():.6g}{why}."

    def numbers(case: Counts, got: Tensor, want: Tensor) -> str:
        counts = f"tp = {case.tp}, fp = {case.fp}, fn = {case.fn}, tn = {case.tn}; {name} = {FORMULAS[name]}"
        pred, target = (" / ".join(" ".join(map(str, r)) for r in m.tolist()) for m in case.maps())
        return counts if len(pred) > 99 else f"prediction {pred}\ntarget     {target}\n{counts}"

    judge(lesson, student, CASES, oracle, describe, numbers=numbers)


def check_dice(dice: Callable) -> None:
    """Fail unless `dice(pred, target)` is 2 tp / (2 tp + fp + fn) of two maps of 0 and 1, NaN if both are empty."""
    check_score("dice", dice)


def check_iou(iou: Callable) -> None:
    """Fail unless `iou(pred, target)` is tp / (tp + fp + fn) of two maps of 0 and 1, NaN if both are empty."""
    check_score("iou", iou)


def check_precision(precision: Callable) -> None:
    """Fail unless `precision(pred, target)` is tp / (tp + fp), NaN if nothing is predicted."""
    check_score("precision", precision)


def check_recall(recall: Callable) -> None:
    """Fail unless `recall(pred, target)` is tp / (tp + fn), NaN if there is no lesion."""
    check_score("recall", recall)


def check_rmse(rmse: Callable) -> None:
    """Fail unless `rmse(pred, target)` is the root of the mean squared difference of all pixels."""
    check_score("rmse", rmse)
