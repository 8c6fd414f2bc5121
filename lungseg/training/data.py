"""What a run learns from and is judged on: the user's folder once it is known to be good, or phantoms."""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch.utils.data import Dataset

from lungseg.data.augment import Augmentation
from lungseg.data.classes import read_classes
from lungseg.data.ct import HU_WINDOW
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.slices import SliceDataset, check_folder, slice_size, write_phantom_folder
from lungseg.data.volumes import CropDataset, VolumeDataset, check_volume_folder, write_phantom_volumes
from lungseg.training.batches import Loader
from lungseg.training.distributed import Processes, held_out_batches, train_batches
from lungseg.training.log import RunOptions
from lungseg.training.recipe import TrainingRecipe

AUGMENTATIONS = {
    "none": None,
    "flips": Augmentation(rotation=0, elastic_probability=0, brightness=0, contrast=0),
    "full": Augmentation(),
}
PHANTOM_SPACING_MM = (2.0, 1.2, 1.2)  # of phantom volumes: between slices, rows, columns


@dataclass(frozen=True)
class Data:
    """The three splits of a run, as data sets and in batches. Without a test split, validation is both.

    Attributes:
        train_set: augmented, a different variation in each epoch (`set_epoch`).
        plain_train_set: whole and as it is, for what needs no training (`lungseg.evaluation.baselines`).
        train, val, test: batches of this process.
        input: what a checkpoint says of the images it was trained on (`lungseg.predictor`).
        fingerprint: of names and splits; a run must go on with the data it began with.
    """

    folder: Path
    train_set: Dataset
    plain_train_set: Dataset
    val_set: Dataset
    test_set: Dataset
    train: Loader
    val: Loader
    test: Loader
    input: dict[str, Any]
    fingerprint: str

    @property
    def classes(self) -> list[str]:
        """Names of the lesion classes; [] in a binary folder without names."""
        return self.input.get("classes", [])


def open_data(recipe: TrainingRecipe, options: RunOptions, processes: Processes) -> Data:
    """Slices, or volumes if the recipe has spatial_dims = 3; phantoms where `options.data` is None.

    Raises:
        ValueError: the first thing that is wrong with the data, in one sentence.
    """
    volumes = getattr(recipe, "spatial_dims", 2) == 3
    with processes.main_first():  # it draws the phantoms that the others read
        if volumes:
            folder = find_data(options.data, check_volume_folder) or draw_volumes(recipe, options)
        else:
            folder = find_data(options.data, check_folder) or draw_slices(recipe, options)
    read = read_volumes if volumes else read_slices
    train_set, plain_train_set, val_set, test_set, input_ = read(folder, recipe, options.seed)
    if train_set.classes:
        input_["classes"] = list(train_set.classes)
    share = {"num_workers": options.num_workers, "processes": processes}
    at_once = 1 if volumes else recipe.batch_size  # whole volumes differ in size
    return Data(
        folder, train_set, plain_train_set, val_set, test_set,
        train_batches(train_set, recipe.batch_size, seed=options.seed, **share),
        held_out_batches(val_set, at_once, **share),
        held_out_batches(test_set, at_once, **share),
        input_, fingerprint(folder),
    )  # fmt: skip


# ---- finding or drawing -----------------------------------------------------------------------------------------


def find_data(folder: Path | None, check: Callable[[Path], list[str]]) -> Path | None:
    """The folder, once `check` has found nothing wrong with it; None if there is none.

    Raises:
        ValueError: the first thing that is wrong with it, in one sentence.
    """
    if folder is None:
        return None
    problems = check(folder)
    if not problems:
        splits = {record.split for record in read_manifest(folder)}
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
    """Phantom slices in the run's folder, split by patient; found again, not drawn again."""
    r, seed = recipe, options.seed
    # All that decides what is drawn is in the name: a folder left by other settings is never taken for this one.
    name = f"phantoms_{r.phantom_view}_{r.phantom_patients}x{r.phantom_slices}_{r.img_size}px_seed{seed}"
    folder = options.out / name
    if not folder.exists():
        how = {"diameter_mm": (8.0, 25.0)} if r.phantom_view == "nodule" else {}
        how |= {"view": r.phantom_view, "num_patients": r.phantom_patients, "slices_per_patient": r.phantom_slices}
        write_phantom_folder(folder, size=r.img_size, seed=seed, **how)
    return folder


def draw_volumes(recipe: TrainingRecipe, options: RunOptions) -> Path:
    """As `draw_slices`, phantom volumes."""
    shape, patients, seed = recipe.phantom_shape, recipe.phantom_volumes, options.seed
    folder = options.out / f"phantoms_volume_{patients}x{'x'.join(map(str, shape))}_seed{seed}"
    if not folder.exists():
        how = {"spacing_mm": PHANTOM_SPACING_MM, "num_nodules": 1}  # two would not fit into a small volume
        write_phantom_volumes(folder, num_patients=patients, shape=shape, seed=seed, **how)
    return folder


