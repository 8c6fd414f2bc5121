"""Training samples out of slices: crops at the resolution of the files, of which a share holds a lesion.

Resizing a slice of 512 pixels to 256 halves every lesion, and a nodule of 4 mm is then 3 pixels wide. A crop keeps
them, and costs no more than its own pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lungseg.data.augment import Augmentation
from lungseg.data.classes import one_hot
from lungseg.data.manifest import ImageRecord


class Slices(Protocol):
    """What crops are cut from: `SliceDataset` and `VolumeSliceDataset` are such data sets."""

    folder: Path
    records: list[ImageRecord]
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def pair(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], str]:
        """Image (C, H, W) in [0, 1], target (H, W) in 0..K, id."""
        ...

    def with_lesion(self, index: int, rng: np.random.Generator) -> int:
        """The slice to take in place of this one if the crop must hold a lesion."""
        ...


class SliceCrops(Dataset):
    """Augmented crops of slices, as (image, target, id), `crops_per_slice` of each slice in every epoch.

    image is float32 (C, side, side), target (1, side, side) or (K, side, side); id is "<slice>:<number of the crop>".
    A crop is cut out of the slice as it is after rotation and elastic deformation, so that these bring no border into
    it: only pixels that are needed are computed, once, from the pixels of the file. Beyond the slice there is air.

    Args:
        source: the slices, at the size of their files, without augmentation. They may differ in size.
        crop_size: side of the square in pixels; a smaller slice is padded with air at the bottom and on the right.
            None augments whole slices.
        foreground: the share of crops that must hold a lesion pixel, if the slice (of a folder of volumes: the volume)
            has a lesion. With several classes first a class is drawn, then a lesion of it, then one of its pixels.
        augment: the variations; its own crop_size and crop_foreground are replaced.
        seed: with the epoch and the index it decides each crop, so that neither the number of workers nor the order
            of reading changes what is drawn.
    """

    def __init__(
        self,
        source: Slices,
        *,
        crop_size: int | None,
        crops_per_slice: int = 1,
        foreground: float = 0.5,
        augment: Augmentation,
        seed: int = 0,
    ):
        if (crop_size is not None and crop_size < 1) or crops_per_slice < 1 or not 0 <= foreground <= 1:
            raise ValueError(
                f"SliceCrops: expected crop_size and crops_per_slice of at least 1 and foreground from 0 to 1, got "
                f"{crop_size}, {crops_per_slice} and {foreground}."
            )
        self.source, self.crop_size, self.crops_per_slice, self.seed = source, crop_size, crops_per_slice, seed
        self.foreground = foreground if crop_size else 0.0
        self.anywhere = replace(augment, crop_size=crop_size, crop_foreground=0.0)
        self.on_lesion = replace(self.anywhere, crop_foreground=1.0) if crop_size else self.anywhere
        # In shared memory, so that set_epoch also reaches worker processes that persist over epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def folder(self) -> Path:
        return self.source.folder

    @property
    def records(self) -> Sequence[ImageRecord]:
        return self.source.records

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: other crops are drawn in each."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.source) * self.crops_per_slice

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        index = range(len(self))[index]  # -1 is the last crop; beyond the end is an IndexError
        number, crop = divmod(index, self.crops_per_slice)
        rng = np.random.default_rng([self.seed, int(self._epoch), index])
        wanted = rng.random() < self.foreground
        if wanted:
            number = self.source.with_lesion(number, rng)
        image, target, id_ = self.source.pair(number)  # (C, H, W), (H, W)
        short = [(0, max(0, (self.crop_size or 0) - side)) for side in target.shape]
        image, target = np.pad(image, [(0, 0), *short]), np.pad(target, short)
        image, target = (self.on_lesion if wanted else self.anywhere)(image, target, rng)
        return torch.from_numpy(image), torch.from_numpy(one_hot(target, len(self.classes))), f"{id_}:{crop}"
