"""What every data set of ours offers to training, evaluation and drawing: images with targets, and their records."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lungseg.data.manifest import ImageRecord


class Samples(Protocol):
    """Images with their targets, one per index: `SliceDataset`, `VolumeDataset`, `CropDataset` and others.

    Attributes:
        folder: the folder they are read from.
        records: their rows of the manifest. (Data sets of crops have several samples per record.)
        classes: names of the lesion classes; () in a binary folder without names.
    """

    @property
    def folder(self) -> Path: ...

    @property
    def records(self) -> Sequence[ImageRecord]: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]: ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        """Image (C, *spatial) float32 in [0, 1] (C is 1 without neighbours), target (K, *spatial) in {0, 1}, id."""
        ...


def shown(samples: Samples) -> Samples:
    """The samples with the images that the network is shown: others than its own, if a data set has an entry `shown`.

    Targets are the same. (`lungseg.data.resampled_volumes` shows other slices than those that are judged.)
    """
    return getattr(samples, "shown", samples)
