"""How good a lesion map is: Dice, IoU, precision, recall, RMSE and the Hausdorff distance.

All except the distance are computed from four counts per image: true positive, false positive, false negative and
true negative pixels. Counts of batches or processes are concatenated; scores are computed once, at the end.

One rule for 0/0 in all scores: an image for which the formula gives 0/0 does not have that score (NaN); it is left
out of the mean of that score, and counted. Everything else follows the formula. So a false alarm in an image without a
lesion has Dice 0, never 1, and weighs as much as a missed lesion.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

Map = TypeVar("Map", Tensor, NDArray[Any])

COUNTED = ("images", "empty_targets", "empty_predictions", "false_alarms")  # by `summarise`; the rest are scores


def confusion_counts(logits: Tensor, target: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Count the pixels of each image by prediction and target.

    Args:
        logits: (B, 1, *spatial), any floating dtype.
        target: same shape, values in {0, 1}, any dtype.
        threshold: a pixel is predicted to be lesion where its *probability* is above this; in (0, 1).
            NaN is not above any threshold, so it counts as background.

    Returns:
        (B, 4) int64: tp, fp, fn, tn, in pixels (or voxels). Their sum is the size of the image.

    Raises:
        ValueError: for other shapes, target values or thresholds.
    """
    return counts_from_pred(_above(logits, threshold), target)


def counts_from_pred(pred: Tensor, target: Tensor) -> Tensor:
    """`confusion_counts` of a hard prediction: (B, 1, *spatial), bool or values in {0, 1} -> (B, 4) int64."""
    if pred.shape != target.shape or pred.ndim < 3 or pred.shape[1] != 1:
        raise ValueError(
            f"counting pixels: prediction {tuple(pred.shape)} and target {tuple(target.shape)} must both be "
            f"(B, 1, *spatial); for several channels use class_counts, or pass one at a time: x[:, k : k + 1]"
        )
    return _count(pred, target)[:, 0]


def class_counts(logits: Tensor, target: Tensor, *, threshold: float = 0.5) -> Tensor:
    """`confusion_counts` of each channel: logits and target (B, K, *spatial) -> (B, K, 4) int64.

    The channels are lesion classes, or any maps: each is counted by itself, and they may overlap.
    """
    if logits.shape != target.shape or logits.ndim < 3:
        raise ValueError(
            f"counting pixels: logits {tuple(logits.shape)} and target {tuple(target.shape)} must both be "
            f"(B, K, *spatial)"
        )
    return _count(_above(logits, threshold), target)


def _above(logits: Tensor, threshold: float) -> Tensor:
    if not 0 < threshold < 1:
        raise ValueError(f"confusion_counts: threshold={threshold} must be a probability between 0 and 1")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid() > threshold


def _count(pred: Tensor, target: Tensor) -> Tensor:
    """(B, K, *spatial) maps of 0 and 1 -> (B, K, 4)."""
    pred = _as_bool("prediction", pred).flatten(2)  # (B, K, pixels)
    target = _as_bool("target", target).flatten(2)  # (B, K, pixels)
    tp = (pred & target).sum(2)  # (B, K); bools sum to int64, exact for any volume
    fp = (pred & ~target).sum(2)
    fn = (~pred & target).sum(2)
    tn = (~pred & ~target).sum(2)
    return torch.stack([tp, fp, fn, tn], dim=2)  # (B, K, 4)


def per_image(counts: Tensor) -> dict[str, Tensor]:
    """Scores of each image: counts (n, 4) -> five float64 tensors (n,), NaN where the formula reads 0/0.

    dice = 2 tp / (2 tp + fp + fn) and iou = tp / (tp + fp + fn): NaN if neither map has a lesion pixel.
    precision = tp / (tp + fp): NaN if nothing was predicted.
    recall = tp / (tp + fn): NaN if there is no lesion.
    rmse = sqrt((fp + fn) / all): between maps of 0 and 1, RMSE squared is the fraction of wrong pixels.
    """
    tp, fp, fn, tn = _checked(counts).double().unbind(1)  # (n,) each
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "rmse": ((fp + fn) / (tp + fp + fn + tn)).sqrt(),
    }


