"""The folder of volumes: write it, check it, train on crops of it, judge on whole volumes.

    DIR/volumes/<id>.npz    hu (D, H, W), target (D, H, W) in {0, 1}, spacing_mm (3,)   (or a folder <id>/ of .npy)
    DIR/manifest.csv        id, group, split, label, spacing_mm    as for slices
    DIR/classes.txt         only with several lesion classes: targets then hold 1..K (lungseg.data.classes)

Axes are (slices, rows, columns), everywhere.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lungseg.data.classes import one_hot, read_classes, unused_classes
from lungseg.data.ct import hu_to_unit
from lungseg.data.manifest import FRACTIONS, ImageRecord, find_member, members, parse_manifest, read_split
from lungseg.data.phantoms.scene import phantom_volume
from lungseg.data.plausible import LesionExtent, Tally
from lungseg.data.slices import FolderWriter, told
from lungseg.data.splits import split_by_group
from lungseg.data.volume_file import Volume, check_sums, check_target, check_volume, read_labelled, write_volume

MAX_VOXELS = 2000  # remembered of each lesion: enough places for a crop, and 24 kB however large the lesion
LUNG_MM = (45.0, 85.0), (-20.0, 20.0)  # a phantom's lung: so far to either side of its middle, and up or down
TRIES = 20  # at a view that has room for the nodules


# ---- checking ----------------------------------------------------------------------------------------------------


def volume_path(folder: str | Path, record: ImageRecord) -> Path:
    """DIR/volumes/<id>.npz, or the folder DIR/volumes/<id> where that is there."""
    home = Path(folder, "volumes")
    return home / record.id if (home / record.id).is_dir() else find_member(home, record.id)


def check_volume_folder(folder: str | Path) -> list[str]:
    """One sentence for each thing that is wrong with a folder, and what to do; [] is a sound folder. Reads it all.

    What is odd (`lungseg.data.plausible`) in more than half of it is wrong too; in less, it is a warning.
    """
    folder = Path(folder)
    records, problems = parse_manifest(folder, "volumes")
    try:
        classes, seen = read_classes(folder), set()
    except ValueError as error:  # no target can be judged
        return [*problems, str(error)]
    tally = Tally(folder, "volumes")
    for record in tqdm(records, desc="check", unit="volume", disable=None):  # None: quiet when not on a terminal
        try:
            volume = check_volume(volume_path(folder, record), classes)
        except ValueError as error:
            problems.append(str(error))
            continue
        tally.add(record.id, [], LesionExtent(volume.target))
        tally.add_image(record.id, record.split, volume.hu)
        if len(classes) > 1:
            seen.update(np.unique(volume.target).tolist())
    if not problems:  # else a target that cannot be read may hold it
        problems += [f"{folder}: {sentence}" for sentence in unused_classes(seen, classes)]
    problems += told(tally)
    if records or not problems:
        known = {volume_path(folder, record) for record in records}
        problems += [
            f"{path} has no row in the manifest. Add one, or remove it."
            for path in members(folder / "volumes")
            if path not in known
        ]
    return problems


# ---- writing -----------------------------------------------------------------------------------------------------


class VolumeWriter(FolderWriter):
    """Write a folder of volumes completely or not at all: `with VolumeWriter(folder) as out: out.add(...)`."""

    subfolders = ("volumes",)

    def add(
        self, record: ImageRecord, hu: NDArray, target: NDArray, spacing_mm: ArrayLike, **geometry: ArrayLike
    ) -> None:
        """Write one volume; arguments as for `write_volume`, also those that say where it lies (affine, ...)."""
        self._check(record)
        write_volume(self.path / "volumes" / f"{record.id}.npz", hu, target, spacing_mm, self.classes, **geometry)
        self.records.append(record)


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
    **phantom_options: object,
) -> None:
    """Write phantom patients (lungseg.data.phantoms.scene) as a folder of volumes, split by patient.

    A volume shows some place of the right or the left lung, unless `centre_mm` is given. Patient p is drawn from the
    generator of (seed, p), so a larger folder begins with the volumes of a smaller one.

    Args:
        num_patients: at least one per split.
        shape: (D, H, W) in voxels.
        spacing_mm: between slices, rows, columns; the last two are equal.
        num_nodules: in each volume.
        diameter_mm: smallest and largest nodule.
        fractions: share of the volumes in each split.
        phantom_options: passed on to `phantom_volume`: kinds, centre_mm.
    """
    patients = [f"phantom{p:04d}" for p in range(num_patients)]
    split_of = dict(zip(patients, split_by_group(patients, fractions, seed=seed), strict=True))
    options = {"num_nodules": num_nodules, "diameter_mm": diameter_mm, **phantom_options}
    with VolumeWriter(folder) as out:
        for p, patient in enumerate(tqdm(patients, desc="phantoms", unit="patient", disable=None)):
            rng = np.random.default_rng([seed, p])
            hu, target = draw_volume(rng, shape=shape, spacing_mm=spacing_mm, **options)
            out.add(ImageRecord(patient, patient, split_of[patient], spacing_mm=spacing_mm[1]), hu, target, spacing_mm)


def draw_volume(rng: np.random.Generator, **options: object) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """`phantom_volume` of a place in a lung. Where a small view has no room for its nodules, another is drawn."""
    for _ in range(TRIES):
        x, y = rng.choice([-1.0, 1.0]) * rng.uniform(*LUNG_MM[0]), rng.uniform(*LUNG_MM[1])
        try:
            return phantom_volume(rng, **{"centre_mm": (float(x), float(y)), **options})
        except ValueError as error:
            problem = error
    raise problem


# ---- training and judging ----------------------------------------------------------------------------------------


class VolumeDataset(Dataset):
    """The whole volumes of one split, as (image, target, id).

    image is float32 (1, D, H, W): HU_WINDOW (lungseg.data.ct) mapped to [0, 1]. target is float32 (1, D, H, W) in
    {0, 1}, or (K, D, H, W) of a folder with K > 1 lesion classes, whose names are `classes`. split: "train", "val" or
    "test"; None takes all.

    Raises:
        ValueError: for a bad manifest or an empty split here, and for a bad file when it is read.
    """

    def __init__(self, folder: str | Path, split: str | None = None):
        self.folder = Path(folder)
        self.records, self.classes = read_split(folder, split, "volumes"), read_classes(folder)
        self._whole: set[int] = set()  # what was read whole, and its checksums compared

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        if index not in self._whole:  # the first time: mapped reading passes checksums by
            check_sums(volume_path(self.folder, self.records[index]))
            self._whole.add(index)
        image, target = map(torch.from_numpy, self._cut(index, self._open(index)))
        return image[None], target, self.records[index].id  # (1, D, H, W), (K, D, H, W)

    def spacing_mm(self, number: int) -> tuple[float, float, float]:
        """Of the volume of records[number], between slices, rows, columns; nan = unknown."""
        return self._open(number).spacing_mm

    def _open(self, number: int) -> Volume:
        # Opened anew each time: a map holds its file open, and a system allows only so many open files.
        return read_labelled(volume_path(self.folder, self.records[number]))

    def _cut(
        self, number: int, volume: Volume, box: tuple[slice, ...] = ()
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Image (d, h, w) and target (K, d, h, w) in a box of the volume (() is all), checked as they are read."""
        hu, target = volume.hu[box], volume.target[box]
        try:
            check_target(target, self.classes)
            return hu_to_unit(hu), one_hot(target, len(self.classes))
        except ValueError as error:
            raise ValueError(f"{volume_path(self.folder, self.records[number])}: {error}") from None
        except MemoryError:
            size = " x ".join(map(str, hu.shape))
            raise ValueError(
                f"{volume_path(self.folder, self.records[number])}: {size} voxels need more memory than there is."
            ) from None


