"""Baselines that need no network: a result means something only in comparison with them.

They are computed from histograms, so one pass over the images (slices or volumes) tries every threshold: on the grey
level or, for a map that is the same for every image, on how often a pixel is lesion. Each lesion class has baselines
of its own.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from lungseg.evaluation.metrics import per_image

LEVELS = 256  # grey levels tried as thresholds, as in an 8-bit image

# image (C, *spatial) in [0, 1], of which the middle channel counts, target (1, *spatial) in {0, 1}, id
Images = Iterable[tuple[Tensor, Tensor, str]]


def select_class(images: Images, k: int) -> Images:
    """The same images, with only channel k of their targets (K, *spatial)."""
    return ((image, target[k : k + 1], id_) for image, target, id_ in images)


def merge_classes(images: Images) -> Images:
    """The same images, with targets (1, *spatial) that are 1 where any channel of (K, *spatial) is."""
    return ((image, target.amax(dim=0, keepdim=True), id_) for image, target, id_ in images)


def threshold_counts(images: Images) -> Tensor:
    """Count the pixels of each image for the rule "lesion is where the grey level is at least t", for every t.

    Returns:
        (n, LEVELS + 1, 4) int64: tp, fp, fn, tn of image i for t = 0, 1, ..., LEVELS. The last t is above every
        grey level, so everything is background.
    """
    rows = []
    for image, target, _ in images:
        lesion, every = torch.zeros(2, LEVELS + 1, dtype=torch.int64)
        shown = image[len(image) // 2]  # (*spatial): the slice itself, without its neighbours
        for cut, lesion_map in zip(*(x.reshape(-1, *x.shape[-2:]) for x in (shown, target)), strict=True):  # (H, W)
            level = (cut * (LEVELS - 1)).round().long()  # (H, W) of one slice; a whole volume would take a gigabyte
            lesion += count_at_least(level[lesion_map > 0.5])
            every += count_at_least(level.flatten())
        tp, fp, fn = lesion, every - lesion, lesion[0] - lesion
        rows.append(torch.stack([tp, fp, fn, every[0] - tp - fp - fn], dim=-1))  # (LEVELS + 1, 4)
    return torch.stack(rows)  # (n, LEVELS + 1, 4)


def count_at_least(level: Tensor, highest: int = LEVELS) -> Tensor:
    """How many of the levels (m,), all below `highest`, are at least t, for t = 0..highest: (highest + 1,) int64."""
    histogram = torch.bincount(level, minlength=highest + 1)  # (highest + 1,); no level is `highest` itself
    return histogram.flip(0).cumsum(0).flip(0)


def best_threshold(images: Images) -> int:
    """The grey level, 0..LEVELS - 1, with the highest mean Dice per image: to be chosen on the training split."""
    counts = threshold_counts(images)[:, :LEVELS]  # (n, LEVELS, 4)
    dice = per_image(counts.flatten(0, 1))["dice"].view(counts.shape[:2])  # (n, LEVELS)
    return int(dice.nanmean(0).nan_to_num(-1).argmax())


def baseline_counts(train: Images, held_out: Images) -> dict[str, Tensor]:
    """name -> counts (n, 4) on the held-out images, ready for `lungseg.evaluation.metrics.summarise`.

    "all background" predicts nothing; "threshold" predicts lesion where a pixel is at least as bright as the grey
    level that was best on the training images. With targets of K > 1 classes (K, *spatial), each class has its own grey
    level, and the counts are (n, K, 4), for `summarise_classes`. Both data sets are read once per class.
    """
    num_classes = len(next(iter(held_out))[1])
    found: dict[str, list[Tensor]] = {"all background": [], "threshold": []}
    for k in range(num_classes):
        counts = threshold_counts(select_class(held_out, k))
        found["all background"].append(counts[:, LEVELS])
        found["threshold"].append(counts[:, best_threshold(select_class(train, k))])
    return {name: torch.stack(c, dim=1) if num_classes > 1 else c[0] for name, c in found.items()}


def fixed_map(images: Images) -> Tensor:
    """The best map that never looks at the image: lesion where at least k training targets have a lesion.

    Args:
        images: training slices or volumes of the same size, or at least their targets; read once.

    Returns:
        bool, of a target's shape; k is the one with the highest mean Dice per image (the lowest of equals), where an
        empty target has a Dice of 0 (`lungseg.evaluation.metrics.per_image`). All False if no target has a lesion.

    Raises:
        ValueError: if the targets differ in size, or there are none.
    """
    lesions, often = [], None  # often: in how many images each pixel is lesion
    for _, target, id_ in images:
        lesion = target > 0.5
        often = torch.zeros(lesion.shape, dtype=torch.int32) if often is None else often
        if lesion.shape != often.shape:
            raise ValueError(
                f"image {id_} is {shape_text(lesion)} pixels, but those before it {shape_text(often)}: "
                f"a map for all images needs images of the same size."
            )
        often += lesion
        lesions.append(lesion.flatten().nonzero()[:, 0])  # (m,): few pixels are lesion, so this is small
    if often is None:
        raise ValueError("a map for all images needs training images, but there are none")
    most = int(often.max())
    area = count_at_least(often.flatten(), most + 1)  # (most + 2,): pixels of the map for each k
    dice = torch.zeros(most + 2, dtype=torch.float64)
    for lesion in lesions:
        tp = count_at_least(often.flatten()[lesion], most + 1)  # (most + 2,)
        dice += (2 * tp.double() / (area + len(lesion))).nan_to_num(0)  # NaN: neither map has a lesion
    return often >= 1 + int(dice[1:].argmax())  # k = 0 only adds pixels that are never lesion


def shape_text(target: Tensor) -> str:
    """(1, 64, 48) -> 64 x 48"""
    return " x ".join(map(str, target.shape[1:]))


def lesion_fractions(images: Images) -> list[float]:
    """For each class, the share of all pixels that are lesion, in (0, 1): what to predict before seeing an image.

    Targets are (K, *spatial); K = 1 in a binary data set.
    """
    lesions, pixels = torch.zeros(1, dtype=torch.float64), 0
    for _, target, _ in images:
        lesions, pixels = lesions + target.flatten(1).sum(1), pixels + target[0].numel()  # (K,)
    return [min(max(lesion, 1.0), pixels - 1.0) / pixels for lesion in lesions.tolist()]  # 0 and 1 have infinite logits
