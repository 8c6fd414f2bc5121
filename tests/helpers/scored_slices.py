"""Scored slices of any kind, for the tests of scores and of the tables made from them."""

import math

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lungseg.evaluation.scores import score_image


@st.composite
def slices(draw, min_slices=1, max_slices=6, max_patients=5):
    """Scored slices of a few patients, with what they were scored from: small maps, any of them empty."""
    found = []
    for i in range(draw(st.integers(min_slices, max_slices))):
        sparse = st.integers(0, 3).map(lambda n: n == 0)
        pred, target = (draw(hnp.arrays(bool, (5, 6), elements=sparse)) for _ in range(2))
        about = {
            "group": f"patient{draw(st.integers(1, max_patients))}",
            "label": draw(st.sampled_from(["", "none", "LR2", "LR4A"])),
            "spacing_mm": draw(st.sampled_from([0.7, 2.0, 6.0, math.nan])),
        }
        found.append((pred, target, score_image(pred, target, id=f"slice{i}", **about)))
    return found


def only_scores(some):
    return [score for _, _, score in some]