def pooled(counts: Tensor) -> dict[str, float]:
    """The same scores of all images together as one large image, in which large lesions weigh most."""
    whole = _checked(counts).sum(0, keepdim=True)  # (1, 4)
    return {name: score.item() for name, score in per_image(whole).items()}


def summarise(counts: Tensor) -> dict[str, float]:
    """One line of results for a set of images, from the counts (n, 4) of all of them.

    Returns:
        "dice", "iou", "precision", "recall", "rmse": means over the images that have it, NaN if none has;
        "pooled_dice", "pooled_iou", ...: the scores of all pixels together;
        "images": n;
        "empty_targets": images without a lesion, which have no recall;
        "empty_predictions": images where nothing was predicted, which have no precision;
        "false_alarms": images without a lesion where something was predicted.
        The `empty_targets - false_alarms` images that are correctly empty have neither Dice nor IoU.
    """
    tp, fp, fn, _ = _checked(counts).unbind(1)  # (n,) each
    no_lesion, nothing_predicted = tp + fn == 0, tp + fp == 0
    means = {name: scores.nanmean().item() for name, scores in per_image(counts).items()}
    over_all_pixels = {f"pooled_{name}": score for name, score in pooled(counts).items()}
    return {
        **means,
        **over_all_pixels,
        "images": len(counts),
        "empty_targets": int(no_lesion.sum()),
        "empty_predictions": int(nothing_predicted.sum()),
        "false_alarms": int((no_lesion & ~nothing_predicted).sum()),
    }


def summarise_classes(counts: Tensor, names: Sequence[str] = ()) -> dict[str, float]:
    """`summarise` for K classes: the mean of each score over the classes, then the scores of each class.

    A class without a lesion pixel in any image has no scores (NaN) and is left out of the means, as there is no lesion
    to detect. (False predictions of it are counted in its "false_alarms".)

    Args:
        counts: (n, K, 4), of `class_counts`.
        names: of the classes; () numbers them from 1.

    Returns:
        "dice", ..., "pooled_rmse": means over the classes that occur; "images", "empty_targets",
        "empty_predictions", "false_alarms": as in `summarise`, of lesions of any class; then all but "images" for
        each class, as "dice of NAME". A mean over classes is the mean of their means: rare classes weigh as much as
        common ones.
    """
    if counts.ndim != 3 or counts.shape[1] < 1:
        raise ValueError(f"counts of classes are {tuple(counts.shape)}, but must be (n, K, 4)")
    names = names or [f"class {k}" for k in range(1, counts.shape[1] + 1)]
    # For lesions of any class only their presence is known here: pixels of two classes may overlap.
    whole = summarise(counts.sum(1))
    of_classes = []
    for of_class in counts.unbind(1):  # (n, 4) each
        scores = summarise(of_class)
        if not (of_class[:, 0] + of_class[:, 2]).any():
            scores |= dict.fromkeys(scores.keys() - COUNTED, float("nan"))
        of_classes.append(scores)
    means = {
        name: torch.tensor([scores[name] for scores in of_classes], dtype=torch.float64).nanmean().item()
        for name in whole
        if name not in COUNTED
    }
    found = means | {name: whole[name] for name in COUNTED}
    for name, scores in zip(names, of_classes, strict=True):
        found |= {f"{score} of {name}": value for score, value in scores.items() if score != "images"}
    return found