class CropDataset(VolumeDataset):
    """Crops of the volumes of one split, as (image, target, id), `crops_per_volume` of each in every epoch.

    image is float32 (1, d, h, w), target (1, d, h, w) or (K, d, h, w), as in `VolumeDataset`; id is "<volume>:<number
    of the crop>". Of an uncompressed file only the parts that the crop touches are read. A volume smaller than the
    crop is filled up at the far ends: with 0 in both, which is air and no lesion.

    Args:
        crop_size: (d, h, w) in voxels.
        foreground: the share of the crops that must hold a lesion voxel, where the volume has a lesion: first a
            lesion is drawn, then one of its voxels, then a crop round it. Were it a voxel out of all, a lesion of
            twice the diameter would be seen eight times as often. The other crops lie anywhere. Of several classes,
            first one of those in the volume is drawn, then a lesion of it: rare ones are seen as often as common ones.
        flips: turn each axis round with probability 1/2.
        seed: with the epoch and the index it decides each crop, so that neither the number of workers nor the order
            of reading changes what is drawn.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        *,
        crop_size: tuple[int, int, int],
        crops_per_volume: int,
        foreground: float = 0.5,
        flips: bool = False,
        seed: int = 0,
    ):
        super().__init__(folder, split)
        if len(crop_size) != 3 or min(crop_size) < 1 or crops_per_volume < 1 or not 0 <= foreground <= 1:
            raise ValueError(
                f"CropDataset: crop_size {tuple(crop_size)}, crops_per_volume {crops_per_volume}, foreground "
                f"{foreground}: three sides and a number of at least 1, and a probability, are wanted."
            )
        self.crop_size, self.crops_per_volume = tuple(crop_size), crops_per_volume
        self.foreground, self.flips, self.seed = foreground, flips, seed
        # In shared memory, so that set_epoch also reaches worker processes that live through all epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._lesions: dict[int, list[list[NDArray]]] = {}  # of each volume, of each class in it

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins: other crops are drawn in each."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records) * self.crops_per_volume

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        index = range(len(self))[index]  # -1 is the last crop; beyond the end is an IndexError
        number, crop = divmod(index, self.crops_per_volume)
        volume = self._open(number)
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        start = self._place(number, volume, rng)
        box = tuple(slice(s, s + side) for s, side in zip(start, self.crop_size, strict=True))
        image, target = self._cut(number, volume, box)
        cut = np.concatenate([image[None], target])  # (1 + K, d, h, w), or less at the end of a small volume
        missing = np.subtract(self.crop_size, cut.shape[1:])
        pair = np.pad(cut, [(0, 0), *((0, n) for n in missing)])  # (1 + K, d, h, w)
        if self.flips:
            pair = np.flip(pair, 1 + np.flatnonzero(rng.random(3) < 0.5)).copy()
        image, target = torch.from_numpy(pair).tensor_split([1])
        return image, target, f"{self.records[number].id}:{crop}"  # (1, d, h, w), (K, d, h, w)

    def _place(self, number: int, volume: Volume, rng: np.random.Generator) -> NDArray:
        """(3,) the first voxel of a crop."""
        last = np.maximum(np.subtract(volume.hu.shape, self.crop_size), 0)  # the last place where a crop may begin
        if rng.random() < self.foreground:
            if number not in self._lesions:
                several = len(self.classes) > 1
                maps = [volume.target == k + 1 for k in range(len(self.classes))] if several else [volume.target]
                self._lesions[number] = [lesions for lesions in map(find_lesions, maps) if lesions]
            if classes := self._lesions[number]:
                lesions = classes[rng.integers(len(classes))] if len(classes) > 1 else classes[0]
                lesion = lesions[rng.integers(len(lesions))]
                voxel = lesion[rng.integers(len(lesion))]
                first = np.maximum(voxel + 1 - self.crop_size, 0)
                return rng.integers(first, np.minimum(voxel, last), endpoint=True)
        return rng.integers(0, last, endpoint=True)


def find_lesions(target: NDArray) -> list[NDArray[np.int32]]:
    """(n, 3) voxels of each connected lesion (touching at a corner is touching), of large ones every k-th."""
    voxels = np.argwhere(target)  # (n, 3)
    if not len(voxels):
        return []
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    cut = target[tuple(map(slice, low, high))]  # labels need four bytes a voxel: only where there are lesions
    labels, _ = ndimage.label(cut, structure=np.ones((3, 3, 3)))
    lesion_of = labels[tuple((voxels - low).T)]  # (n,), 1 .. count
    order = np.argsort(lesion_of, kind="stable")
    lesions = np.split(voxels[order].astype(np.int32), np.cumsum(np.bincount(lesion_of)[1:-1]))
    return [lesion[:: -(-len(lesion) // MAX_VOXELS)] for lesion in lesions]
