"""Comparing networks that were scored on the same images, each possibly trained several times with different seeds.

The scores of one network are those of its runs, one run after the other, all in the same order of images.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from lungseg.data.samples import Samples
from lungseg.decision import Decision
from lungseg.evaluation.scores import ImageScore, known_spacings, scores_per_image, unit_remark
from lungseg.evaluation.strata import FEWEST_PATIENTS, Row, bootstrap, table_row, table_rows
from lungseg.evaluation.tables import MAIN, Column, markdown_table

Scores = Mapping[str, Sequence[ImageScore]]  # of each network

SLICE_COLUMNS = tuple(column for column in MAIN if column.key not in ("rmse", "pooled_dice", "lesions"))
VOLUME_COLUMNS = (
    Column("volumes", "slices"),
    Column("patients", "patients"),
    Column("Dice (95 %)", "dice", with_interval=True),
    Column("IoU (95 %)", "iou", with_interval=True),
    Column("pooled Dice (95 %)", "pooled_dice", with_interval=True),
    *(column for column in MAIN if column.key in ("precision", "recall", "hd95_mm", "hd95_px", "lesion_recall")),
    Column("FP/volume", "false_positives_per_slice", decimals=2),
)
CHOSEN = Column("Dice, chosen (95 %)", "chosen_dice", with_interval=True)
CHOSEN_TOO = ("dice", "iou", "precision", "recall", "pooled_dice", "lesion_recall", "false_positives_per_slice")
COSTS = (Column("parameters", "parameters"), Column("epochs", "epochs"), Column("minutes", "minutes", decimals=1))
OUT_OF_FOLD = (
    "## Every other patient once, out of fold\n\nBy the networks that did not learn from their fold. These patients "
    "also chose the best epoch of those networks, so their scores are a little too high; the test patients chose none."
)


class RunScores(NamedTuple):
    """Of one run or several, one after the other: the scores of every image, and the decision of each run."""

    plain: list[ImageScore]  # above 0.5
    chosen: list[ImageScore]  # the same images with the decision that the run chose on its validation images
    decisions: list[Decision]


def join_runs(runs: Sequence[RunScores]) -> RunScores:
    plain, chosen, decisions = ([*chain(*lists)] for lists in zip(*runs, strict=True))
    return RunScores(plain, chosen, decisions)


# ---- tables -----------------------------------------------------------------------------------------------------


def rows_of(scores: Scores, costs: Mapping[str, Row], runs: int, *, split: str) -> list[Row]:
    """Rows for the CSV and for `tables_of`: of each network all images, each lesion size, and each label.

    Args:
        costs: more entries for the rows of each network, such as those of COSTS.
        runs: of each network.
        split: a name for the images, in the column "split".
    """
    rows: list[Row] = []
    for name, of_all in scores.items():
        about: Row = {"network": name, "split": split}
        rows += [about | costs[name] | per_run(row, runs) for row in table_rows(of_all)]
    return rows


def tables_with_chosen(
    scores: Mapping[str, RunScores], costs: Mapping[str, Row], runs: int, columns: Sequence[Column]
) -> tuple[list[Row], str]:
    """`rows_of` and `tables_of` above 0.5, with the Dice of the chosen decisions beside it; what these are, below.

    In the rows all scores of CHOSEN_TOO have a twin, such as chosen_dice.
    """
    plain = {name: of_runs.plain for name, of_runs in scores.items()}
    rows = rows_of(plain, costs, runs, split="test")
    others = rows_of({name: of_runs.chosen for name, of_runs in scores.items()}, costs, runs, split="test")
    names = [name + end for name in CHOSEN_TOO for end in ("", "_low", "_high")]
    pairs = zip(rows, others, strict=True)
    rows = [row | {f"chosen_{name}": other[name] for name in names if name in other} for row, other in pairs]
    place = [column.key for column in columns].index("dice") + 1
    text = tables_of(rows, plain, runs, (*columns[:place], CHOSEN, *columns[place:]))
    return rows, text + "\n\n" + decisions_remark(scores)


def tables_of(rows: Sequence[Row], scores: Scores, runs: int, columns: Sequence[Column]) -> str:
    """Two tables in Markdown, all images and by lesion size, and how to read them."""
    whole = [row for row in rows if row["stratum"] == "all"]
    strata = list(dict.fromkeys(row["stratum"] for row in rows))  # each once, in their order
    by_size = sorted((row for row in rows if row["stratum"] != "all"), key=lambda row: strata.index(row["stratum"]))
    legend = (
        f"Means over {runs} training runs of each network; in parentheses 95 % intervals from 2,000 bootstrap draws of "
        "whole patients, which do not show how much one run differs from the next."
    )
    return "\n\n".join(
        [
            markdown_table(whole, (*COSTS, *columns), names=("network",)),
            markdown_table(by_size, columns, names=("stratum", "network")),
            legend,
            " ".join(filter(None, [seed_remark(scores, runs), difference_remark(scores)])),
        ]
    )


def decisions_remark(scores: Mapping[str, RunScores]) -> str:
    """What the column CHOSEN is, and the decision of each run of each network."""
    of_each = [f"{name}: {' | '.join(map(str, of_runs.decisions))}" for name, of_runs in scores.items()]
    return (
        "All scores are above 0.5, except for the chosen Dice: with the threshold and the smallest component that each "
        f"run chose on its validation images. Lesion is there where the probability is, {'; '.join(of_each)}."
    )


def data_remarks(data: Samples) -> list[str]:
    """What to know about the unit of the sizes, and about lesion classes; [] if there is nothing."""
    remarks = [unit_remark(data, known_spacings(data))]
    if len(data.classes) > 1:
        remarks.append(f"Lesions of any class are scored, not whether they are {', '.join(data.classes)}.")
    return [*filter(None, remarks)]


# ---- remarks ----------------------------------------------------------------------------------------------------


def per_run(row: Row, runs: int) -> Row:
    """A row over several runs, with its counts of slices, lesions and detections as the mean over the runs."""
    counts = {name: value / runs for name, value in row.items() if isinstance(value, int) and name != "patients"}
    return row | {name: int(value) if value.is_integer() else value for name, value in counts.items()}


def seed_remark(scores: Scores, runs: int) -> str:
    """One sentence: the mean Dice of each run of each network."""
    parts = []
    for name, of_all in scores.items():
        dice = np.nanmean(scores_per_image(of_all)["dice"].reshape(runs, -1), axis=1)  # (runs,)
        parts.append(f"{name} {', '.join(f'{d:.3f}' for d in dice)}")
    return f"Mean Dice of each: {'; '.join(parts)}."


def difference_remark(scores: Scores) -> str:
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
