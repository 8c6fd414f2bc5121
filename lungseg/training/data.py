"""The data of a run: the user's folder, checked, or phantoms; its three splits, and their batches."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lungseg.checkpoint import InputSpec
from lungseg.data.classes import read_classes
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import read_manifest
from lungseg.data.samples import Samples, shown
from lungseg.data.slices import check_folder
from lungseg.data.splits import Fold
from lungseg.data.volumes import check_volume_folder
from lungseg.training.batches import Loader, held_out_batches, train_batches
from lungseg.training.crops import same_size, volume_slice_sets
from lungseg.training.distributed import Processes
from lungseg.training.recipe import RunOptions, TrainingRecipe, VolumeRecipe
from lungseg.training.sets import (
    AUGMENTATIONS as AUGMENTATIONS,
    Sets,
    TrainSet,
    augmentation,
    last_split,
    slice_sets,
    volume_sets,
)

PHANTOM_SPACING_MM = (2.0, 1.2, 1.2)  # of phantom volumes: between slices, rows, columns


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