def fingerprint(folder: Path) -> str:
    """Of the samples' names and their splits, and of the names of lesion classes."""
    text = "\n".join([*(f"{r.id} {r.split}" for r in read_manifest(folder)), *read_classes(folder)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def empty_channels(samples: Dataset, num_classes: int) -> list[int]:
    """Which channels, counted from 0, are empty in every target; reads until each has been seen."""
    missing = list(range(max(1, num_classes)))
    for _, target, _ in samples:
        missing = [k for k in missing if not target[k].any()]
        if not missing:
            break
    return missing


# ---- reading ----------------------------------------------------------------------------------------------------


def read_slices(folder: Path, recipe: TrainingRecipe, seed: int) -> tuple[Dataset, Dataset, Dataset, Dataset, dict]:
    """The sets of `Data`, and its `input`. All slices are resized to img_size x img_size pixels.

    Raises:
        ValueError: if the slices are not all of one HU window: the network would be told nothing of the others.
    """
    windows = sorted({(r.hu_low, r.hu_high) for r in read_manifest(folder)})
    if len(windows) > 1:
        (a, b), (c, d) = windows[:2]
        raise ValueError(
            f"{folder} has slices in the HU window {a:g} to {b:g} and others in {c:g} to {d:g}, so one grey level "
            f"means two things. Export all of them with one window."
        )
    size = recipe.img_size
    train = SliceDataset(folder, "train", size=size, augment=AUGMENTATIONS[recipe.augment], seed=seed)
    plain, val, test = (SliceDataset(folder, split, size=size) for split in ("train", "val", last_split(folder)))
    input_ = {"size": [size, size], "hu_window": list(windows[0]), **scales(folder, train.records, size)}
    return train, plain, val, test, input_


def scales(folder: Path, records: list[ImageRecord], size: int) -> dict[str, Any]:
    """The entries of `input` that `lungseg.scale` explains, but for the size, from the headers of the files.

    A warning if the slices, or those they were made from, have several sizes: then prediction stretches too.
    """
    files = [slice_size(folder, record) for record in records]
    sources = [record.source_size or file for record, file in zip(records, files, strict=True)]
    file, source = commonest(files), commonest(sources)
    stretched = len(set(files)) > 1 or len(set(sources)) > 1
    if stretched:
        warnings.warn(
            f"{folder} has slices of {max(len(set(files)), len(set(sources)))} sizes, all stretched to img_size: "
            f"prediction stretches whole slices likewise.",
            stacklevel=1,  # always this line, so that Python says it once
        )
    recorded = any(record.source_size for record in records) and len(set(files)) == 1
    spacing = median_spacing([r.spacing_mm for r in records])
    if len(set(files)) > 1 and spacing is not None:  # of a file of the commonest size, were it stretched like most
        mm = [[r.spacing_mm * n for n in sides] for r, sides in zip(records, files, strict=True)]  # sides of slices
        spacing = [median_spacing(list(sides)) / n for sides, n in zip(zip(*mm, strict=True), file, strict=True)]
    return {
        "scale": [size / side for side in file],
        "source_scale": [size / side for side in source] if recorded else None,
        "stretched": stretched,
        "spacing_mm": spacing,
    }


def commonest(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    return Counter(sizes).most_common(1)[0][0]


def read_volumes(folder: Path, recipe: TrainingRecipe, seed: int) -> tuple[Dataset, Dataset, Dataset, Dataset, dict]:
    """As `read_slices`: windows of the training volumes, whole volumes of the others."""
    train = CropDataset(
        folder, "train", crop_size=recipe.crop_size, crops_per_volume=recipe.crops_per_volume,
        foreground=recipe.foreground, flips=recipe.augment != "none", seed=seed,
    )  # fmt: skip
    plain, val, test = (VolumeDataset(folder, split) for split in ("train", "val", last_split(folder)))
    spacings = zip(*(plain.spacing_mm(i) for i in range(len(plain))), strict=True)
    spacing = [median_spacing(list(axis)) for axis in spacings]
    input_ = {
        "size": list(recipe.crop_size),
        "scale": [1.0, 1.0, 1.0],
        "hu_window": list(HU_WINDOW),
        "spacing_mm": None if None in spacing else spacing,
    }
    return train, plain, val, test, input_


def last_split(folder: Path) -> str:
    return "test" if any(r.split == "test" for r in read_manifest(folder)) else "val"


def median_spacing(spacings: list[float]) -> float | None:
    """In mm, of those that are known."""
    known = [s for s in spacings if not math.isnan(s)]
    return median(known) if known else None
