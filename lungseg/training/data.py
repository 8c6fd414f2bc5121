"""The data of a run: the user's folder, checked, or phantoms; its three splits, and what a checkpoint says of them."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from lungseg.checkpoint import InputSpec
from lungseg.data.augment import Augmentation
from lungseg.data.classes import read_classes
from lungseg.data.ct import HU_WINDOW
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.neighbours import check_order_known
from lungseg.data.resampled_volumes import ResampledVolumes
from lungseg.data.samples import Samples, shown
from lungseg.data.slice_crops import SliceCrops
from lungseg.data.slices import SliceDataset, check_folder, slice_size
from lungseg.data.splits import Fold
from lungseg.data.volumes import CropDataset, VolumeDataset, check_volume_folder
from lungseg.training.batches import Loader, held_out_batches, train_batches
from lungseg.training.crops import crop_sets, most_common, same_size, volume_slice_sets
from lungseg.training.distributed import Processes
from lungseg.training.negatives import JoinedSlices, add_negatives
from lungseg.training.recipe import RunOptions, TrainingRecipe, VolumeRecipe

FLIPS = Augmentation(rotation=0, elastic_probability=0, brightness=0, contrast=0)
AUGMENTATIONS = {
    "none": None,
    "flips": FLIPS,
    "full": Augmentation(),
    "strong": Augmentation(scale_probability=0.3, blur_probability=0.2, gamma_probability=0.3, noise_probability=0.3),
}
PHANTOM_SPACING_MM = (2.0, 1.2, 1.2)  # of phantom volumes: between slices, rows, columns

TrainSet = SliceDataset | JoinedSlices | SliceCrops | CropDataset
Sets = tuple[TrainSet, Samples, Samples, Samples]  # train, the same without augmentation, val, test


@dataclass(frozen=True)
class Data:
    """The three splits of a run, as data sets and in batches. Without a test split, the validation split serves as one.

    Attributes:
        train_set: augmented, differently in each epoch (`set_epoch`); with the negatives.
        plain_train_set: whole images without augmentation or negatives, for the baselines
            (`lungseg.evaluation.baselines`).
        train, val, test: batches of this process.
        input: what a checkpoint says about the images it was trained on.
        fingerprint: of names and splits: a run must be resumed with the data it began with.
    """

    folder: Path
    train_set: TrainSet
    plain_train_set: Samples
    val_set: Samples
    test_set: Samples
    train: Loader
    val: Loader
    test: Loader
    input: InputSpec
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the lesion classes; () in a binary folder without names."""
        return self.input.classes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0: each has its own order and its own augmentation."""
        self.train_set.set_epoch(epoch)
        self.train.set_epoch(epoch)


def open_data(recipe: TrainingRecipe, options: RunOptions, processes: Processes) -> Data:
    """Slices, or volumes if the recipe has spatial_dims = 3; phantoms where `options.data` is None.

    A 2-D network also takes a folder of volumes: it learns from their slices, and is evaluated on whole volumes.

    Raises:
        ValueError: the first thing that is wrong with the data, in one sentence.
    """
    fold = recipe.cross_validation
    solid = getattr(recipe, "spatial_dims", 2) == 3
    volumes = solid or (options.data is not None and options.data.is_dir() and held_kind(options.data) == "volumes")
    if recipe.neighbours and options.data is None:
        raise ValueError("--neighbours needs --data: slices of phantoms do not follow each other.")
    if recipe.soft_targets and options.data is None:
        raise ValueError("--soft-targets needs the outlines of several readers, and phantoms have none. Give --data.")
    with processes.main_first():  # the main process draws the phantoms that the others read
        if volumes:
            folder = find_data(options.data, check_volume_folder, fold) or draw_volumes(recipe, options)
        else:
            folder = find_data(options.data, check_folder, fold) or draw_slices(recipe, options)
    if recipe.soft_targets and (recipe.crop_side or volumes) and not solid:
        raise ValueError(
            "--soft-targets is for whole slices, or crops of volumes for a 3-D network. Leave it out here."
        )
    if recipe.negatives and (recipe.crop_side or volumes):
        raise ValueError(
            "--negatives are for slices that are trained on whole: of crops, --foreground says how many hold a lesion."
        )
    sets: Sets
    if volumes and not solid:
        sets, input_ = volume_slice_sets(folder, recipe, augmentation(recipe), last_split(folder), options.seed)
    else:
        sets, input_ = (volume_sets if solid else slice_sets)(folder, recipe, options.seed)
    share: dict[str, Any] = {"num_workers": options.num_workers, "processes": processes}
    one_size = not volumes and (not recipe.crop_side or same_size(folder))  # whole volumes differ in size
    at_once = recipe.batch_size if one_size else 1
    return Data(
        folder, *sets,
        train_batches(sets[0], recipe.batch_size, seed=options.seed, **share),
        held_out_batches(shown(sets[2]), at_once, **share),
        held_out_batches(shown(sets[3]), at_once, **share),
        input_, fingerprint(folder, fold),
    )  # fmt: skip


# ---- finding or drawing -----------------------------------------------------------------------------------------


def find_data(folder: Path | None, check: Callable[[Path], list[str]], fold: Fold | None = None) -> Path | None:
    """The folder, once `check` has found nothing wrong with it; None if there is none.

    Args:
        fold: of a cross-validation, which needs no validation split.

    Raises:
        ValueError: the first thing that is wrong with it, in one sentence.
    """
    if folder is None:
        return None
    problems = check(folder)
    if not problems:
        splits = {record.split for record in read_manifest(folder, fold=fold)}
        if not {"train", "val"} <= splits:
            problems = [f"{folder} has only the splits {', '.join(sorted(splits))}. Training needs train and val."]
    refuse(problems)
    return folder


def refuse(problems: list[str]) -> None:
    """A ValueError with the first problem, and the number of the others; nothing if there is none."""
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)


def draw_slices(recipe: TrainingRecipe, options: RunOptions) -> Path:
    """Phantom slices in the run's folder, split by patient; drawn once."""
    r, seed = recipe, options.seed
    # The name holds all settings that decide what is drawn, so a folder made with other settings is never taken.
    name = f"phantoms_{r.phantom_view}_{r.phantom_patients}x{r.phantom_slices}_{r.img_size}px_seed{seed}"
    folder = options.out / name
    if not folder.exists():
        from lungseg.data.phantoms.folders import write_phantom_folder  # only a run without data needs the phantoms

        how: dict[str, Any] = {"diameter_mm": (8.0, 25.0)} if r.phantom_view == "nodule" else {}
        how |= {"view": r.phantom_view, "num_patients": r.phantom_patients, "slices_per_patient": r.phantom_slices}
        write_phantom_folder(folder, size=r.img_size, seed=seed, **how)
    return folder