def worst_median_best(dice: ArrayLike) -> list[tuple[str, int]]:
    """Which images to show: ("worst", i), ("median", j), ("best", k), indices into the Dice (n,) of n >= 1 images.

    Images without a Dice (NaN) are left out; if none has one, all three are the first image.
    """
    dice = np.asarray(dice, dtype=float)
    ranked = [i for i in np.argsort(dice, kind="stable").tolist() if not np.isnan(dice[i])] or [0]
    return [("worst", ranked[0]), ("median", ranked[len(ranked) // 2]), ("best", ranked[-1])]


def hausdorff95(pred: ArrayLike, target: ArrayLike, spacing_mm: float | tuple[float, ...]) -> float:
    """How far apart two outlines are, in mm, without the worst 5 % of each.

    From every outline pixel of one map, the distance to the nearest outline pixel of the other; the 95th percentile
    of these; the same in the other direction; the larger of the two. An outline pixel is a lesion pixel with
    background or the edge of the image next to it (not diagonally; in a volume, the slices above and below count too).

    Args:
        pred, target: (H, W) or (D, H, W), bool or values in {0, 1}.
        spacing_mm: distance between neighbouring pixels, one number or one per axis.

    Returns:
        Distance >= 0; NaN if either map is empty.

    Raises:
        ValueError: if the shapes differ, a value is not 0 or 1, or the spacing does not fit.
    """
    maps, spacing = [np.asarray(pred), np.asarray(target)], np.asarray(spacing_mm, dtype=float)
    if maps[0].shape != maps[1].shape or spacing.shape not in ((), (maps[0].ndim,)) or not (spacing > 0).all():
        raise ValueError(
            f"hausdorff95: prediction {maps[0].shape} and target {maps[1].shape} must have the same shape, and "
            f"spacing_mm={spacing_mm} must be one positive number, or one for each of their axes"
        )
    maps = [_as_bool("prediction", maps[0]), _as_bool("target", maps[1])]
    if not (maps[0].any() and maps[1].any()):
        return float("nan")
    pred_line, target_line = (outline_pixels(m) for m in maps)
    pairs = (pred_line, target_line), (target_line, pred_line)
    directed = [np.percentile(nearest_distances(here, there, spacing), 95) for here, there in pairs]
    return float(max(directed))


def outline_pixels(lesion: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n, ndim) positions of the outline of a map that is not empty; computed in the bounding box of its lesions."""
    sides = []
    for axis in range(lesion.ndim):
        held = np.flatnonzero(lesion.any(axis=tuple(a for a in range(lesion.ndim) if a != axis)))
        sides.append(slice(held[0], held[-1] + 1))
    cut = lesion[tuple(sides)]
    return np.argwhere(cut & ~ndimage.binary_erosion(cut)) + [side.start for side in sides]


def nearest_distances(here: NDArray[np.int64], there: NDArray[np.int64], spacing: NDArray) -> NDArray[np.float64]:
    """(n,) mm from each position (n, ndim) to the nearest of the others (m, ndim).

    Uses a tree of the few outline pixels instead of a distance map, which would need gigabytes for two spots in
    opposite corners of a volume of 300 x 512 x 512.
    """
    tree = cKDTree(there * spacing, balanced_tree=False)
    _, nearest = tree.query(here * spacing)  # (n,)
    return np.sqrt((((here - there[nearest]) * spacing) ** 2).sum(axis=1))


def _as_bool(name: str, lesion: Map) -> Map:
    """A map of 0 and 1 in any dtype -> bool; probabilities and 0/255 are refused."""
    as_bool = lesion != 0
    if not (as_bool == lesion).all():
        raise ValueError(f"the {name} holds values other than 0 and 1; apply a threshold first, for example x > 0.5")
    return as_bool


def _checked(counts: Tensor) -> Tensor:
    if counts.ndim != 2 or counts.shape[1] != 4 or counts.dtype != torch.int64:
        raise ValueError(
            f"counts are {tuple(counts.shape)} {counts.dtype}, but must be (n, 4) torch.int64: tp, fp, fn, "
            f"tn of each image, as confusion_counts makes them; join batches with torch.cat"
        )
    return counts
