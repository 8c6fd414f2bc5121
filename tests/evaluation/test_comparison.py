"""Networks compared: differences are paired by patient, counts are those of one run."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.decision import Decision
from lungseg.evaluation.comparison import (
    SLICE_COLUMNS,
    VOLUME_COLUMNS,
    RunScores,
    dice_iou_remark,
    difference_remark,
    independent_difference,
    join_runs,
    per_run,
    rows_of,
    seed_remark,
    tables_of,
    tables_with_chosen,
)
from lungseg.evaluation.scores import ImageScore


def make_scores(tp):
    """One slice of 20 lesion pixels for each of many patients, of which `tp` are found."""
    return [ImageScore(f"s{i}", f"p{i}", "", n, 0, 20 - n, 9, 1.0, (), 0) for i, n in enumerate(tp)]


def test_differences_are_paired():
    """Two networks that differ a little for every patient can be told apart, however much the patients differ."""
    patients = np.random.default_rng(0).integers(2, 18, 60)
    said = difference_remark({"A": make_scores(patients), "B": make_scores(patients + 1)})
    low, high = map(float, said.removeprefix("Dice of B, the highest mean here, minus that of the others, 95 %: A ")
                    .removesuffix(".").split(" to "))  # fmt: skip
    assert 0 < low < high < 0.1
    assert difference_remark({"A": make_scores(patients[:4]), "B": make_scores(patients[:4])}) == ""


def test_a_difference_of_other_patients_is_not_paired():
    """The variance of a difference of independent means is the sum of theirs."""
    one, other = (np.random.default_rng(seed).integers(2, 19, 200) for seed in (0, 1))
    difference, low, high = independent_difference(make_scores(one), make_scores(other))
    dice = [2 * tp / (20 + tp) for tp in (one, other)]
    assert difference == pytest.approx(dice[0].mean() - dice[1].mean())
    spread = 1.96 * np.sqrt(sum(d.var() / len(d) for d in dice))
    assert (low, high) == pytest.approx((difference - spread, difference + spread), abs=0.1 * spread)
    assert independent_difference(make_scores(one), make_scores(one))[1:] != (0, 0)  # drawn apart, even if equal


def test_too_few_patients_give_a_difference_without_interval():
    difference, low, high = independent_difference(make_scores([20, 20, 20]), make_scores([0] * 50))
    assert difference == 1 and np.isnan([low, high]).all()


def test_the_mean_of_each_run_is_stated():
    assert seed_remark({"A": make_scores([20, 20, 0, 20])}, 2) == "Mean Dice of each: A 1.000, 0.500."


def test_counts_are_those_of_one_run():
    row = {"stratum": "all", "slices": 6, "patients": 3, "false_positives": 5, "dice": 0.5}
    assert per_run(row, 2) == row | {"slices": 3, "false_positives": 2.5}


@pytest.mark.parametrize(
    ("dice", "iou", "words"),
    [
        (0.8777, 0.7274, "contradicts itself"),  # as quoted: at most 0.8422 goes with that IoU
        (0.7969, 0.7143, "is possible"),
        (0.8063, 0.6772, "is possible"),
        (0.6, 0.7, "contradicts itself"),
        (0.862, None, "states no IoU"),
    ],
)
def test_a_row_is_held_to_the_bound_between_dice_and_iou(dice, iou, words):
    assert words in dice_iou_remark("It", dice, iou)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20))
def test_no_set_of_images_contradicts_itself(counts):
    tp, fp, fn = np.array([c for c in counts if sum(c)] or [(1, 0, 0)]).T
    dice, iou = (2 * tp / (2 * tp + fp + fn)).mean(), (tp / (tp + fp + fn)).mean()
    assert "is possible" in dice_iou_remark("It", dice.item() - 1e-12 * (dice > iou), iou.item())


@pytest.mark.parametrize(("columns", "noun"), [(SLICE_COLUMNS, "slice"), (VOLUME_COLUMNS, "volume")])
def test_all_images_come_first_and_then_each_size_with_its_networks(columns, noun):
    scores = {"A": make_scores([20] * 6), "B": make_scores([10] * 6)}
    costs = {name: {"parameters": 7, "epochs": 2, "minutes": 1.25} for name in scores}
    rows = rows_of(scores, costs, 2, split="test")
    assert [(row["network"], row["stratum"], row["slices"], row["split"]) for row in rows] == [
        ("A", "all", 3, "test"),
        ("A", "no lesion", 3, "test"),
        ("B", "all", 3, "test"),
        ("B", "no lesion", 3, "test"),
    ]  # fmt: skip  (no lesion has a size here: `make_scores` counts pixels only)
    whole, by_size, legend, remarks = tables_of(rows, scores, 2, columns).split("\n\n")
    header, _, *lines = whole.splitlines()
    assert header.startswith(f"| network | parameters | epochs | minutes | {noun}s |") and f"FP/{noun}" in header
    assert [line.split(" | ")[:4] for line in lines] == [["| A", "7", "2", "1.2"], ["| B", "7", "2", "1.2"]]
    assert [line.split(" | ")[:2] for line in by_size.splitlines()[2:]] == [["| no lesion", "A"], ["| no lesion", "B"]]
    assert "Means over 2 training runs" in legend and remarks.startswith("Mean Dice of each: A 1.000, 1.000; B 0.667")


def test_the_chosen_decisions_stand_beside_the_scores_above_one_half():
    runs = [
        RunScores(make_scores([10] * 6), make_scores([15] * 6), [Decision(0.4, 6)]),
        RunScores(make_scores([10] * 6), make_scores([10] * 6), [Decision()]),
    ]
    costs = {"A": {"parameters": 7, "epochs": 2, "minutes": 1.25}}
    rows, text = tables_with_chosen({"A": join_runs(runs)}, costs, 2, SLICE_COLUMNS)
    plain = rows_of({"A": make_scores([10] * 6) * 2}, costs, 2, split="test")
    headline = [{k: v for k, v in row.items() if not k.startswith("chosen_")} for row in rows]
    np.testing.assert_equal(headline, plain)  # NaN is NaN
    assert rows[0]["chosen_dice"] == pytest.approx((30 / 35 + 20 / 30) / 2) and rows[0]["chosen_recall"] == 0.625
    header, _, line = text.splitlines()[:3]
    place = header.split(" | ").index("Dice, chosen (95 %)")
    assert header.split(" | ")[place - 1] == "Dice (95 %)" and line.split(" | ")[place].startswith("0.762 (")
    assert "A: above 0.4, in components of at least 6 pixels | above 0.5." in text.splitlines()[-1]
