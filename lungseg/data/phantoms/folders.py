"""Phantom patients written as a folder of slices or of volumes, split by patient."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.data.ct import hu_to_grey
from lungseg.data.manifest import FRACTIONS, ImageRecord
from lungseg.data.phantoms.scene import phantom_crops, phantom_patient, phantom_volume
from lungseg.data.slices import SliceWriter
from lungseg.data.splits import split_by_group
from lungseg.data.volumes import VolumeWriter

LUNG_MM = (45.0, 85.0), (-20.0, 20.0)  # distance from the middle of the chest to either side, and up or down
TRIES = 20  # to find a view with room for the nodules


def write_phantom_folder(
    folder: str | Path,
    *,
    view: str = "chest",
    num_patients: int = 40,
    slices_per_patient: int = 6,
    size: int = 256,
    seed: int = 0,
    fractions: dict[str, float] = FRACTIONS,
    **phantom_options: Any,
) -> None:
    """Write phantom patients (lungseg.data.phantoms.scene) as a folder, split by patient.

    Patient p is drawn with the generator of (seed, p), so a larger folder begins with the patients of a smaller one.

    Args:
        view: "chest" for whole slices (`phantom_patient`), "nodule" for crops around a nodule (`phantom_crops`).
        num_patients: at least one per split.
        size: side of the slices in pixels.
        fractions: share of the slices in each split.
        phantom_options: passed to the function of the view, e.g. diameter_mm=(3.0, 30.0).
    """
    if view not in ("chest", "nodule"):
        raise ValueError(f'write_phantom_folder: expected view "chest" or "nodule", got {view!r}.')
    patients = [f"phantom{p:04d}" for p in range(num_patients)]
    split_of = dict(zip(patients, split_by_group(patients, fractions, seed=seed), strict=True))
    with SliceWriter(folder) as out:
        for p, patient in enumerate(tqdm(patients, desc="phantoms", unit="patient", disable=None)):
            rng = np.random.default_rng([seed, p])
            if view == "chest":
                stack = phantom_patient(rng, num_slices=slices_per_patient, size=size, **phantom_options)
            else:
                stack = phantom_crops(rng, num=slices_per_patient, size=size, **phantom_options)
            for s in stack:
                label = "+".join(sorted(set(s.kinds))) or "none"
                id_, spacing = f"{patient}_{s.slice_index:02d}", round(s.spacing_mm, 4)
                record = ImageRecord(id_, patient, split_of[patient], label, spacing)
                out.add(record, hu_to_grey(s.hu), s.target)


def write_phantom_volumes(
    folder: str | Path,
    *,
    num_patients: int = 40,
    shape: tuple[int, int, int] = (32, 96, 96),
    spacing_mm: tuple[float, float, float] = (1.5, 1.0, 1.0),
    num_nodules: int = 2,
    diameter_mm: tuple[float, float] = (8.0, 25.0),
    seed: int = 0,
    fractions: dict[str, float] = FRACTIONS,
    **phantom_options: Any,
) -> None:
    """Write phantom patients (lungseg.data.phantoms.scene) as a folder of volumes, split by patient.

    A volume shows a random part of the right or the left lung, unless `centre_mm` is given. Patient p is drawn with the
    generator of (seed, p), so a larger folder begins with the volumes of a smaller one.

    Args:
        num_patients: at least one per split.
        shape: (D, H, W) in voxels.
        spacing_mm: between slices, rows, columns; the last two are equal.
        num_nodules: in each volume.
        diameter_mm: smallest and largest nodule.
        fractions: share of the volumes in each split.
        phantom_options: passed to `phantom_volume`: kinds, centre_mm.
    """
    patients = [f"phantom{p:04d}" for p in range(num_patients)]
    split_of = dict(zip(patients, split_by_group(patients, fractions, seed=seed), strict=True))
    options = {"num_nodules": num_nodules, "diameter_mm": diameter_mm, **phantom_options}
    with VolumeWriter(folder) as out:
        for p, patient in enumerate(tqdm(patients, desc="phantoms", unit="patient", disable=None)):
            rng = np.random.default_rng([seed, p])
            hu, target = draw_volume(rng, shape=shape, spacing_mm=spacing_mm, **options)
            out.add(ImageRecord(patient, patient, split_of[patient], spacing_mm=spacing_mm[1]), hu, target, spacing_mm)


def draw_volume(rng: np.random.Generator, **options: Any) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """`phantom_volume` of a random part of a lung; drawn again if a small view has no room for its nodules."""
    for _ in range(TRIES):
        x, y = rng.choice([-1.0, 1.0]) * rng.uniform(*LUNG_MM[0]), rng.uniform(*LUNG_MM[1])
        try:
            return phantom_volume(rng, **{"centre_mm": (float(x), float(y)), **options})
        except ValueError as error:
            problem = error
    raise problem
