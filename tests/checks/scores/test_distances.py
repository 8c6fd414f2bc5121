"""The check of the Hausdorff distance accepts another sound one; mutants_data.py holds the wrong ones."""

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from lungseg.checks.scores.distances import check_hausdorff95
from lungseg.evaluation.metrics import hausdorff95


def with_cdist(pred, target, spacing_mm):
    """Sound: all pairs of outline pixels."""
    a, b = (np.argwhere(m & ~ndimage.binary_erosion(m)) * spacing_mm for m in (pred, target))
    if not (len(a) and len(b)):
        return float("nan")
    pairs = cdist(a, b)
    return max(np.percentile(pairs.min(0), 95), np.percentile(pairs.min(1), 95))


def test_the_check_of_the_distance_accepts_another_sound_one():
    check_hausdorff95(with_cdist)


def test_ours_passes():
    check_hausdorff95(hausdorff95)
