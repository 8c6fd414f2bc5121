"""The data of "Whole slices" in docs/results.md: slices to test on, and nodule-free windows to learn from.

    python docs/benchmarks/whole_slices.py slices  LIDC-IDRI-0002.npz                          OUT
    python docs/benchmarks/whole_slices.py windows LIDC-IDRI-0001.npz NODULE_WINDOWS            OUT
    python docs/benchmarks/whole_slices.py phantom_crops            NODULE_WINDOWS            OUT
    python docs/benchmarks/whole_slices.py hard_windows LIDC-IDRI-0001.npz CHECKPOINT NODULE_WINDOWS OUT

The first writes whole slices as a folder with the split "test". The others copy a folder of nodule windows and add
training windows that hold no nodule: cut from slices in which no radiologist saw one there, or from phantoms; the last
cuts half of them round what a trained network takes for a nodule there, and is none.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from lungseg.data.ct import hu_to_grey
from lungseg.data.manifest import ImageRecord, read_manifest
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.data.slices import FolderWriter, read_slice
from lungseg.predictor import load_predictor

SIDE = 64  # of a window in pixels, as those with nodules have it
NUM = 1000  # nodule-free windows
READERS = 2  # a pixel is lesion where at least so many radiologists outlined it


def main(what: str, *paths: str) -> int:
    *sources, out = map(Path, paths)
    if what == "slices":
        write_slices(sources[0], out)
        return 0
    if what == "phantom_crops":
        rng = np.random.default_rng(0)
        slices = [s for _ in range(10) for s in phantom_patient(rng, num_slices=2, size=512, nodule_free=1.0)]
        hu, seen = np.stack([s.hu for s in slices]), np.stack([s.target > 0 for s in slices])
        write_windows(sources[-1], out, "phantoms", hu, seen, slices[0].spacing_mm)
        return 0
    patient = np.load(sources[0], allow_pickle=False)
    hu, seen = patient["hu"], patient["votes"] > 0
    wrong = false_finds(sources[1], hu, seen) if what == "hard_windows" else None
    write_windows(sources[-1], out, str(patient["patient"]), hu, seen, patient_spacing(patient), wrong)
    return 0


def false_finds(checkpoint: Path, hu: NDArray, seen: NDArray) -> NDArray:
    """(n, 3) slice, row and column of the middle of each find of a trained network that lies on nothing seen."""
    predictor, places = load_predictor(checkpoint), []
    for index in tqdm(range(len(hu)), desc="false finds", disable=None):
        finds, num = ndimage.label(predictor.probs(predictor.grey(hu[index])) > 0.5, np.ones((3, 3)))
        true = set(np.unique(finds[seen[index]]))
        middles = ndimage.center_of_mass(finds > 0, finds, range(1, num + 1))
        places += [(index, *middle) for number, middle in enumerate(middles, start=1) if number not in true]
    return np.array(places).round().astype(int)


def patient_spacing(patient: np.lib.npyio.NpzFile) -> float:
    return float(patient["pixel_spacing_mm"][0])


def write_slices(source: Path, out: Path) -> None:
    patient = np.load(source, allow_pickle=False)
    name = str(patient["patient"])
    with FolderWriter(out) as folder:
        for i, (hu, votes) in enumerate(zip(patient["hu"], patient["votes"], strict=True)):
            record = ImageRecord(f"{name}_{i:02d}", name, "test", spacing_mm=patient_spacing(patient))
            folder.add(record, hu_to_grey(hu), (votes >= READERS).astype(np.uint8))


def write_windows(
    nodules: Path, out: Path, group: str, hu: NDArray, seen: NDArray, spacing_mm: float, wrong: NDArray | None = None
) -> None:
    """Nodule windows as they are, and NUM windows of `hu` (n, H, W) without a pixel of `seen`, half at `wrong`."""
    rng = np.random.default_rng(0)
    with FolderWriter(out) as folder:
        for record in tqdm(read_manifest(nodules), desc="copy", disable=None):
            folder.add(record, *read_slice(nodules, record))
        for number in range(NUM):
            index, place = number % len(hu), None
            if wrong is not None and number % 4 < 2:
                index, *place = wrong[rng.integers(len(wrong))]
                place = place + rng.integers(-SIDE // 3, SIDE // 3, 2)  # anywhere in the window, as the nodules are
            row, col = nodule_free_place(hu[index], seen[index], rng, in_lung=number % 2 == 0, place=place)
            window = hu[index, row : row + SIDE, col : col + SIDE]
            record = ImageRecord(f"free_{number:04d}", group, "train", spacing_mm=spacing_mm)
            folder.add(record, hu_to_grey(window), np.zeros(window.shape, np.uint8))


def nodule_free_place(
    hu: NDArray, seen: NDArray, rng: np.random.Generator, *, in_lung: bool, place: NDArray | None = None
) -> tuple[int, int]:
    """The first row and column of a window: round a place; else centred on air inside the body, or anywhere in it."""
    body = ndimage.binary_fill_holes(ndimage.binary_opening(hu > -400, iterations=4))  # (H, W); the table is thinner
    places = np.argwhere(body & (hu < -500) if in_lung else body)
    while True:
        centre = places[rng.integers(len(places))] if place is None else place
        row, col = np.clip(centre - SIDE // 2, 0, np.subtract(hu.shape, SIDE))
        if not seen[row : row + SIDE, col : col + SIDE].any():
            return int(row), int(col)
        place = None  # a nodule is near: take another one


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
