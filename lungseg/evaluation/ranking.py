"""How well scores rank lesions above everything else, whatever the threshold."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The area under the ROC curve: the probability that a lesion has a higher score than a non-lesion.

    0.5 is what any score gives that knows nothing, 1 is a perfect order. Ties count half. By the ranks of the lesions
    (Mann and Whitney 1947), without drawing the curve. NaN if one of the two classes is missing.

    Args:
        scores: (N,), higher = more like a lesion.
        labels: (N,), true or 1 on lesions.

    Raises:
        ValueError: if the two differ in shape, or a score is NaN.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    if scores.shape != labels.shape or scores.ndim != 1:
        raise ValueError(f"roc_auc: expected scores and labels (N,), got {scores.shape} and {labels.shape}.")
    if np.isnan(scores).any():
        raise ValueError(f"roc_auc: {np.isnan(scores).sum()} of {scores.size} scores are NaN, which have no rank.")
    lesions, others = int(labels.sum()), int((~labels).sum())
    if not lesions or not others:
        return float("nan")
    above = rankdata(scores)[labels].sum() - lesions * (lesions + 1) / 2  # pairs in the right order
    return float(above / (lesions * others))
