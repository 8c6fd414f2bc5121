"""Predictions to show, such as the worst, the median and the best, as rows of `lungseg.draw.prediction_sheet`."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lungseg.data.classes import to_labels
from lungseg.data.samples import Samples
from lungseg.evaluation.metrics import worst_median_best
from lungseg.evaluation.scores import ImageScore, scores_per_image

PictureRow = tuple[str, NDArray, NDArray, NDArray]  # caption, image (H, W), target (H, W), probs (H, W) or (K, H, W)


def prediction_rows(
    samples: Samples,
    chosen: Iterable[tuple[str, int]],
    predict: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    caption: Callable[[str, int, int | None], str],
    *,
    threshold: float = 0.5,
    by_class: bool = False,
    by_target: bool = False,
) -> list[PictureRow]:
    """A row for each chosen sample. A volume is shown by its slice with the most target and predicted pixels together.

    Args:
        chosen: ("worst", index) for each row (`lungseg.evaluation.metrics.worst_median_best`).
        predict: (index, image (*spatial)) -> probabilities (*spatial), or with classes (K, *spatial).
        caption: ("worst", index, z) -> text next to the row; z is the number of a volume's slice, otherwise None.
        threshold: lesion is where the probability is above this.
        by_class: the target is a label map of the classes; otherwise it is 1 where there is a lesion of any class.
        by_target: show a volume by its slice with the most target pixels, whatever was predicted.
    """
    rows: list[PictureRow] = []
    for name, i in chosen:
        sample, channels, _ = samples[i]
        image, labels = sample[len(sample) // 2].numpy(), to_labels(channels.numpy())  # (*spatial), without neighbours
        target = labels if by_class else (labels > 0).astype(np.uint8)
        probs, z = predict(i, image), None
        if image.ndim == 3:
            pixels = (target > 0).sum(axis=(1, 2))  # (D,)
            if not by_target:
                pixels = pixels + ((probs.max(axis=0) if by_class else probs) > threshold).sum(axis=(1, 2))
            z = int(pixels.argmax())
            # Copies: a view would keep the whole volume in memory.
            image, target, probs = image[z].copy(), target[z].copy(), probs[..., z, :, :].copy()
        rows.append((caption(name, i, z), image, target, probs))
    return rows


def three_rows(
    samples: Samples,
    scores: Sequence[ImageScore],
    predict: Callable[[int, NDArray[np.float32]], NDArray[np.float32]],
    title: str,
) -> list[PictureRow]:
    """The rows of the images with the worst, the median and the best Dice, with the size of their largest lesion.

    Args:
        scores: of the samples, in their order.
        predict: as of `prediction_rows`.
        title: the first line of each caption.
    """
    dice = scores_per_image(scores)["dice"]

    def caption(place: str, i: int, _: int | None) -> str:
        return f"{title}\n{place}\nDice {dice[i]:.3f}\n{scores[i].diameter:.0f} {scores[i].unit}"

    return prediction_rows(samples, worst_median_best(dice), predict, caption)