def draw_volumes(recipe: TrainingRecipe, options: RunOptions) -> Path:
    """Like `draw_slices`, for phantom volumes."""
    assert isinstance(recipe, VolumeRecipe)  # only such a recipe has spatial_dims = 3
    shape, patients, seed = recipe.phantom_shape, recipe.phantom_volumes, options.seed
    folder = options.out / f"phantoms_volume_{patients}x{'x'.join(map(str, shape))}_seed{seed}"
    if not folder.exists():
        from lungseg.data.phantoms.folders import write_phantom_volumes

        how: dict[str, Any] = {"spacing_mm": PHANTOM_SPACING_MM, "num_nodules": 1}  # two would not fit a small volume
        write_phantom_volumes(folder, num_patients=patients, shape=shape, seed=seed, **how)
    return folder


def fingerprint(folder: Path, fold: Fold | None = None) -> str:
    """A short digest of the names of the samples, their splits, and the names of the lesion classes."""
    text = "\n".join([*(f"{r.id} {r.split}" for r in read_manifest(folder, fold=fold)), *read_classes(folder)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def empty_channels(samples: Iterable[tuple[Tensor, Tensor, str]], num_classes: int) -> list[int]:
    """Which channels, counted from 0, are empty in every target; stops reading once all have been seen."""
    missing = list(range(max(1, num_classes)))
    for _, target, _ in samples:
        missing = [k for k in missing if not target[k].any()]
        if not missing:
            break
    return missing


def check_lesions(data: Data, recipe: TrainingRecipe, *, report: Callable[[str], None]) -> None:
    """Refuse splits without a lesion to learn or to be scored on; the validation split may lack a class.

    Args:
        report: receives a remark on classes that the validation split lacks.

    Raises:
        ValueError: naming the split, and the class if there are several.
    """
    classes, several = data.classes, len(data.classes) > 1
    train = data.plain_train_set if several else data.train_set  # crops miss a rare class by chance
    for split, samples in (("training", train), ("validation", data.val_set)):
        needed = split == "training" or recipe.monitor != "loss"
        missing = empty_channels(samples, len(classes)) if needed or several else []
        if needed and len(missing) == max(1, len(classes)):
            shrunk = min(data.input.scale) < 1
            hint = f", or raise --img-size: at {recipe.img_size} pixels small lesions vanish" if shrunk else ""
            raise ValueError(f"No {split} image of {data.folder} holds a lesion. Put some into that split{hint}.")
        names = ", ".join(classes[k] for k in missing) if several else ""
        if names and split == "training":
            raise ValueError(
                f"No training image of {data.folder} holds a lesion of {names}, so the network could not "
                f"learn it. Put some into that split, or take the class out of classes.txt and the masks."
            )
        if names:
            report(
                f"No validation image holds a lesion of {names}: it has no score, and no part in the mean over classes."
            )


# ---- reading ----------------------------------------------------------------------------------------------------


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


def augmentation(recipe: TrainingRecipe) -> Augmentation:
    """That of the recipe; "none" is one without any change."""
    return AUGMENTATIONS[recipe.augment] or replace(FLIPS, horizontal_flip=0, vertical_flip=0)


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


def last_split(folder: Path) -> str:
    return "test" if any(r.split == "test" for r in read_manifest(folder)) else "val"


def median_spacing(spacings: Iterable[float]) -> float | None:
    """In mm, the median of those that are known (not NaN); None if there are none."""
    known = [s for s in spacings if not math.isnan(s)]
    return median(known) if known else None
