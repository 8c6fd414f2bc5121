"""The scores of each image, a slice or a volume: a few numbers, from which all tables are made (`strata`, `tables`).

    scores = score_all(data, predict)   # one image after the other; none is kept in memory
    rows = table_rows(scores)

"Patient" is what the manifest calls `group`. Sizes and distances are in mm where the manifest states the size of a
pixel, otherwise in pixels of the original slice; a mean never mixes the two.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from lungseg.data.classes import to_labels
from lungseg.data.manifest import ImageRecord
from lungseg.data.samples import Samples
from lungseg.evaluation.lesions import Lesion, count_calls, match_lesions
from lungseg.evaluation.metrics import counts_from_pred, hausdorff95, per_image

# (image in [0, 1], its row of the manifest) -> map in {0, 1}, or labels 0..K of lesion classes
Predict = Callable[[NDArray, ImageRecord], NDArray]


# ---- one image --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageScore:
    """The scores of one slice or volume, and what the tables need besides."""

    id: str
    group: str  # patient
    label: str
    tp: int  # pixels (or voxels): lesion, predicted
    fp: int  # background, predicted
    fn: int  # lesion, not predicted
    tn: int  # background, not predicted
    hd95: float  # in `unit`; NaN if either map is empty
    lesions: tuple[Lesion, ...]
    false_positives: int  # detections that touch no lesion
    unit: str = "mm"  # of hd95 and of diameters; "px" (of the original slice) where the spacing is unknown
    classes: tuple["ImageScore", ...] = ()  # the same for each lesion class on its own, if requested
    called_as: tuple[tuple[int, ...], ...] = ()  # then also the table of `lungseg.evaluation.lesions.count_calls`

    @property
    def diameter(self) -> float:
        """The diameter of the largest lesion, in `unit`; 0 if there is none."""
        return max((lesion.diameter for lesion in self.lesions), default=0.0)


def score_image(
    pred: ArrayLike,
    target: ArrayLike,
    *,
    id: str,
    group: str,
    label: str = "",
    spacing_mm: float | tuple[float, ...] = math.nan,
    spacing_px: float | tuple[float, ...] = 1.0,
) -> ImageScore:
    """Compare a prediction with its target.

    Args:
        pred, target: (H, W) or (D, H, W), bool or values in {0, 1}.
        id, group, label: as in the manifest.
        spacing_mm: distance between neighbouring pixels, one number or one per axis; NaN means unknown.
        spacing_px: the same in pixels of the original slice, used where spacing_mm is unknown.

    Raises:
        ValueError: naming the image, if the shapes differ, a value is not 0 or 1, or the spacing is impossible.
    """
    pred, target = np.asarray(pred), np.asarray(target)
    if pred.shape != target.shape or pred.ndim not in (2, 3):
        raise ValueError(
            f"{id}: prediction {pred.shape} and target {target.shape} must have the same shape, (H, W) or (D, H, W). "
            f"Resize the prediction to the size of the file first."
        )
    known = is_known_spacing(spacing_mm, target.ndim, id)
    try:
        slices = zip(each_slice(pred), each_slice(target), strict=True)
        counts = torch.stack([counts_from_pred(*pair)[0] for pair in slices]).sum(0)  # (4,)
    except ValueError as error:
        raise ValueError(f"{id}: {error}") from None
    unit, distance = ("mm", spacing_mm) if known else ("px", spacing_px)
    lesions, false_positives = match_lesions(pred, target, distance)
    hd95 = hausdorff95(pred, target, distance)
    tp, fp, fn, tn = counts.tolist()
    return ImageScore(id, group, label, tp, fp, fn, tn, hd95, lesions, false_positives, unit)


def is_known_spacing(spacing_mm: float | tuple[float, ...], ndim: int, id: str) -> bool:
    """Whether the spacing of an image is known along every axis; a ValueError names the image if it is impossible."""
    spacing = np.asarray(spacing_mm, dtype=float)
    possible = np.isnan(spacing) | (spacing > 0) & (spacing < math.inf)
    if spacing.shape not in ((), (ndim,)) or not possible.all():
        raise ValueError(
            f"{id}: spacing_mm={spacing_mm} must be one positive number, or one for each of the {ndim} axes. "
            f"NaN means unknown."
        )
    return bool(np.isfinite(spacing).all())


def each_slice(volume: NDArray) -> Iterator[Tensor]:
    """(1, 1, H, W) of each slice: computing on a whole volume at once would need many times its memory."""
    for slice_ in volume.reshape(-1, *volume.shape[-2:]):
        yield torch.from_numpy(np.ascontiguousarray(slice_))[None, None]


def score_all(
    data: Samples, predict: Predict, *, title: str = "score", in_mm: bool | None = None, by_class: bool = False
) -> list[ImageScore]:
    """Score every slice or volume of a data set, one after the other, with only one in memory.

    Args:
        data: the images and targets, with their records.
        predict: (image (*spatial) in [0, 1], its record) -> prediction (*spatial), bool or in {0, 1}. With K > 1 lesion
            classes it may also be a label map 0..K, which is scored as lesion of any class or not.
        title: text before the progress bar, which is silent where there is no terminal.
        in_mm: measure sizes and distances in mm, not in pixels; None decides by whether all spacings are known.
        by_class: also score each class on its own (`ImageScore.classes`); predictions are label maps.
    """
    in_mm = all(known_spacings(data)) if in_mm is None else in_mm
    scores = []
    for index in tqdm(range(len(data)), desc=title, disable=None):
        image, target, _ = data[index]
        record = data.records[index]
        pred = predict(image[len(image) // 2].numpy(), record)  # (*spatial), without neighbours
        about = {"id": record.id, "group": record.group, "label": record.label}
        about["spacing_mm"] = sample_spacing(data, index) if in_mm else math.nan
        about["spacing_px"] = source_pixels(record, target.shape[1:])
        if len(target) == 1:
            scores.append(score_image(pred, target[0].numpy(), **about))
            continue
        pred, labels = np.asarray(pred), to_labels(target.numpy())  # (*spatial) in 0..K
        score = score_image(pred != 0, labels != 0, **about)
        if by_class:
            each = tuple(score_image(pred == k, labels == k, **about) for k in range(1, len(target) + 1))
            called = tuple(map(tuple, count_calls(pred, labels, len(target)).tolist()))
            score = replace(score, classes=each, called_as=called)
        scores.append(score)
    return scores


def known_spacings(data: Samples) -> list[bool]:
    """Whether the size of a pixel is known along every side, for each slice or volume."""
    return [bool(np.isfinite(sample_spacing(data, i)).all()) for i in range(len(data))]


def sample_spacing(data: Samples, index: int) -> float | tuple[float, ...]:
    """The spacing of an image in mm: three numbers from the file of a volume, one from the manifest of a slice."""
    return data.spacing_mm(index) if hasattr(data, "spacing_mm") else data.records[index].spacing_mm


def unit_remark(data: Samples, known: Sequence[bool]) -> str:
    """One paragraph on what "px" means here and why; "" if all spacings are `known`, so that everything is in mm."""
    if all(known):
        return ""
    of_images = f" of {len(known) - sum(known)} of {len(known)} images" if any(known) else ""
    recorded = all(getattr(record, "source_height", 0) for record in data.records)
    of = "original slices" if recorded else "original slices, or of the files where the manifest has no source_height"
    return (
        f"The spacing{of_images} is unknown, so all sizes and distances are in pixels (px) of the {of}; mm and pixels "
        f"are never averaged together. At 0.7 mm per pixel, 7, 14 and 28 px are about 5, 10 and 20 mm. "
        f"For mm, state every spacing_mm."
    )


def scale_remark(about_scale: dict[str, str], num: int) -> list[str]:
    """How many of `num` images may differ in pixel size from the training, and the remark on the first."""
    if not about_scale:
        return []
    id_, sentence = next(iter(about_scale.items()))
    return [f"{len(about_scale)} of {num} may differ in pixel size from the training. {id_}: {sentence}"]


def class_remark(predicted: Sequence[str], held: Sequence[str]) -> list[str]:
    """Why there is no table of classes, if a network predicts other classes than the data hold."""
    known = [", ".join(names) if len(names) > 1 else "lesion" for names in (predicted, held)]
    if known[0] == known[1]:
        return []
    return [f"The network predicts {known[0]}, the data hold {known[1]}: only lesions of any class are scored."]


def source_pixels(record: ImageRecord, shape: Sequence[int]) -> tuple[float, ...]:
    """Pixels of the original slice per pixel of the file along each side; 1 where the manifest does not say.

    Args:
        shape: (H, W) or (D, H, W) of the file. The slices of a volume are never scaled along D.
    """
    source = getattr(record, "source_height", 0), getattr(record, "source_width", 0)
    scales = [there / here if there else 1.0 for there, here in zip(source, shape[-2:], strict=True)]
    return (*[1.0] * (len(shape) - 2), *scales)


def scores_per_image(scores: Sequence[ImageScore]) -> dict[str, NDArray[np.float64]]:
    """dice, iou, precision, recall, rmse (`lungseg.evaluation.metrics.per_image`), hd95_mm and hd95_px, each (n,).

    NaN where undefined: each image has one of the last two, depending on its unit.
    """
    counts = torch.tensor([(s.tp, s.fp, s.fn, s.tn) for s in scores], dtype=torch.int64).view(-1, 4)  # (n, 4)
    found = {name: values.numpy() for name, values in per_image(counts).items()}
    for unit in ("mm", "px"):
        found[f"hd95_{unit}"] = np.array([s.hd95 if s.unit == unit else math.nan for s in scores], dtype=float)
    return found
