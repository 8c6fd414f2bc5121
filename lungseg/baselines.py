"""Scores that need no network: a result means something only beside them.

Both are computed from histograms of grey levels, so that one pass over the slices tries every threshold.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lungseg.metrics import per_image

LEVELS = 256  # grey levels tried as thresholds, as in an 8-bit image

Slices = Iterable[tuple[Tensor, Tensor, str]]  # image (1, H, W) in [0, 1], target (1, H, W) in {0, 1}, id


def threshold_counts(slices: Slices) -> Tensor:
    """Count the pixels of each slice for the rule "lesion is where the grey level is at least t", for every t.

    Returns:
        (n, LEVELS + 1, 4) int64: tp, fp, fn, tn of slice i for t = 0, 1, ..., LEVELS. The last t is above every
        grey level: it calls everything background.
    """
    rows = []
    for image, target, _ in slices:
        level = (image * (LEVELS - 1)).round().long().flatten()  # (H*W,)
        lesion = at_least(level[target.flatten() > 0.5])  # (LEVELS + 1,)
        every = at_least(level)
        tp, fp, fn = lesion, every - lesion, lesion[0] - lesion
        rows.append(torch.stack([tp, fp, fn, every[0] - tp - fp - fn], dim=-1))  # (LEVELS + 1, 4)
    return torch.stack(rows)  # (n, LEVELS + 1, 4)


def at_least(level: Tensor) -> Tensor:
    """How many of the grey levels (m,) are at least t, for t = 0..LEVELS: (LEVELS + 1,) int64."""
    histogram = torch.bincount(level, minlength=LEVELS + 1)  # (LEVELS + 1,); nothing lies at LEVELS itself
    return histogram.flip(0).cumsum(0).flip(0)


def best_threshold(slices: Slices) -> int:
    """The grey level, 0..LEVELS - 1, with the highest mean Dice per slice: to be chosen on the training split."""
    counts = threshold_counts(slices)[:, :LEVELS]  # (n, LEVELS, 4)
    dice = per_image(counts.flatten(0, 1))["dice"].view(counts.shape[:2])  # (n, LEVELS)
    return int(dice.nanmean(0).nan_to_num(-1).argmax())


def baseline_counts(train: Slices, held_out: Slices) -> dict[str, Tensor]:
    """name -> counts (n, 4) on the held-out slices, ready for `lungseg.metrics.summarise`.

    "all background" finds nothing; "threshold" calls everything lesion that is at least as bright as the grey
    level that was best on the training slices.
    """
    counts = threshold_counts(held_out)
    return {"all background": counts[:, LEVELS], "threshold": counts[:, best_threshold(train)]}


def lesion_fraction(slices: Sequence[tuple[Tensor, Tensor, str]]) -> float:
    """Share of all pixels that are lesion, in (0, 1): the probability to guess before looking at an image."""
    lesion, pixels = 0.0, 0
    for _, target, _ in slices:
        lesion, pixels = lesion + target.sum().item(), pixels + target.numel()
    return min(max(lesion, 1.0), pixels - 1.0) / pixels  # never 0 or 1: their logits are infinite
