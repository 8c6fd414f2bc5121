"""The judge: is a candidate a lesion? Four numbers weigh what the proposer, BiomedCLIP and MedSAM say.

    s = a logit(p_proposer) + b similarity + d IoU + e

is logistic regression, fitted on the candidates of the validation patients. Four numbers cannot overfit some hundred
candidates, and each can be read: b near 0 says that BiomedCLIP adds nothing to the other two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SMALLEST_PROBABILITY = 1e-6  # float32 rounds probabilities to 0 and 1, whose logits are infinite


@dataclass(frozen=True)
class Judge:
    """The four numbers. The default believes the proposer."""

    proposer: float = 1.0  # a
    similarity: float = 0.0  # b
    iou: float = 0.0  # d
    constant: float = 0.0  # e

    def __call__(self, features: ArrayLike) -> NDArray[np.float64]:
        """(n, 3), as `judge_features` makes them, -> the scores s (n,): logits of the probability of being a lesion."""
        return np.asarray(features, float) @ [self.proposer, self.similarity, self.iou] + self.constant


def judge_features(probability: ArrayLike, similarity: ArrayLike, iou: ArrayLike) -> NDArray[np.float64]:
    """What is known of n candidates, three times (n,) -> (n, 3): the proposer's logit, similarity, estimated IoU."""
    p = np.clip(np.asarray(probability, float), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return np.stack([np.log(p / (1 - p)), np.asarray(similarity, float), np.asarray(iou, float)], axis=-1)


def fit_judge(features: ArrayLike, is_lesion: ArrayLike, *, ridge: float = 0.1) -> Judge:
    """Logistic regression by Newton's method, with half the ridge times the sum of the four squares added to the loss.

    Where the candidates can be separated, the likelihood alone would make the numbers infinite; and where all
    similarities are equal, as without BiomedCLIP, it would leave one undetermined.

    Args:
        features: (n, 3) of `judge_features`.
        is_lesion: (n,), true where the candidate is a lesion.
        ridge: above 0; 0.1 is weak against some ten candidates.
    """
    features, target = np.asarray(features, float), np.asarray(is_lesion, float)
    if features.ndim != 2 or features.shape[1] != 3 or target.shape != features.shape[:1] or not ridge > 0:
        raise ValueError(
            f"fit_judge: expected features (n, 3), is_lesion (n,) and a ridge above 0, got shapes {features.shape} and "
            f"{target.shape} and {ridge}."
        )
    if not np.isfinite(features).all():
        raise ValueError("fit_judge: expected finite features. judge_features makes a probability of 0 or 1 finite.")
    x = np.column_stack([features, np.ones(len(features))])  # (n, 4)

    def loss(w: NDArray) -> float:
        s = x @ w
        return float((np.logaddexp(0, s) - target * s).sum() + ridge / 2 * (w @ w))

    w = np.zeros(4)
    for _ in range(100):
        p = sigmoid(x @ w)
        gradient = x.T @ (p - target) + ridge * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge * np.eye(4)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while loss(w - size * step) > loss(w) and size > 1e-9:  # a full step can go too far where p is near 0 or 1
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() <= 1e-10 * max(1.0, np.abs(w).max()):
            break
    a, b, d, e = w.tolist()
    return Judge(a, b, d, e)


def slice_map(masks: ArrayLike, scores: Sequence[float] | NDArray, *, least: float = 0.0) -> NDArray[np.float32]:
    """The candidates of a slice as one map of probabilities: at each pixel the largest sigmoid(s) mask.

    Args:
        masks: what the refiner draws, put back into the slice by `Crop.paste`: (n, H, W). `RefinerPredictor` gives
            outlines, 1 where sigmoid(m) is at least 1/2 and else 0; probabilities sigmoid(m) are possible too.
        scores: the judge's s of each, (n,).
        least: leave out candidates that are a lesion with a probability below this.

    Returns:
        (H, W); all 0 if there is no candidate.
    """
    stack, chance = np.asarray(masks, float), sigmoid(np.asarray(scores, float))
    if stack.ndim != 3 or chance.shape != stack.shape[:1]:
        raise ValueError(f"slice_map: expected masks (n, H, W) and n scores, got {stack.shape} and {chance.shape}.")
    kept = chance >= least
    return (chance[kept, None, None] * stack[kept]).max(axis=0, initial=0).astype(np.float32)


def sigmoid(x: NDArray) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))
