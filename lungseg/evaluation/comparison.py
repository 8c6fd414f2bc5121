"""Comparing networks that were scored on the same images, each possibly trained several times with different seeds.

The scores of one network are those of its runs, one run after the other, all in the same order of images.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lungseg.evaluation.scores import ImageScore, scores_per_image
from lungseg.evaluation.strata import FEWEST_PATIENTS, Row, bootstrap, table_row


def per_run(row: Row, runs: int) -> Row:
    """A row over several runs, with its counts of slices, lesions and detections as the mean over the runs."""
    counts = {name: value / runs for name, value in row.items() if isinstance(value, int) and name != "patients"}
    return row | {name: int(value) if value.is_integer() else value for name, value in counts.items()}


def seed_remark(scores: Mapping[str, Sequence[ImageScore]], runs: int) -> str:
    """One sentence: the mean Dice of each run of each network."""
    parts = []
    for name, of_all in scores.items():
        dice = np.nanmean(scores_per_image(of_all)["dice"].reshape(runs, -1), axis=1)  # (runs,)
        parts.append(f"{name} {', '.join(f'{d:.3f}' for d in dice)}")
    return f"Mean Dice of each: {'; '.join(parts)}."


def difference_remark(scores: Mapping[str, Sequence[ImageScore]]) -> str:
    """One sentence on the highest mean Dice: it shows nothing where the interval of a difference contains 0.

    The differences are paired: both networks are evaluated on the same draws of patients, so that patients who are
    difficult for both do not widen the intervals. "" if there are fewer than FEWEST_PATIENTS.
    """
    drawn = {name: bootstrap(of_all)["dice"] for name, of_all in scores.items()}
    if len({s.group for s in next(iter(scores.values()))}) < FEWEST_PATIENTS:
        return ""
    best = max(drawn, key=lambda name: np.nanmean(drawn[name]))
    parts = []
    for name in drawn:
        if name != best:
            low, high = np.nanpercentile(drawn[best] - drawn[name], [2.5, 97.5])
            parts.append(f"{name} {low:.3f} to {high:.3f}")
    return f"Dice of {best}, the highest mean here, minus that of the others, 95 %: {'; '.join(parts)}."


def independent_difference(
    one: Sequence[ImageScore], other: Sequence[ImageScore], of: str = "dice"
) -> tuple[float, float, float]:
    """A score of `one` minus that of `other`, which are of different patients, with the middle 95 % of its bootstrap.

    Different patients are drawn independently of each other: nothing is paired, unlike in `difference_remark`.

    Args:
        of: a key of `lungseg.evaluation.strata.intervals`.

    Returns:
        (difference, low, high): low and high are NaN if either has fewer than FEWEST_PATIENTS with the score.
    """
    rows = [table_row(scores) for scores in (one, other)]
    difference = float(rows[0][of]) - float(rows[1][of])
    if any(math.isnan(float(row[f"{of}_low"])) for row in rows):
        return difference, math.nan, math.nan
    drawn = bootstrap(one, seed=0)[of] - bootstrap(other, seed=1)[of]  # another seed: not the same draws
    low, high = np.nanpercentile(drawn, [2.5, 97.5]).tolist()
    return difference, low, high


def dice_iou_remark(name: str, dice: float, iou: float | None) -> str:
    """One sentence: whether a published mean Dice and mean IoU can come from the same images.

    For one image Dice = 2 IoU / (1 + IoU), which is concave: the mean Dice is at most that of the mean IoU (Jensen).
    """
    if iou is None:
        return f"{name} states no IoU."
    bound = 2 * iou / (1 + iou)
    if iou <= dice <= bound:
        return f"{name} is possible: {iou} <= {dice} <= {bound:.4f}."
    return f"{name} contradicts itself: {dice} is outside {iou} to {bound:.4f}."
