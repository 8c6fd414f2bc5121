"""The report's table beside ours, and the bound between mean Dice and mean IoU."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from lungseg.report import REPORT, SCORES, beside_the_report, contradiction


@pytest.mark.parametrize(
    ("dice", "iou", "words"),
    [
        (0.8777, 0.7274, "contradicts itself"),  # as quoted: at most 0.8422 goes with that IoU
        (0.7969, 0.7143, "may be"),
        (0.8063, 0.6772, "may be"),
        (0.6, 0.7, "contradicts itself"),
        (0.862, None, "states no IoU"),
    ],
)
def test_a_row_is_held_to_the_bound_between_dice_and_iou(dice, iou, words):
    assert words in contradiction("It", dice, iou)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=20))
def test_no_set_of_images_contradicts_itself(counts):
    tp, fp, fn = np.array([c for c in counts if sum(c)] or [(1, 0, 0)]).T
    dice, iou = (2 * tp / (2 * tp + fp + fn)).mean(), (tp / (tp + fp + fn)).mean()
    assert "may be" in contradiction("It", dice.item() - 1e-12 * (dice > iou), iou.item())


def test_the_table_has_a_row_for_each_of_the_reports_and_ours_where_we_have_it():
    text = beside_the_report({"UNETR": {"dice": 0.5, "iou": 0.4, "rmse": 0.1, "recall": 0.625}})
    table, _, paragraph = text.partition("\n\n")
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert len(rows) == 2 + len(REPORT)
    assert rows["UNETR"] == "| UNETR | 0.8063 | 0.5000 | 0.6772 | 0.4000 | 0.0223 | 0.1000 | 0.7727 | 0.6250 |"
    assert rows["U-Net (quoted)"] == "| U-Net (quoted) | 0.862 | – | – | – | – | – | – | – |"
    assert rows["Swin-UNet"].startswith("| Swin-UNet | 0.7969 | – | 0.7143 | – | 0.01193 | – |")  # its own digits
    assert "RRc-UNet 3D (quoted) contradicts itself" in paragraph and "The data differ" in paragraph


OURS = st.floats(0, 1).map(lambda x: {"dice": x, "iou": x / 2, "rmse": x / 4, "recall": x})


@given(st.dictionaries(st.sampled_from([*REPORT, "Another"]), OURS))
def test_no_score_of_ours_is_left_out(ours):
    table = beside_the_report(ours).partition("\n\n")[0].splitlines()[2:]
    shown = {tuple(line.strip("| ").split(" | ")[2::2]) for line in table}
    assert len(table) == len(REPORT.keys() | ours.keys())
    assert shown - {("–",) * 4} == {tuple(f"{scores[n]:.4f}" for n in SCORES) for scores in ours.values()}


def test_a_score_that_nobody_has_is_a_dash():
    nothing = dict.fromkeys(SCORES, math.nan)
    assert beside_the_report({"U-Net": nothing}) == beside_the_report({})
