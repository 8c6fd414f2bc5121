"""The slices of a folder of volumes, one by one, for a 2-D network: alone, or with their neighbours as channels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungseg.data.classes import one_hot
from lungseg.data.ct import hu_to_unit
from lungseg.data.neighbours import stack_indices
from lungseg.data.slice_spacing import SliceGrid
from lungseg.data.slices import CACHE_BYTES
from lungseg.data.splits import Fold
from lungseg.data.volume_file import LabelledVolume, check_target
from lungseg.data.volume_lesions import lesions_by_class
from lungseg.data.volumes import VolumeDataset, volume_path


class VolumeSliceDataset(VolumeDataset):
    """All slices of the volumes of one split, as (image, target, id), volume by volume from the feet.

    image is float32 (2n + 1, H, W): the slice, and n neighbours below and above it (`lungseg.data.neighbours`). target
    is float32 (1, H, W) in {0, 1}, or (K, H, W) with K > 1 lesion classes; id is "<volume>:<number of the slice>".
    Slices keep the size of their files. `records` are those of the volumes, so there are more samples than records.

    Args:
        folder, split, fold: as for `VolumeDataset`.
        neighbours: n; 0 shows each slice alone.
    """

    def __init__(self, folder: str | Path, split: str | None = None, *, neighbours: int = 0, fold: Fold | None = None):
        super().__init__(folder, split, fold=fold)
        self.neighbours = neighbours
        self._kept: dict[int, LabelledVolume] = {}
        self._lesions: dict[int, list[list[NDArray]]] = {}  # volume -> for each class in it, the voxels of its lesions
        shapes = [self._open(number).hu.shape for number in range(len(self.records))]
        self.sizes = [shape[1:] for shape in shapes]  # (H, W) of the slices of each volume
        self._starts = np.cumsum([0, *(shape[0] for shape in shapes)])  # of each volume, and the end

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        image, target, id_ = self.pair(range(len(self))[index])  # -1 is the last slice
        return torch.from_numpy(image), torch.from_numpy(one_hot(target, len(self.classes))), id_

    def pair(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], str]:
        """Image (2n + 1, H, W) in [0, 1], target (H, W) in 0..K, id; arrays of one's own."""
        number, z = self._place(index)
        volume = self._open(number)
        target = np.array(volume.target[z], dtype=np.uint8)
        shown = stack_indices(len(volume.hu), self.neighbours)[z]
        try:
            check_target(target, self.classes)
            return hu_to_unit(volume.hu[shown]), target, f"{self.records[number].id}:{z}"
        except ValueError as error:
            raise ValueError(f"{volume_path(self.folder, self.records[number])}: {error}") from None

    def with_lesion(self, index: int, rng: np.random.Generator) -> int:
        """The slice to take if the crop must hold a lesion: one of this volume, through a lesion drawn from all in it.

        First a class of the volume, then one of its lesions, then one of its voxels is drawn. Without a lesion, the
        slice itself.
        """
        number, _ = self._place(index)
        if number not in self._lesions:
            volume = self._open(number)
            as_stored = SliceGrid(len(volume.hu), volume.spacing_mm[0], None)
            self._lesions[number] = lesions_by_class(volume.target, len(self.classes), as_stored)
        if not (classes := self._lesions[number]):
            return index
        lesions = classes[rng.integers(len(classes))]
        voxels = lesions[rng.integers(len(lesions))]  # (n, 3)
        return int(self._starts[number] + voxels[rng.integers(len(voxels)), 0])

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the volume, and of the slice in it."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return number, index - int(self._starts[number])

    def _open(self, number: int) -> LabelledVolume:
        """Kept in memory if the whole data set needs no more than CACHE_BYTES: a compressed file is read as a whole."""
        if number in self._kept:
            return self._kept[number]
        volume = super()._open(number)
        if (volume.hu.nbytes + volume.target.nbytes) * len(self.records) <= CACHE_BYTES:
            volume = replace(volume, hu=np.array(volume.hu), target=np.array(volume.target))
            self._kept[number] = volume
        return volume
