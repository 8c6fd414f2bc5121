"""The data sets of a 2-D network that learns from crops of slices, or from the slices of volumes, and what it is told.

Both keep the pixels of their files: nothing is resized, neither in training nor in evaluation.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lungseg.checkpoint import InputSpec
from lungseg.data.augment import Augmentation
from lungseg.data.ct import HU_WINDOW
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.samples import Samples
from lungseg.data.slice_crops import SliceCrops
from lungseg.data.slices import SliceDataset, slice_size
from lungseg.data.volume_slices import VolumeSliceDataset
from lungseg.data.volumes import VolumeDataset
from lungseg.training.recipe import TrainingRecipe

CropSets = tuple[SliceCrops, Samples, Samples, Samples]  # train, the same whole and without augmentation, val, test


def crop_sets(
    folder: Path,
    recipe: TrainingRecipe,
    augment: Augmentation,
    last_split: str,
    hu_window: tuple[float, float],
    seed: int,
) -> tuple[CropSets, InputSpec]:
    """Crops of the training slices of a folder; whole slices of the others, at the size of their files.

    Args:
        augment: of the crops.
        last_split: "test", or "val" if there is no test split.
    """
    side = recipe.crop_side
    assert side is not None
    plain, val, test = (
        SliceDataset(folder, split, neighbours=recipe.neighbours, fold=recipe.cross_validation)
        for split in ("train", "val", last_split)
    )
    input_ = InputSpec(
        (side, side), hu_window=hu_window, classes=plain.classes, neighbours=recipe.neighbours,
        **whole_slices(folder, plain.records),
    )  # fmt: skip
    return (make_crops(plain, recipe, augment, seed), plain, val, test), input_


def whole_slices(folder: Path, records: list[ImageRecord]) -> dict[str, Any]:
    """The entries of the `InputSpec` that say how large the slices are from which crops are cut.

    The number of training pixels per pixel of the sources is known if it is the same for all slices.
    """
    files = [slice_size(folder, record) for record in records]
    sources = [record.source_size or file for record, file in zip(records, files, strict=True)]
    ratios = {(h / H, w / W) for (h, w), (H, W) in zip(files, sources, strict=True)}
    recorded = any(record.source_size for record in records) and len(ratios) == 1
    known = [r.spacing_mm for r in records if not np.isnan(r.spacing_mm)]
    return {
        "scale": (1.0, 1.0),
        "source_scale": ratios.pop() if recorded else None,
        "spacing_mm": median(known) if known else None,
        "whole_size": most_common(files),
    }


def volume_slice_sets(
    folder: Path, recipe: TrainingRecipe, augment: Augmentation, last_split: str, seed: int
) -> tuple[CropSets, InputSpec]:
    """Slices of the training volumes, or crops of them; whole volumes of the others: a score is that of a volume.

    Args: as of `crop_sets`.

    Raises:
        ValueError: if whole slices are to be trained on, and they have several sizes.
    """
    fold = recipe.cross_validation
    source = VolumeSliceDataset(folder, "train", neighbours=recipe.neighbours, fold=fold)
    if not recipe.crop_side and len(sizes := sorted(set(source.sizes))) > 1:
        a, b = (" x ".join(map(str, size)) for size in sizes[:2])
        raise ValueError(
            f"{folder} has volumes with slices of {len(sizes)} sizes, such as {a} and {b}, which cannot share "
            f"a batch. Give --crop-size N to train on crops of N x N pixels."
        )
    plain, val, test = (VolumeDataset(folder, split, fold=fold) for split in ("train", "val", last_split))
    spacings = [plain.spacing_mm(i)[1:] for i in range(len(plain))]
    sides = [[mm for mm in side if not np.isnan(mm)] for side in zip(*spacings, strict=True)]
    whole = most_common(source.sizes)
    input_ = InputSpec(
        (recipe.crop_side, recipe.crop_side) if recipe.crop_side else whole,
        scale=(1.0, 1.0),
        hu_window=HU_WINDOW,
        spacing_mm=tuple(median(known) for known in sides) if all(sides) else None,
        source_scale=(1.0, 1.0),  # the slices of a volume are as the scanner made them
        classes=source.classes,
        neighbours=recipe.neighbours,
        whole_size=whole if recipe.crop_side else None,
    )
    return (make_crops(source, recipe, augment, seed), plain, val, test), input_


def make_crops(
    source: SliceDataset | VolumeSliceDataset, recipe: TrainingRecipe, augment: Augmentation, seed: int
) -> SliceCrops:
    return SliceCrops(
        source,
        crop_size=recipe.crop_side,
        crops_per_slice=recipe.crops_per_slice if recipe.crop_side else 1,
        foreground=recipe.foreground,
        augment=augment,
        seed=seed,
    )


def most_common(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return Counter(sizes).most_common(1)[0][0]


def same_size(folder: Path) -> bool:
    """Whether all slices of a folder have one size, so that they can share a batch."""
    return len({slice_size(folder, record) for record in read_manifest(folder)}) == 1


def volumes_remark(folder: Path, input: InputSpec) -> str:
    """A sentence if a 2-D network is to learn from volumes, which may not be what was meant; or ""."""
    if len(input.size) == 3 or held_kind(folder) == "slices":
        return ""
    return (
        f"{folder} holds volumes: this 2-D network learns from their slices, and is scored on whole volumes. "
        f"(Scripts with the flag --spatial-dims 3 also learn in 3-D.)"
    )
