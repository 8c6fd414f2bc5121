"""How a result is compared, and how a slip is found."""

import numpy as np
import pytest
import torch

from lungseg.checks.judging import as_tensor, close, find_slip, first_difference, judge, random, row
from lungseg.checks.lessons import Lesson, Wrong

LESSON = Lesson("power", "power(x)", "x squared.", "docs/x.md",
                {"twice": "2 x", "cube": "x cubed", "odd": "makes no sense for even x"})  # fmt: skip


def oracle(case, slip=""):
    if slip == "odd" and case % 2 == 0:
        return None
    return torch.tensor(float({"twice": 2 * case, "cube": case**3, "odd": 7}.get(slip, case**2)))


def test_the_slip_must_explain_every_case():
    """2 x and x squared agree at 0 and 2, so these two cases can tell nothing."""
    assert find_slip(LESSON, lambda x: 2 * x, [0, 2, 3], oracle) == "twice"
    assert find_slip(LESSON, lambda x: x**3, [0, 2, 3], oracle) == "cube"
    assert find_slip(LESSON, lambda x: 2 * x if x < 3 else 0, [0, 2, 3], oracle) == ""
    assert find_slip(LESSON, lambda x: x**2, [0, 2, 3], oracle) == ""


def test_a_case_that_raises_is_left_out_of_the_diagnosis():
    assert find_slip(LESSON, lambda x: 2 * x if x else 1 / 0, [0, 2, 3], oracle) == "twice"


def test_the_first_wrong_case_is_described():
    with pytest.raises(Wrong) as wrong:
        judge(LESSON, lambda x: 2 * x, [0, 2, 3], oracle, lambda case, got, want: f"{case}: {got} for {want}")
    assert wrong.value.what == "3: 6 for 9.0" and wrong.value.slip == "twice"
    judge(LESSON, lambda x: x * x, [0, 2, 3], oracle, lambda *a: "")


def test_a_wrong_shape_is_described_as_such():
    with pytest.raises(Wrong, match=r"shape \(1,\), expected \(\)"):
        judge(LESSON, lambda x: [x * x], [1], oracle, lambda *a: "")


@pytest.mark.parametrize("result", [np.ones(2), [1, 1], (1.0, 1.0)])
def test_numbers_of_any_kind_are_taken(result):
    assert as_tensor(LESSON, result).tolist() == [1, 1]


@pytest.mark.parametrize("result", ["text", object(), {"a": 1}])
def test_other_results_are_refused_in_words(result):
    with pytest.raises(Wrong, match="expected a tensor"):
        as_tensor(LESSON, result)


def test_nan_equals_nan_and_a_rounding_error_nothing():
    nan = torch.tensor([1.0, torch.nan])
    assert close(nan, nan) and close(nan + 1e-6, nan) and not close(nan, torch.tensor([1.0, 1.0]))
    assert first_difference(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 3.0]])) == (0, 1)


def test_random_numbers_are_short_and_the_same_each_time():
    x = random((50, 4), 3)
    assert torch.equal(x, random((50, 4), 3)) and not torch.equal(x, random((50, 4), 4))
    assert torch.allclose(x, x.mul(10).round() / 10)
    assert row(torch.tensor([0.25, 1e6, -torch.inf])) == "[0.25, 1e+06, -inf]"
