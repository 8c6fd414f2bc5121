"""The area under the ROC curve, against counting all pairs."""

import math

import pytest
from hypothesis import given, strategies as st

from lungseg.evaluation.ranking import roc_auc


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=12))
def test_it_is_the_share_of_pairs_in_the_right_order(cases):
    scores, labels = [s for s, _ in cases], [label for _, label in cases]
    pairs = [(a > b) + (a == b) / 2 for a, lesion in cases if lesion for b, other in cases if not other]
    expected = sum(pairs) / len(pairs) if pairs else math.nan
    assert roc_auc(scores, labels) == pytest.approx(expected, nan_ok=True)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        roc_auc([1, 2], [0, 1, 1])
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        roc_auc([math.nan, 1], [0, 1])
