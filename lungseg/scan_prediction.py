"""Predict a whole scan in bounded memory: some slices at a time, and two bytes for a probability.

A scan of 512 x 512 x 300 voxels has 79 million of them: 157 MB of HU in 16 bits, and 315 MB in each float32 copy. So a
network for slices is given a few slices at a time, and what is kept of each voxel is its label (one byte) and its
probability as a 16-bit level. A network for volumes takes the volume at once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.predictor import Predictor
from lungseg.scale import Scale

LEVELS = 65535  # the level of probability 1


def predict_in_parts(
    predictor: Predictor,
    hu: NDArray,
    scale: Scale | None,
    threshold: float,
    *,
    each_class: bool = False,
    context: int = 0,
    is_stack: bool = False,
    where: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Labels and probabilities of a slice or a volume, the same as `Predictor.labels` and `Predictor.probs` of it all.

    Args:
        hu: (H, W) or (D, H, W), possibly memory-mapped.
        scale: from `Predictor.scale_for`.
        threshold: as for `Predictor.labels`.
        each_class: keep the probabilities of each class, not only the largest.
        context: slices before and after a part that the network sees too, if its result depends on neighbours.
        is_stack: hu is one slice with its neighbours (C, H, W), as for `Predictor.probs`; the result is of (H, W).
        where: as for `Predictor.probs`, of (D, H, W) or (H, W).

    Returns:
        The labels, in the shape of hu; and the probabilities as levels of 1/65535, (K, *shape) with `each_class` and K
        classes, otherwise (1, *shape).

    Raises:
        ValueError: as `Predictor.probs`.
    """
    num = len(predictor.classes) if each_class and predictor.classes else 1
    shape = hu.shape[1:] if is_stack else hu.shape
    labels, levels = np.zeros(shape, np.uint8), np.zeros((num, *shape), np.uint16)
    if is_stack or hu.ndim == 2 or predictor.spatial_dims == 3:
        how: dict[str, Any] = {"is_stack": True} if is_stack else {}
        probs = predictor.probs(predictor.grey(hu), scale, **how | ({} if where is None else {"where": where}))
        keep(predictor, probs, threshold, labels, levels)
        return labels, levels
    with tqdm(total=len(hu), desc="slices", unit="slice", leave=False, disable=None) as bar:
        for start in range(0, len(hu), predictor.batch_size):
            stop = min(start + predictor.batch_size, len(hu))
            first, last = max(0, start - context), min(len(hu), stop + context)
            of_part: dict[str, Any] = {} if where is None else {"where": where[start:stop]}
            if context:
                of_part["inner"] = slice(start - first, stop - first)
            probs = predictor.probs(predictor.grey(hu[first:last]), scale, **of_part)  # (n, h, w) or (K, n, h, w)
            keep(predictor, probs, threshold, labels[start:stop], levels[:, start:stop])
            bar.update(stop - start)
    return labels, levels


def keep(predictor: Predictor, probs: NDArray, threshold: float, labels: NDArray, levels: NDArray) -> None:
    """Write the labels and the levels of `probs` into arrays, as many maps as `levels` has.

    Slice by slice: whole volumes of intermediate results would need many times the memory of the volume.
    """
    if labels.ndim == 3:
        for z in range(len(labels)):
            keep(predictor, probs[..., z, :, :], threshold, labels[z], levels[:, z])
        return
    labels[...] = predictor.labels(probs, threshold)
    maps = probs if predictor.classes and len(levels) > 1 else predictor.any_class(probs)[None]
    levels[...] = np.rint(maps * LEVELS)  # assigning makes whole numbers of them
