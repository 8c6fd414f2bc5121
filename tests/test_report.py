"""The report's table beside ours, and the bound between mean Dice and mean IoU."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungseg.report import REPORT, beside_the_report, contradiction


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
    assert rows.keys() >= REPORT.keys()
    assert rows["UNETR"] == "| UNETR | 0.8063 | 0.5000 | 0.6772 | 0.4000 | 0.0223 | 0.1000 | 0.7727 | 0.6250 |"
    assert rows["U-Net (quoted)"].count("–") == 7
    assert "RRc-UNet 3D (quoted) contradicts itself" in paragraph and "The data differ" in paragraph
