"""Rows of the table: shares, units, and what is not known."""

import math

import pytest

from lungseg.benchmark.costs import Costs, Operation
from lungseg.benchmark.limits import Limits
from lungseg.benchmark.rows import COLUMNS, Row, megabytes, milliseconds, table_head, table_line
from lungseg.benchmark.timing import Spread

LIMITS = Limits(matmul=1e9, convolution=2e9, copy=1e9)
COSTS = Costs((Operation("aten.mm.default", 8_000_000, 1000), Operation("aten.add.Tensor", 0, 2_000_000)))
SECONDS = Spread((0.02,) * 5)


def test_a_row_says_which_share_of_the_limit_it_reaches_and_what_bounds_it():
    cells = Row("swin forward b8", SECONDS, 8, 3_200_000, LIMITS, COSTS).cells()
    assert cells == ("swin forward b8", "20", "20 to 20", "5", "400.0", "3", "0.008", "50%", "matmul 80%, copy 20%")
    assert len(cells) == len(COLUMNS)


def test_work_outside_torch_has_a_limit_only_if_its_bytes_are_known():
    nothing = Limits(math.nan, math.nan, math.nan)
    assert Row("augmentation", SECONDS, 1, None, nothing).cells()[5:] == ("–", "–", "–", "–")
    save = Row("checkpoint", SECONDS, 1, None, Limits(math.nan, math.nan, 1e9), moved=10_000_000)
    assert save.cells()[6:] == ("–", "50%", "copy")


def test_small_parts_are_left_out():
    costs = Costs((Operation("aten.mm.default", 10**9, 0), Operation("aten.add.Tensor", 0, 10**6)))
    assert Row("row", SECONDS, 1, None, LIMITS, costs).bound()[1] == "matmul 100%"
    assert Row("row", SECONDS, 1, None, LIMITS, Costs(())).bound() == (0, "–")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0005124, "0.512"), (0.01234, "12.3"), (0.0996, "99.6"), (1.2304, "1,230"), (0.1, "100")]
)
def test_milliseconds_have_three_digits(seconds, text):
    assert milliseconds(seconds) == text


def test_the_table_is_markdown():
    assert table_head(("a", "b")) == "| a | b |\n|---|---|" and table_line(("1", "2")) == "| 1 | 2 |"
    assert megabytes(None) == "–" and megabytes(1_234_567_890) == "1,235"
