"""The data of "Whole slices" in docs/results.md: slices to test on, and nodule-free crops to learn from.

    python docs/benchmarks/whole_slices.py slices  LIDC-IDRI-0002.npz                       OUT
    python docs/benchmarks/whole_slices.py crops   LIDC-IDRI-0001.npz NODULE_CROPS          OUT
    python docs/benchmarks/whole_slices.py phantom_crops              NODULE_CROPS          OUT
    python docs/benchmarks/whole_slices.py hard_crops LIDC-IDRI-0001.npz CHECKPOINT NODULE_CROPS OUT

The first writes whole slices as a folder with the split "test". The others copy a folder of nodule crops and add
training crops without a nodule: cut from slices where no radiologist saw one, or from phantoms. The last cuts half of
them around false positives of a trained network.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.data.ct import hu_to_grey
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.data.slices import SliceWriter, read_slice
from lungseg.mining import body_mask, false_positives
from lungseg.predictor import load_predictor

SIDE = 64  # of a crop in pixels, as of the crops with nodules
NUM = 1000  # nodule-free crops
READERS = 2  # a pixel is lesion where at least this many radiologists outlined it


def main(what: str, *paths: str) -> int:
    *sources, out = map(Path, paths)
    if what == "slices":
        write_slices(sources[0], out)
        return 0
    if what == "phantom_crops":
        rng = np.random.default_rng(0)
        slices = [s for _ in range(10) for s in phantom_patient(rng, num_slices=2, size=512, nodule_free=1.0)]
        hu, seen = np.stack([s.hu for s in slices]), np.stack([s.target > 0 for s in slices])
        write_crops(sources[-1], out, "phantoms", hu, seen, slices[0].spacing_mm)
        return 0
    patient = np.load(sources[0], allow_pickle=False)
    hu, seen = patient["hu"], patient["votes"] > 0
    wrong = false_detections(sources[1], hu, seen) if what == "hard_crops" else None
    write_crops(sources[-1], out, str(patient["patient"]), hu, seen, patient_spacing(patient), wrong)
    return 0


def false_detections(checkpoint: Path, hu: NDArray, seen: NDArray) -> NDArray:
    """(n, 3) slice, row and column of the middle of each detection of a trained network on nothing that was seen."""
    predictor, places = load_predictor(checkpoint), []
    for index in tqdm(range(len(hu)), desc="false detections", disable=None):
        probs = predictor.probs(predictor.grey(hu[index]))
        places += [(index, row, col) for row, col, _ in false_positives(probs, seen[index])]
    return np.array(places).round().astype(int)


def patient_spacing(patient: np.lib.npyio.NpzFile) -> float:
    return float(patient["pixel_spacing_mm"][0])


def write_slices(source: Path, out: Path) -> None:
    patient = np.load(source, allow_pickle=False)
    name = str(patient["patient"])
    with SliceWriter(out) as folder:
        for i, (hu, votes) in enumerate(zip(patient["hu"], patient["votes"], strict=True)):
            record = ImageRecord(f"{name}_{i:02d}", name, "test", spacing_mm=patient_spacing(patient))
            folder.add(record, hu_to_grey(hu), (votes >= READERS).astype(np.uint8))


def write_crops(
    nodules: Path, out: Path, group: str, hu: NDArray, seen: NDArray, spacing_mm: float, wrong: NDArray | None = None
) -> None:
    """Nodule crops as they are, and NUM crops of `hu` (n, H, W) without a pixel of `seen`, half at `wrong`."""
    rng = np.random.default_rng(0)
    with SliceWriter(out) as folder:
        for record in tqdm(read_manifest(nodules), desc="copy", disable=None):
            folder.add(record, *read_slice(nodules, record))
        for number in range(NUM):
            index, place = number % len(hu), None
            if wrong is not None and number % 4 < 2:
                index, *place = wrong[rng.integers(len(wrong))]
                place = place + rng.integers(-SIDE // 3, SIDE // 3, 2)  # anywhere in the crop, as the nodules are
            row, col = nodule_free_place(hu[index], seen[index], rng, in_lung=number % 2 == 0, place=place)
            crop = hu[index, row : row + SIDE, col : col + SIDE]
            record = ImageRecord(f"free_{number:04d}", group, "train", spacing_mm=spacing_mm)
            folder.add(record, hu_to_grey(crop), np.zeros(crop.shape, np.uint8))


def nodule_free_place(
    hu: NDArray, seen: NDArray, rng: np.random.Generator, *, in_lung: bool, place: NDArray | None = None
) -> tuple[int, int]:
    """The first row and column of a crop: around a place; else centred on air inside the body, or anywhere in it."""
    body = body_mask(hu)  # (H, W)
    places = np.argwhere(body & (hu < -500) if in_lung else body)
    while True:
        centre = places[rng.integers(len(places))] if place is None else place
        row, col = np.clip(centre - SIDE // 2, 0, np.subtract(hu.shape, SIDE))
        if not seen[row : row + SIDE, col : col + SIDE].any():
            return int(row), int(col)
        place = None  # a nodule is near: take another one


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
