"""The check of splits accepts ours and other reasonable rules."""

import numpy as np
import pytest

from lungseg.checks.data.splits import check_split_by_group
from lungseg.data.splits import split_by_group


def cuts_at_the_fractions_of_rows(groups, fractions, *, seed):
    """Sound: shuffled groups, cut where the running number of rows passes a fraction; one group at least in each."""
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    ends = np.cumsum(list(fractions.values())) * len(groups)
    splits = list(fractions)
    of, done, k, used = {}, 0, 0, 0
    for place, g in enumerate(order):
        left = len(order) - place
        if used and k < len(splits) - 1 and (done + sizes[g] / 2 > ends[k] or left <= len(splits) - 1 - k):
            k, used = k + 1, 0
        of[str(names[g])] = splits[k]
        done, used = done + sizes[g], used + 1
    return np.array([of[str(g)] for g in groups])


@pytest.mark.parametrize("sound", [split_by_group, cuts_at_the_fractions_of_rows])
def test_the_check_accepts(sound):
    check_split_by_group(sound)
