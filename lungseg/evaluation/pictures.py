"""Which predictions to show: the worst, the median and the best, as rows of `lungseg.draw.prediction_sheet`."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungseg.data.classes import to_labels
from lungseg.data.samples import Samples
from lungseg.evaluation.metrics import worst_median_best

PictureRow = tuple[str, NDArray, NDArray, NDArray]  # caption, image (H, W), target (H, W), probs (H, W) or (K, H, W)


def worst_median_best_rows(
    samples: Samples,
    dice: ArrayLike,
    predict: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    caption: Callable[[str, int], str],
    *,
    threshold: float = 0.5,
    by_class: bool = False,
) -> list[PictureRow]:
    """Three predictions; of a volume the slice that holds most of target and prediction.

    Args:
        dice: (n,) of the n samples; NaN where a sample has none.
        predict: (index, image (*spatial)) -> probabilities (*spatial), or with classes (K, *spatial).
        caption: ("worst", index) -> text next to the row.
        threshold: lesion is where the probability is above this.
        by_class: the target is a label map of the classes; otherwise it is 1 where there is a lesion of any class.
    """
    rows: list[PictureRow] = []
    for name, i in worst_median_best(dice):
        sample, channels, _ = samples[i]
        image, labels = sample[0].numpy(), to_labels(channels.numpy())  # (*spatial) each
        target = labels if by_class else (labels > 0).astype(np.uint8)
        probs, text = predict(i, image), caption(name, i)
        if image.ndim == 3:
            anything = probs.max(axis=0) if by_class else probs  # (D, H, W)
            z = int(((target > 0).astype(int) + (anything > threshold)).sum(axis=(1, 2)).argmax())
            text += f"\nits slice {z}"
            # Copies: a view would keep the whole volume in memory.
            image, target, probs = image[z].copy(), target[z].copy(), probs[..., z, :, :].copy()
        rows.append((text, image, target, probs))
    return rows
