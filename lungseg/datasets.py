"""The slices of a run: the user's folder once it is known to be good, or phantoms in the run's own folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lungseg.data.augment import Augmentation
from lungseg.data.folder import SliceDataset, check_folder, write_phantom_folder
from lungseg.data.manifest import read_manifest

AUGMENTATIONS = {
    "none": None,
    "flips": Augmentation(rotation=0, elastic_probability=0, brightness=0, contrast=0),
    "full": Augmentation(),
}


@dataclass(frozen=True)
class Phantoms:
    """What to draw where there is no data."""

    view: Literal["chest", "nodule"]  # whole slices, or windows of 0.7 mm pixels round a nodule of 8 to 25 mm
    patients: int
    slices: int  # of each patient
    size: int  # pixels along each side
    seed: int

    def write(self, folder: Path) -> None:
        """A folder of slices, split by patient."""
        options = {"diameter_mm": (8.0, 25.0)} if self.view == "nodule" else {}
        write_phantom_folder(
            folder,
            view=self.view,
            num_patients=self.patients,
            slices_per_patient=self.slices,
            size=self.size,
            seed=self.seed,
            **options,
        )


def find_data(data: Path | None, out: Path, phantoms: Phantoms) -> Path:
    """The folder to train on: `data` if given, else one with phantoms in the folder of the run, drawn if need be.

    Raises:
        ValueError: the first thing that is wrong with `data`, in one sentence.
    """
    if data is not None:
        problems = check_folder(data)
        if not problems:
            splits = {record.split for record in read_manifest(data)}
            if not {"train", "val"} <= splits:
                problems = [f"{data} has only the splits {', '.join(sorted(splits))}. Training needs train and val."]
        if problems:
            more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
            raise ValueError(problems[0] + more)
        return data
    p = phantoms
    # All that decides what is drawn is in the name: a folder left by other settings is never taken for this one.
    folder = out / f"phantoms_{p.view}_{p.patients}x{p.slices}_{p.size}px_seed{p.seed}"
    if not folder.exists():
        phantoms.write(folder)
    return folder


def fingerprint(data: Path) -> str:
    """Of the slices' names and their splits: a run must go on with the slices it began with."""
    text = "\n".join(f"{r.id} {r.split}" for r in read_manifest(data))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_data(data: Path, size: int, augment: str, seed: int) -> tuple[SliceDataset, SliceDataset, SliceDataset]:
    """Training slices, augmented; validation and test slices as they are. Without a test split, validation is both.

    Args:
        size: all slices are resized to size x size pixels.
        augment: a name in AUGMENTATIONS, for the training slices only.
    """
    train = SliceDataset(data, "train", size=size, augment=AUGMENTATIONS[augment], seed=seed)
    val = SliceDataset(data, "val", size=size)
    has_test = any(r.split == "test" for r in read_manifest(data))
    return train, val, SliceDataset(data, "test", size=size) if has_test else val
