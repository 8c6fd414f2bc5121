"""Negatives: more training slices, from folders of their own, which mostly show what is not a lesion.

A network that was trained on windows around nodules has rarely seen anything else, and finds nodules everywhere.
`examples/mine_negatives.py` makes such folders; any folder of slices will do that fits the data.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from lungseg.data.classes import read_classes
from lungseg.data.folder_files import held_kind
from lungseg.data.samples import Samples
from lungseg.data.slices import Augment, SliceDataset, check_folder, slice_size
from lungseg.data.splits import Fold


class JoinedSlices(Dataset):
    """The training slices of a folder, then some of other folders. Each is augmented as in its own data set.

    Args:
        first: the training slices of the data; folder and classes are its.
        others: data sets, and which of their slices to take.
    """

    def __init__(self, first: SliceDataset, others: Sequence[tuple[SliceDataset, Sequence[int]]]):
        self.folder, self.classes = first.folder, first.classes
        self._parts = [first, *(part for part, _ in others)]
        self._places = [(first, index) for index in range(len(first))]
        self._places += [(part, index) for part, chosen in others for index in chosen]
        self.records = [part.records[index] for part, index in self._places]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of all parts."""
        for part in self._parts:
            part.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, str]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        part, place = self._places[index]
        return part[place]


def add_negatives(
    train: SliceDataset, held_out: Sequence[Samples], folders: Sequence[str], *, size: int, augment: Augment | None,
    seed: int, fold: Fold | None,
) -> JoinedSlices:  # fmt: skip
    """The training slices, and those of the folders of negatives.

    Args:
        train: of the data.
        held_out: the validation and test slices. No patient of theirs may be among the negatives; but in a
            cross-validation, where each patient validates once, the negatives of those who do are left out.
        folders: of slices, checked here.
        size, augment: as of `train`.
        seed: of the run. Each folder derives its own from it, so that its slices have variations of their own.

    Raises:
        ValueError: in one sentence, if a folder is not a sound folder of slices, has no training slice, does not fit
            the data in HU window, classes or size, or shares a patient with the validation or test split.
    """
    records = [record for part in held_out for record in part.records]
    validating, tested = ({r.group.casefold() for r in records if r.split == split} for split in ("val", "test"))
    fits = {slice_size(train.folder, record) for record in train.records}
    others = []
    for number, folder in enumerate(map(Path, folders), start=1):
        if folder.is_dir() and held_kind(folder) == "volumes":
            raise ValueError(
                f"{folder}: expected negatives as a folder of slices, got volumes. Cut windows from them with "
                f"mine_negatives.py."
            )
        if problems := check_folder(folder, negatives=True):
            raise ValueError(problems[0])
        # Seeds of runs are below 2^63, so none of these is the seed of another run.
        part = SliceDataset(folder, "train", size=size, augment=augment, seed=seed + number * 2**63)
        check_fit(part, train, fits)
        for record in part.records:
            group = record.group.casefold()
            if group in tested or (group in validating and fold is None):
                split = "test" if group in tested else "validation"
                raise ValueError(
                    f"{folder}: {record.id} is of {record.group}, a patient of the {split} split of {train.folder}, so "
                    f"the scores would measure memorisation. Make negatives of training patients only."
                )
        others.append((part, [i for i, r in enumerate(part.records) if r.group.casefold() not in validating]))
    return JoinedSlices(train, others)


def check_fit(part: SliceDataset, train: SliceDataset, fits: set[tuple[int, int]]) -> None:
    """Raise a ValueError unless negatives have the HU window, the classes and the size of the data."""
    ours = train.records[0]
    several = [names if len(names) > 1 else () for names in (part.classes, read_classes(train.folder))]
    if several[0] != several[1]:
        named = [", ".join(names) or "none" for names in several]
        raise ValueError(
            f"{part.folder} has the lesion classes {named[0]}, and {train.folder} has {named[1]}. Give both the same "
            f"classes.txt."
        )
    for record in part.records:
        if (record.hu_low, record.hu_high) != (ours.hu_low, ours.hu_high):
            raise ValueError(
                f"{part.folder}: {record.id} is in the HU window {record.hu_low:g} to {record.hu_high:g}, and "
                f"{train.folder} in {ours.hu_low:g} to {ours.hu_high:g}. Export both with one window."
            )
        if (here := slice_size(part.folder, record)) not in fits:
            sizes = " or ".join(sorted(f"{height} x {width}" for height, width in fits))
            raise ValueError(
                f"{part.folder}: {record.id} is {here[0]} x {here[1]} pixels, and the training slices of "
                f"{train.folder} are {sizes}: resized to one size, they would differ in scale. Make negatives of that "
                f"size."
            )
