"""Whole volumes for a network that was trained on resampled slices: what it is shown, and what it is judged by."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungseg.data.samples import Samples
from lungseg.data.slice_spacing import resample_slices, resampled_depth
from lungseg.data.volumes import VolumeDataset


class ResampledVolumes(VolumeDataset):
    """The whole volumes of one split as in their files, as `VolumeDataset`; and `shown`, what the network is shown.

    Args:
        slice_mm: between the slices that the network is shown.
        options: as for `VolumeDataset`.

    Raises:
        ValueError: if a volume does not state the distance between its slices.
    """

    def __init__(self, folder: str | Path, split: str | None = None, *, slice_mm: float, **options: Any):
        super().__init__(folder, split, **options)
        self.slice_mm = slice_mm
        for number, record in enumerate(self.records):
            if not self.spacing_mm(number)[0] > 0:  # NaN is unknown
                raise ValueError(
                    f"{folder}: volume {record.id} does not state the distance between its slices, so it cannot be "
                    f"resampled to {slice_mm:g} mm. Add spacing_mm to its file, or leave out --slice-mm."
                )

    def slices_shown(self, index: int) -> float:
        """How many slices the network is shown for each slice of the file; not necessarily a whole number."""
        return self.spacing_mm(index)[0] / self.slice_mm

    @property
    def shown(self) -> Samples:
        """(image (1, d, H, W) with slices `slice_mm` apart, target (K, D, H, W) as in the file, id)."""
        return _Shown(self)


class _Shown:
    def __init__(self, volumes: ResampledVolumes):
        self.volumes = volumes
        self.folder, self.records, self.classes = volumes.folder, volumes.records, volumes.classes

    def __len__(self) -> int:
        return len(self.volumes)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        image, target, id_ = self.volumes[index]
        depth = resampled_depth(image.shape[1], self.volumes.spacing_mm(index)[0], self.volumes.slice_mm)
        return torch.from_numpy(resample_slices(image[0].numpy(), depth))[None], target, id_
