"""The folder of volumes: check it, write it, train on crops of it, evaluate on whole volumes.

    DIR/volumes/<id>.npz    hu (D, H, W), target (D, H, W) in {0, 1}, spacing_mm (3,)   (or a folder <id>/ of .npy)
    DIR/manifest.csv        id, group, split, label, spacing_mm    as for slices
    DIR/classes.txt         only with several lesion classes: targets then hold 1..K (lungseg.data.classes)

Axes are (slices, rows, columns), everywhere.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lungseg.data.augment import Augmentation, change_grey
from lungseg.data.classes import one_hot, read_classes, unused_classes
from lungseg.data.ct import hu_to_unit
from lungseg.data.folder_files import find_member, members
from lungseg.data.manifest import ImageRecord, parse_manifest, read_split
from lungseg.data.manifest_writer import ManifestWriter
from lungseg.data.plausible import LesionExtent, Tally
from lungseg.data.readers import count_readers_of_volumes, vote_share
from lungseg.data.slice_spacing import SliceGrid
from lungseg.data.slices import tally_problems
from lungseg.data.splits import Fold
from lungseg.data.volume_augment import box_around, plane_coordinates, sample_slices
from lungseg.data.volume_file import LabelledVolume, check_sums, check_target, check_volume, read_labelled, write_volume
from lungseg.data.volume_lesions import find_lesions as find_lesions, lesions_by_class

# ---- checking ----------------------------------------------------------------------------------------------------


def volume_path(folder: str | Path, record: ImageRecord) -> Path:
    """DIR/volumes/<id>.npz, or the folder DIR/volumes/<id> if it exists."""
    home = Path(folder, "volumes")
    return home / record.id if (home / record.id).is_dir() else find_member(home, record.id)


def check_volume_folder(folder: str | Path) -> list[str]:
    """The problems of a folder, each a sentence with what to do; [] if there are none. Reads every file.

    What is implausible (`lungseg.data.plausible`) in more than half of the volumes is a problem too; in fewer, a
    warning.
    """
    folder = Path(folder)
    records, problems = parse_manifest(folder, "volumes")
    try:
        classes, seen = read_classes(folder), set()
    except ValueError as error:  # then no target can be checked
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
    if not problems:  # a target that cannot be read may hold the missing class
        problems += [f"{folder}: {sentence}" for sentence in unused_classes(seen, classes)]
    problems += tally_problems(tally)
    if records or not problems:
        known = {volume_path(folder, record) for record in records}
        problems += [
            f"{path} has no row in the manifest. Add one, or remove it."
            for path in members(folder / "volumes")
            if path not in known
        ]
    return problems


# ---- writing -----------------------------------------------------------------------------------------------------


class VolumeWriter(ManifestWriter):
    """Write a folder of volumes completely or not at all: `with VolumeWriter(folder) as out: out.add(...)`."""

    subfolders = ("volumes",)

    def add(
        self, record: ImageRecord, hu: NDArray, target: NDArray, spacing_mm: ArrayLike, **geometry: ArrayLike
    ) -> None:
        """Write one volume; arguments as for `write_volume`, including its position (affine, ...)."""
        self.check(record)
        write_volume(self.path / "volumes" / f"{record.id}.npz", hu, target, spacing_mm, self.classes, **geometry)
        self.records.append(record)


# ---- training and evaluation ----------------------------------------------------------------------------------------


class VolumeDataset(Dataset):
    """The whole volumes of one split, as (image, target, id).

    image is float32 (1, D, H, W): HU_WINDOW (lungseg.data.ct) mapped to [0, 1]. target is float32 (1, D, H, W) in
    {0, 1}, or (K, D, H, W) if the folder has K > 1 lesion classes, named in `classes`. split: "train", "val" or "test";
    None takes all. fold: of a cross-validation, which replaces the splits "train" and "val" of the manifest.

    Raises:
        ValueError: for a bad manifest or an empty split here, and for a bad file when it is read.
    """

    def __init__(self, folder: str | Path, split: str | None = None, *, fold: Fold | None = None):
        self.folder = Path(folder)
        self.records, self.classes = read_split(folder, split, "volumes", fold), read_classes(folder)
        self._verified: set[int] = set()  # those whose checksums have been compared
        self._readers: dict[str, int] | None = None  # id -> number of readers, if targets are soft

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        if index not in self._verified:  # the first time: mapped reading does not compare checksums
            check_sums(volume_path(self.folder, self.records[index]))
            self._verified.add(index)
        image, target = map(torch.from_numpy, self._read_box(index, self._open(index)))
        return image[None], target, self.records[index].id  # (1, D, H, W), (K, D, H, W)

    def spacing_mm(self, number: int) -> tuple[float, float, float]:
        """The spacing of the volume of records[number] between slices, rows, columns; NaN is unknown."""
        return self._open(number).spacing_mm

    def votes(self, number: int) -> NDArray | None:
        """How many readers outlined each voxel (D, H, W) of a volume, mapped; None if its file does not say it.

        Raises:
            ValueError: if they have another shape than the HU.
        """
        volume = self._open(number)
        if volume.votes is not None and volume.votes.shape != volume.hu.shape:
            raise ValueError(
                f"{volume_path(self.folder, self.records[number])}: votes of shape {volume.votes.shape}, expected that "
                f"of hu, {volume.hu.shape}. Correct them, or leave them out of the file."
            )
        return volume.votes

    def _open(self, number: int) -> LabelledVolume:
        # Opened again each time: a memory map keeps its file open, and the number of open files is limited.
        return read_labelled(volume_path(self.folder, self.records[number]))

    def _read_box(
        self, number: int, volume: LabelledVolume, box: tuple[slice, ...] = ()
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Image (d, h, w) and target (K, d, h, w) in a box of the volume (() is all of it), checked while reading."""
        hu, target = volume.hu[box], volume.target[box]
        try:
            check_target(target, self.classes)
            if self._readers is not None and volume.votes is not None:
                share = vote_share(volume.votes[box], self._readers[self.records[number].id])
                return hu_to_unit(hu), share[None]
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
    of the crop>". Of an uncompressed file only the parts in the crop are read. A volume smaller than the crop is
    padded at the far ends with 0 in both, which is air and no lesion. Each axis is resampled at most once: with
    `augment` rows and columns, with `slice_mm` slices. Around a crop that is turned as much of the volume is read as it
    needs, so that only what lies beyond the volume is air.

    Args:
        crop_size: (d, h, w) in voxels.
        foreground: the share of crops that must hold a lesion voxel, if the volume has a lesion: first a lesion is
            drawn, then one of its voxels, then a crop around it. (If a voxel were drawn from all lesions, a lesion of
            twice the diameter would be seen eight times as often.) The other crops are anywhere. With several classes,
            first one of those in the volume is drawn, then a lesion of it: rare classes are seen as often as common
            ones.
        flips: reverse each axis with probability 1/2.
        augment: rotation about the slice axis, scale and elastic deformation in the plane of the slices, grey values
            (`lungseg.data.augment`; its own flips and crops are not used). None leaves voxels as they are.
        slice_mm: resample to slices this far apart (`lungseg.data.slice_spacing`); crop_size counts these slices. None
            leaves them as they are.
        seed: with the epoch and the index it decides each crop, so that neither the number of workers nor the order
            of reading changes what is drawn.
        soft: take as target, in [0, 1], the share of the readers who outlined each voxel (lungseg.data.readers).
        fold: as of `VolumeDataset`.
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
        augment: Augmentation | None = None,
        slice_mm: float | None = None,
        seed: int = 0,
        soft: bool = False,
        fold: Fold | None = None,
    ):
        super().__init__(folder, split, fold=fold)
        if len(crop_size) != 3 or min(crop_size) < 1 or crops_per_volume < 1 or not 0 <= foreground <= 1:
            raise ValueError(
                f"CropDataset: expected crop_size with three sides of at least 1, crops_per_volume of at least 1 and "
                f"foreground from 0 to 1, got {tuple(crop_size)}, {crops_per_volume} and {foreground}."
            )
        self.crop_size, self.crops_per_volume = crop_size, crops_per_volume
        self.foreground, self.flips, self.augment, self.seed = foreground, flips, augment, seed
        self.slice_mm = slice_mm
        # In shared memory, so that set_epoch also reaches worker processes that persist over epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        if soft:
            opened = ((record, self._open(number)) for number, record in enumerate(self.records))
            self._readers = count_readers_of_volumes(self.folder, opened, self.classes)
        self._lesions: dict[int, list[list[NDArray]]] = {}  # volume -> for each class in it, the voxels of its lesions

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: other crops are drawn in each."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records) * self.crops_per_volume

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        index = range(len(self))[index]  # -1 is the last crop; beyond the end is an IndexError
        number, crop = divmod(index, self.crops_per_volume)
        volume = self._open(number)
        grid = SliceGrid(len(volume.hu), volume.spacing_mm[0], self.slice_mm)
        decides = [self.seed, int(self._epoch), index]
        rng = np.random.default_rng(decides)
        start, voxel = self._draw_place(number, volume, grid, rng)
        depth, rows, cols = (slice(s, s + side) for s, side in zip(start, self.crop_size, strict=True))
        if self.augment is None:
            image, target = self._read_slices(number, volume, grid, depth, (rows, cols))
        else:  # with a generator of its own, so that places and flips stay the same
            draw = self.augment.draw(np.random.default_rng([*decides, 1]))
            place = plane_coordinates(self.augment, draw, start[1:], self.crop_size[1:], voxel)  # (2, h, w)
            box = box_around(place, volume.hu.shape[1:])
            image, target = self._read_slices(number, volume, grid, depth, box)
            place -= np.array([[[box[0].start]], [[box[1].start]]], np.float32)
            image = change_grey(sample_slices(image, place, order=1), draw)
            order = int(self._readers is not None)  # between shares of readers one may interpolate
            target = np.stack([sample_slices(of_class, place, order=order) for of_class in target])
        cut = np.concatenate([image[None], target])  # (1 + K, d, h, w), or less at the end of a small volume
        missing = np.subtract(self.crop_size, cut.shape[1:])
        pair = np.pad(cut, [(0, 0), *((0, n) for n in missing)])  # (1 + K, d, h, w)
        if self.flips:
            axes = 1 + np.flatnonzero(rng.random(3) < 0.5)
            pair = np.flip(pair, tuple(axes.tolist())).copy()
        channels = torch.from_numpy(pair)  # (1 + K, d, h, w)
        return channels[:1], channels[1:], f"{self.records[number].id}:{crop}"  # (1, d, h, w), (K, d, h, w)

    def _read_slices(
        self, number: int, volume: LabelledVolume, grid: SliceGrid, depth: slice, plane: tuple[slice, slice]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Image (d, h, w) and target (K, d, h, w) of some resampled slices, in a box (rows, columns) of their plane."""
        image, target = self._read_box(number, volume, (grid.needed(depth), *plane))
        soft = self._readers is not None
        return grid.image(image, depth), grid.target(target, depth, soft=soft)

    def _draw_place(
        self, number: int, volume: LabelledVolume, grid: SliceGrid, rng: np.random.Generator
    ) -> tuple[NDArray, NDArray | None]:
        """(3,) the first voxel of a random crop, and the lesion voxel that was drawn, if any; in slices of the grid."""
        last = np.maximum(np.subtract((grid.depth, *volume.hu.shape[1:]), self.crop_size), 0)  # where it may begin
        if rng.random() < self.foreground:
            if number not in self._lesions:
                self._lesions[number] = lesions_by_class(volume.target, len(self.classes), grid)
            if classes := self._lesions[number]:
                lesions = classes[rng.integers(len(classes))] if len(classes) > 1 else classes[0]
                lesion = lesions[rng.integers(len(lesions))]
                voxel = lesion[rng.integers(len(lesion))]
                first = np.maximum(voxel + 1 - self.crop_size, 0)
                return rng.integers(first, np.minimum(voxel, last), endpoint=True), voxel
        return rng.integers(0, last, endpoint=True), None


PatchDataset = CropDataset  # the name that MONAI and others use; a patch is a token's square in our networks
