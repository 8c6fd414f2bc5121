"""The table of the original report: its digits, ours beside them, and nothing left out."""

import math

from hypothesis import given, strategies as st

from lungseg.evaluation.report import SCORES, SLICES, report_table


def test_the_table_has_a_row_for_each_of_the_reports_and_ours_where_we_have_it():
    text = report_table({"UNETR": {"dice": 0.5, "iou": 0.4, "rmse": 0.1, "recall": 0.625}})
    table, _, paragraph = text.partition("\n\n")
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert len(rows) == 2 + len(SLICES)
    assert rows["UNETR"] == "| UNETR | 0.8063 | 0.5000 | 0.6772 | 0.4000 | 0.0223 | 0.1000 | 0.7727 | 0.6250 |"
    assert rows["U-Net (quoted)"] == "| U-Net (quoted) | 0.862 | – | – | – | – | – | – | – |"
    assert rows["Swin-UNet"].startswith("| Swin-UNet | 0.7969 | – | 0.7143 | – | 0.01193 | – |")  # its own digits
    assert "RRc-UNet 3D (quoted) contradicts itself" in paragraph and "averaging differ" in paragraph


OURS = st.floats(0, 1).map(lambda x: {"dice": x, "iou": x / 2, "rmse": x / 4, "recall": x})


@given(
    st.dictionaries(st.sampled_from(["Swin-UNet", "UNETR", "ResNet50-U-Net", "U-Net", "RRC-U-Net", "Another"]), OURS)
)
def test_no_score_of_ours_is_left_out(ours):
    table = report_table(ours).partition("\n\n")[0].splitlines()[2:]
    shown = {tuple(line.strip("| ").split(" | ")[2::2]) for line in table}
    assert len(table) == len(SLICES.keys() | ours.keys())
    assert shown - {("–",) * 4} == {tuple(f"{scores[n]:.4f}" for n in SCORES) for scores in ours.values()}


def test_a_score_that_nobody_has_is_a_dash():
    nothing = dict.fromkeys(SCORES, math.nan)
    assert report_table({"U-Net": nothing}) == report_table({})


def test_of_volumes_there_is_the_one_row_that_is_about_volumes():
    ours = {"dice": 0.75, "iou": 0.625, "rmse": 0.1, "recall": 0.5}
    table, _, paragraph = report_table({"U-Net 3-D": ours, "RRC-U-Net 3-D": ours}, volumes=True).partition("\n\n")
    _, _, quoted, other = table.splitlines()
    assert quoted.endswith("RRc-UNet 3D, quoted) | 0.8777 | 0.7500 | 0.7274 | 0.6250 | – | 0.1000 | – | 0.5000 |")
    assert other == "| U-Net 3-D | – | 0.7500 | – | 0.6250 | – | 0.1000 | – | 0.5000 |"
    assert "Table 4" in paragraph and "contradicts itself" in paragraph
