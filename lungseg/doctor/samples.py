"""The images and targets that are examined: some of a loader, or of a folder even if that has faults."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lungseg.data.classes import one_hot
from lungseg.data.ct import resize_image, resize_target
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import read_slice

MOST_IMAGES = 64  # enough to see a fault that most images have
BATCH = 4  # images in the batch that is learned by heart

Pair = tuple[Tensor, Tensor]  # image (B, C, *spatial), target (B, K, *spatial)


def collect(batches: Iterable[Sequence[Any]], most: int = MOST_IMAGES) -> Pair:
    """The first images and targets of a loader, in one batch, in float32 on the CPU.

    Args:
        batches: of (image (B, C, *spatial), target (B, K, *spatial)), or with ids; images of another size than the
            first ones are left out.
        most: images to take.

    Raises:
        ValueError: if there is none, or an image and its target do not fit.
    """
    images: list[Tensor] = []
    targets: list[Tensor] = []
    for image, target, *_ in batches:
        image, target = torch.as_tensor(image).detach().cpu().float(), torch.as_tensor(target).detach().cpu().float()
        if image.ndim < 4 or image.ndim != target.ndim or len(image) != len(target):
            raise ValueError(
                f"A batch holds images {tuple(image.shape)} and targets {tuple(target.shape)}, expected "
                f"(B, C, H, W) and (B, K, H, W). target.unsqueeze(1) adds a missing channel axis."
            )
        if image.shape[2:] != target.shape[2:]:
            sizes = [" x ".join(map(str, x.shape[2:])) for x in (image, target)]
            raise ValueError(f"Images are {sizes[0]} and their targets {sizes[1]} pixels. Resize both to one size.")
        if not images or image.shape[1:] == images[0].shape[1:]:
            images.append(image)
            targets.append(target)
        if sum(map(len, images)) >= most:
            break
    if not sum(map(len, images)):
        raise ValueError("There is no image to examine: the loader is empty.")
    return torch.cat(images)[:most], torch.cat(targets)[:most]


def lesion_batch(images: Tensor, targets: Tensor, most: int = BATCH) -> Pair | None:
    """The images with the largest lesions, at most `most`; None if no image has a lesion."""
    area = (targets > 0.5).flatten(1).sum(1)  # (n,)
    chosen = area.argsort(descending=True, stable=True)[:most]
    chosen = chosen[area[chosen] > 0]
    return (images[chosen], targets[chosen]) if len(chosen) else None


def readable_samples(
    folder: str | Path, records: Sequence[ImageRecord], classes: Sequence[str], size: int | None
) -> Iterator[tuple[Tensor, Tensor, str]]:
    """(image (1, 1, H, W), target (1, K, H, W), id) as `SliceDataset` reads them, without those it cannot read.

    `SliceDataset` refuses a folder with faults; here they are what we look for.

    Args:
        size: side to which slices are resized; None keeps their size.
    """
    for record in records:
        try:
            grey, target = read_slice(folder, record, classes)
        except (ValueError, OSError):
            continue  # named by check_folder
        if size is not None and grey.shape != (size, size):
            grey, target = resize_image(grey, (size, size)), resize_target(target, (size, size))
        image = torch.from_numpy(grey.astype(np.float32) / (2**record.bits - 1))
        yield image[None, None], torch.from_numpy(one_hot(target, len(classes)))[None], record.id


def spread_out(records: Sequence[ImageRecord], most: int = MOST_IMAGES) -> list[ImageRecord]:
    """At most so many of the records, at equal distances: the first ones may all be of one patient."""
    chosen = np.linspace(0, len(records) - 1, min(most, len(records))).round().astype(int)
    return [records[i] for i in chosen]
