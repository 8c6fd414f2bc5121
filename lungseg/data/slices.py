"""The folder of slices, our one interchange format: check it, write it, train on it.

    DIR/images/<id>.png     8-bit grey; HU window [-1000, 400] unless the manifest says otherwise
    DIR/masks/<id>.png      8-bit, 0 = background, 255 (or 1) = lesion, same size
    DIR/classes.txt         only with several lesion classes: masks then hold 1..K (lungseg.data.classes)
    DIR/manifest.csv        id, group, split, label, spacing_mm, ...  (group = patient or similar slices)

Any PNG viewer shows it, any spreadsheet opens its table, and any other program can make one.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from lungseg.data.classes import HINT, check_labels, format_values, one_hot, read_classes, unused_classes
from lungseg.data.ct import resize_image, resize_target
from lungseg.data.folder_files import find_member, members
from lungseg.data.grey_png import read_grey_png
from lungseg.data.manifest import ImageRecord, parse_manifest, read_split
from lungseg.data.manifest_writer import ManifestWriter
from lungseg.data.neighbours import series_indices
from lungseg.data.plausible import LesionExtent, Tally, odd_grey, same_picture
from lungseg.data.readers import count_readers_of_slices, read_share, resize_share
from lungseg.data.splits import Fold

# (image (H, W) float32 or (C, H, W), target (H, W) uint8, or float32 if soft, rng) -> the same pair, changed
Augment = Callable[[NDArray[np.float32], NDArray[np.uint8], np.random.Generator], tuple[NDArray, NDArray]]
CACHE_BYTES = 2**30  # decoded slices stay in memory if the data set needs no more than this (in each worker process)


# ---- reading and checking ---------------------------------------------------------------------------------------


def read_slice(
    folder: str | Path, record: ImageRecord, classes: Sequence[str] = ()
) -> tuple[NDArray, NDArray[np.uint8]]:
    """Image (H, W) uint8 (or uint16 if the record says 16 bits) and target (H, W) uint8 in {0, 1}.

    Args:
        classes: `read_classes(folder)`. If there are several, the target is a label map 0..K.

    Raises:
        ValueError: naming the file, what is wrong with it, and what to do.
    """
    image_path, target_path = (find_member(Path(folder, name), record.id) for name in ("images", "masks"))
    image = read_grey_png(image_path, record.bits)
    target = read_grey_png(target_path, 8)
    if image.shape != target.shape:
        sizes = [f"{a.shape[0]} x {a.shape[1]}" for a in (target, image)]
        raise ValueError(f"{target_path} is {sizes[0]} but its image is {sizes[1]} pixels. Export both at one size.")
    values = np.flatnonzero(np.bincount(target.ravel(), minlength=256)).tolist()
    if len(classes) > 1:
        try:
            check_labels(values, classes)
        except ValueError as error:
            raise ValueError(f"{target_path} {error}") from None
        return image, target
    if not (set(values) <= {0, 1} or set(values) <= {0, 255}):
        raise ValueError(
            f"{target_path} holds the values {format_values(values)}. A mask holds 0 and 255 (or 0 and 1) only: "
            f"binarise it, and resize masks without interpolation. {HINT}"
        )
    return image, (target > 0).astype(np.uint8)


def slice_size(folder: str | Path, record: ImageRecord) -> tuple[int, int]:
    """(H, W) in pixels, from the header of the file of a checked slice."""
    with Image.open(find_member(Path(folder, "images"), record.id)) as picture:
        return picture.height, picture.width


def check_folder(folder: str | Path, *, negatives: bool = False) -> list[str]:
    """The problems of a folder, each a sentence with what to do; [] if there are none.

    What is implausible (`lungseg.data.plausible`) in more than half of the slices is a problem too; in fewer, a
    warning.

    Args:
        negatives: whether the folder is meant to add slices without a lesion; then no class needs an example.
    """
    folder = Path(folder)
    records, problems = parse_manifest(folder, "slices")
    try:
        classes, seen = read_classes(folder), set()
    except ValueError as error:  # then no mask can be checked
        return [*problems, str(error)]
    tally = Tally(folder, "slices")
    for record in tqdm(records, desc="check", unit="slice", disable=None):  # None: quiet when not on a terminal
        try:
            image, target = read_slice(folder, record, classes)
        except ValueError as error:
            problems.append(str(error))
            continue
        lesion = LesionExtent(target) if target.any() or not negatives else None
        tally.add(record.id, [odd_grey(image, record.bits) or same_picture(image, target)], lesion)
        tally.add_image(record.id, record.split, image)
        seen.update(np.unique(target).tolist())
    if not problems and not negatives:  # a mask that cannot be read may hold the missing class
        problems += [f"{folder}: {sentence}" for sentence in unused_classes(seen, classes)]
    problems += tally_problems(tally)
    if records or not problems:
        for home in filter(Path.is_dir, (folder / "images", folder / "masks")):
            known = {find_member(home, record.id) for record in records}
            problems += [
                f"{path} has no row in the manifest. Add one, or remove the file."
                for path in members(home)
                if path not in known
            ]
    return problems


def tally_problems(tally: Tally) -> list[str]:
    """The problems of a tally; its warnings are issued here."""
    problems, warned = tally.verdict()
    for sentence in warned:
        warnings.warn(sentence, stacklevel=1)  # always this line, so that Python says each once
    return problems


# ---- writing ----------------------------------------------------------------------------------------------------


class SliceWriter(ManifestWriter):
    """Write a folder of slices completely or not at all: `with SliceWriter(folder) as out: out.add(...)`."""

    subfolders = ("images", "masks")

    def add(self, record: ImageRecord, image: NDArray, target: NDArray) -> None:
        """Write one pair: image (H, W) uint8, or uint16 if record.bits is 16; target (H, W) in {0, 1} or {0..K}."""
        self.check(record)
        dtype, labels = np.dtype(np.uint8 if record.bits == 8 else np.uint16), range(max(1, len(self.classes)) + 1)
        if image.dtype != dtype or image.shape != target.shape or not np.isin(target, labels).all():
            raise ValueError(
                f"{record.id}: expected an image of {dtype} and a target of its shape in "
                f"{{{', '.join(map(str, labels))}}}, "
                f"got {image.dtype} {image.shape} and {target.dtype} {target.shape}."
            )
        Image.fromarray(image).save(self.path / "images" / f"{record.id}.png")
        mask = target.astype(np.uint8) * np.uint8(1 if len(self.classes) > 1 else 255)
        Image.fromarray(mask).save(self.path / "masks" / f"{record.id}.png")
        self.records.append(record)


# ---- training on it ---------------------------------------------------------------------------------------------


class SliceDataset(Dataset):
    """The slices of one split, as (image, target, id).

    image is float32 (1, H, W) in [0, 1] (grey / largest grey level); target is float32 (1, H, W) in {0, 1}, or
    (K, H, W) if the folder has K > 1 lesion classes, named in `classes`. With neighbours, image is (2n + 1, H, W)
    (`lungseg.data.neighbours`), and target that of the middle channel.

    Args:
        folder: a folder of slices.
        split: "train", "val" or "test"; None takes all.
        size: resize each slice to size x size pixels when it is read (other shapes are stretched, and their
            spacing_mm is no longer valid); None keeps the size of the files.
        augment: called as augment(image (H, W) float32, target (H, W) uint8, rng) -> the same pair, changed. The
            target is in {0, 1}, or a label map 0..K.
        seed: with the epoch and the index it decides each augmentation, so that neither the number of workers
            nor the order of reading changes what a sample looks like.
        soft: take as target, in [0, 1], the share of the readers who outlined each pixel (lungseg.data.readers).
        neighbours: n, slices below and above in the same series of the manifest. 0 shows the slice alone.
        fold: of a cross-validation, which replaces the splits "train" and "val" of the manifest.

    Raises:
        ValueError: for a bad manifest or an empty split here, and for a bad file when it is read.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        *,
        size: int | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        soft: bool = False,
        neighbours: int = 0,
        fold: Fold | None = None,
    ):
        self.folder, self.size, self.augment, self.seed = Path(folder), size, augment, seed
        self.records, self.classes = read_split(folder, split, "slices", fold), read_classes(folder)
        self.readers = count_readers_of_slices(self.folder, self.classes) if soft else None
        self.neighbours, self._stacks = neighbours, series_indices(self.records, neighbours)  # (n, 2 neighbours + 1)
        # In shared memory, so that set_epoch also reaches worker processes that persist over epochs.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache: dict[int, tuple[NDArray, NDArray]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch: a slice is augmented differently in each."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        index = range(len(self))[index]  # -1 is the last slice; beyond the end is an IndexError
        image, target, id_ = self.pair(index)
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, int(self._epoch), index])
            image, target = self.augment(image if self.neighbours else image[0], target, rng)
        tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
        channels = torch.from_numpy(self.target_channels(target))
        return tensor.view(-1, *tensor.shape[-2:]), channels, id_  # (1 or 2n + 1, H, W), (K, H, W), id

    def pair(self, index: int) -> tuple[NDArray[np.float32], NDArray, str]:
        """Without augmentation: image (2n + 1, H, W) in [0, 1], target (H, W) in 0..K, id; arrays of one's own."""
        shown = self._stacks[index].tolist()
        greys = [self._read(i)[0].astype(np.float32) / (2 ** self.records[i].bits - 1) for i in shown]
        if len({grey.shape for grey in greys}) > 1:
            ids = ", ".join(self.records[i].id for i in shown)
            raise ValueError(f"{self.folder}: the neighbours {ids} differ in size. Export a series at one size.")
        return np.stack(greys), self._read(index)[1].copy(), self.records[index].id

    def target_channels(self, target: NDArray) -> NDArray[np.float32]:
        """(H, W) labels, or shares if soft -> (K, H, W)."""
        if self.readers is not None:
            return np.ascontiguousarray(target)[None]
        return one_hot(np.asarray(target), len(self.classes))

    def with_lesion(self, index: int, rng: np.random.Generator) -> int:
        """The slice to take if the crop must hold a lesion: this one, whether or not it has any."""
        return index

    def _read(self, index: int) -> tuple[NDArray, NDArray]:
        """The decoded pair at the requested size; kept if the whole data set fits into CACHE_BYTES."""
        if index in self._cache:
            return self._cache[index]
        grey, target = read_slice(self.folder, self.records[index], self.classes)
        resize: Callable[..., NDArray] = resize_target if self.readers is None else resize_share
        if self.readers is not None:
            target = read_share(self.folder, self.records[index], self.readers, grey.shape)  # type: ignore[assignment]
        if self.size is not None and grey.shape != (self.size, self.size):
            grey = resize_image(grey, (self.size, self.size))
            target = resize(target, (self.size, self.size))
        if (grey.nbytes + target.nbytes) * len(self) <= CACHE_BYTES:
            self._cache[index] = grey, target
        return grey, target
