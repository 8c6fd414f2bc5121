"""The data sets of a folder, as a recipe wants them, and what a checkpoint says of their images.

    train    augmented, in crops if the recipe says so         plain    the same, whole and without augmentation
    val                                                        test     or val again, where there is no test split

Of a 2-D network that learns from crops, or from the slices of volumes: `lungseg.training.crops`.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from lungseg.checkpoint import InputSpec
from lungseg.data.augment import Augmentation
from lungseg.data.ct import HU_WINDOW
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.neighbours import check_order_known
from lungseg.data.resampled_volumes import ResampledVolumes
from lungseg.data.samples import Samples
from lungseg.data.slice_crops import SliceCrops
from lungseg.data.slices import SliceDataset, slice_size
from lungseg.data.volumes import CropDataset, VolumeDataset
from lungseg.training.crops import crop_sets, most_common
from lungseg.training.negatives import JoinedSlices, add_negatives
from lungseg.training.recipe import TrainingRecipe, VolumeRecipe

FLIPS = Augmentation(rotation=0, elastic_probability=0, brightness=0, contrast=0)
AUGMENTATIONS = {
    "none": None,
    "flips": FLIPS,
    "full": Augmentation(),
    "strong": Augmentation(scale_probability=0.3, blur_probability=0.2, gamma_probability=0.3, noise_probability=0.3),
}

TrainSet = SliceDataset | JoinedSlices | SliceCrops | CropDataset
Sets = tuple[TrainSet, Samples, Samples, Samples]  # train, the same without augmentation, val, test


def slice_sets(folder: Path, recipe: TrainingRecipe, seed: int) -> tuple[Sets, InputSpec]:
    """The data sets of a folder of slices: in crops of crop_size, or all resized to img_size x img_size pixels.

    Raises:
        ValueError: if the slices do not all have one HU window: the network would not know which one an image has.
    """
    windows = sorted({(r.hu_low, r.hu_high) for r in read_manifest(folder)})
    if len(windows) > 1:
        (a, b), (c, d) = windows[:2]
        raise ValueError(
            f"{folder} has slices in the HU window {a:g} to {b:g} and others in {c:g} to {d:g}, so one grey level "
            f"means two things. Export all of them with one window."
        )
    if recipe.neighbours:
        check_order_known(folder, read_manifest(folder))
    if recipe.crop_side:
        return crop_sets(folder, recipe, augmentation(recipe), last_split(folder), windows[0], seed)
    size, soft = recipe.img_size, recipe.soft_targets
    vary: dict[str, Any] = {"augment": AUGMENTATIONS[recipe.augment], "seed": seed, "fold": recipe.cross_validation}
    show: dict[str, Any] = {"size": size, "neighbours": recipe.neighbours}
    train = SliceDataset(folder, "train", soft=soft, **vary, **show)
    if soft:  # check_folder has not looked at the readers' outlines
        for _ in SliceDataset(folder, "train", soft=True, fold=recipe.cross_validation):
            pass
    splits = "train", "val", last_split(folder)
    plain, val, test = (SliceDataset(folder, split, fold=recipe.cross_validation, **show) for split in splits)
    input_ = InputSpec(
        (size, size), hu_window=windows[0], classes=train.classes, neighbours=recipe.neighbours,
        **scales(folder, train.records, size),
    )  # fmt: skip
    if not recipe.negatives:
        return (train, plain, val, test), input_
    return (add_negatives(train, (val, test), recipe.negatives, size=size, **vary), plain, val, test), input_


def volume_sets(folder: Path, recipe: TrainingRecipe, seed: int) -> tuple[Sets, InputSpec]:
    """The data sets of a folder of volumes: crops of the training volumes, whole volumes of the others."""
    assert isinstance(recipe, VolumeRecipe) and len(recipe.crop_size) == 3  # as `spatial_dims` = 3 requires
    sides: tuple[int, int, int] = recipe.crop_size
    fold, slice_mm = recipe.cross_validation, recipe.slice_mm
    whole = VolumeDataset if slice_mm is None else partial(ResampledVolumes, slice_mm=slice_mm)
    plain, val, test = (whole(folder, split, fold=fold) for split in ("train", "val", last_split(folder)))
    train = CropDataset(
        folder, "train", crop_size=sides, crops_per_volume=recipe.crops_per_volume, foreground=recipe.foreground,
        flips=recipe.augment != "none", slice_mm=slice_mm, seed=seed, soft=recipe.soft_targets, fold=fold,
        augment=None if recipe.augment in ("none", "flips") else AUGMENTATIONS[recipe.augment],
    )  # fmt: skip
    spacings = zip(*(plain.spacing_mm(i) for i in range(len(plain))), strict=True)
    spacing = tuple(median_spacing(axis) for axis in spacings)
    if slice_mm is not None:
        spacing = (slice_mm, *spacing[1:])
    input_ = InputSpec(
        recipe.crop_size, (1.0, 1.0, 1.0), HU_WINDOW, None if None in spacing else spacing, classes=train.classes,
        slice_mm=slice_mm,
    )  # fmt: skip
    return (train, plain, val, test), input_


def augmentation(recipe: TrainingRecipe) -> Augmentation:
    """That of the recipe; "none" is one without any change."""
    return AUGMENTATIONS[recipe.augment] or replace(FLIPS, horizontal_flip=0, vertical_flip=0)


def last_split(folder: Path) -> str:
    return "test" if any(r.split == "test" for r in read_manifest(folder)) else "val"


def scales(folder: Path, records: Sequence[ImageRecord], size: int) -> dict[str, Any]:
    """The entries scale, source_scale, stretched and spacing_mm of the `InputSpec`, from the headers of the files.

    Warns if the slices, or those they were made from, have several sizes: then prediction stretches images too.
    """
    files = [slice_size(folder, record) for record in records]
    sources = [record.source_size or file for record, file in zip(records, files, strict=True)]
    file, source = most_common(files), most_common(sources)
    stretched = len(set(files)) > 1 or len(set(sources)) > 1
    if stretched:
        warnings.warn(
            f"{folder} has slices of {max(len(set(files)), len(set(sources)))} sizes, all stretched to img_size: "
            f"prediction stretches whole slices likewise.",
            stacklevel=1,  # always this line, so that Python says it once
        )
    recorded = any(record.source_size for record in records) and len(set(files)) == 1
    spacing = median_spacing([r.spacing_mm for r in records])
    return {
        "scale": tuple(size / side for side in file),
        "source_scale": tuple(size / side for side in source) if recorded else None,
        "stretched": stretched,
        "spacing_mm": spacing_if_stretched(records, files) if len(set(files)) > 1 else spacing,
    }


def spacing_if_stretched(
    records: Sequence[ImageRecord], files: Sequence[tuple[int, int]]
) -> tuple[float | None, ...] | None:
    """mm per pixel along each side of a file of the most common size, if it were stretched as most slices are."""
    if median_spacing([r.spacing_mm for r in records]) is None:
        return None
    sides_mm = [[r.spacing_mm * n for n in sides] for r, sides in zip(records, files, strict=True)]
    medians = (median_spacing(sides) for sides in zip(*sides_mm, strict=True))
    return tuple(m and m / n for m, n in zip(medians, most_common(files), strict=True))


def median_spacing(spacings: Iterable[float]) -> float | None:
    """In mm, the median of those that are known (not NaN); None if there are none."""
    known = [s for s in spacings if not math.isnan(s)]
    return median(known) if known else None
