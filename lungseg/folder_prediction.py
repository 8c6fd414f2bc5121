"""A predictor on the slices or volumes of a folder, in the pixels of its files: probabilities, and a decision."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset
from lungseg.data.volumes import VolumeDataset
from lungseg.decision import PLAIN, Decision
from lungseg.evaluation.choosing import Choice, choose, dice_grid
from lungseg.evaluation.comparison import RunScores
from lungseg.evaluation.scores import sample_spacing, score_all
from lungseg.predictor import Predictor
from lungseg.scale import Scale

ProbsOf = Callable[[int, NDArray], tuple[NDArray, Scale | None]]


def open_split(folder: Path, split: str, neighbours: int = 0) -> SliceDataset | VolumeDataset:
    """The slices or volumes of a split, at the size of their files; slices with the neighbours of the network."""
    if held_kind(folder) == "volumes":
        return VolumeDataset(folder, split)
    return SliceDataset(folder, split, neighbours=neighbours)


def is_stack(data: SliceDataset | VolumeDataset) -> bool:
    """Whether an image is a slice with its neighbours, which the network is shown in place of the slice alone."""
    return isinstance(data, SliceDataset) and data.neighbours > 0


def known_classes(data: SliceDataset | VolumeDataset) -> tuple[str, ...]:
    """As `Predictor.classes`: () if there is only one."""
    return tuple(data.classes) if len(data.classes) > 1 else ()


def predict_probs(
    predictor: Predictor, data: SliceDataset | VolumeDataset, index: int, image: NDArray
) -> tuple[NDArray, Scale, str | None]:
    """Probabilities of one image, whatever its HU window and pixel size; its scale; and a remark on that, if any."""
    record, stack = data.records[index], is_stack(data)
    low, high, spacing_mm = record.hu_low, record.hu_high, sample_spacing(data, index)
    source = image.shape[1:] if image.ndim == 3 else record.source_size  # volumes are not shrunk
    spacing = np.broadcast_to(spacing_mm, image.ndim)  # a slice has one number for both sides
    shape = image.shape
    hu = image if predictor.search == "all" else low + (high - low) * image  # of a whole volume: only if needed
    if stack:
        image = data[index][0].numpy()  # (2n + 1, H, W)
    if (low, high) != predictor.input.hu_window:
        image = predictor.grey(low + (high - low) * image)
    try:
        where = predictor.search_mask(hu, spacing.tolist())
        scale, about_scale = predictor.scale_for(shape, spacing, source)
        return predictor.probs(image, scale, is_stack=stack, where=where), scale, about_scale
    except ValueError as error:
        raise ValueError(f"{record.id}: {error}") from None


def choose_decision(predictor: Predictor, folder: Path) -> Choice:
    """The decision with the highest mean Dice on the validation images (`lungseg.evaluation.choosing`).

    If the folder has other classes than the network, it is that of lesions of any class.

    Raises:
        ValueError: if there are no validation images, or none has a Dice.
    """
    data = open_split(folder, "val", predictor.input.neighbours)
    grids = []
    for index in tqdm(range(len(data)), desc="choose", disable=None):
        image, target, id_ = data[index]
        middle = image[len(image) // 2].numpy()  # without neighbours
        probs, scale, _ = predict_probs(predictor, data, index, middle)
        if predictor.classes != known_classes(data):
            probs, target = predictor.any_class(probs), target.amax(dim=0, keepdim=True)
        maps = probs.reshape(target.shape)  # (K, *spatial)
        grids.append(dice_grid(id_, maps, target.numpy(), predictor.spatial_dims, pixel=math.prod(scale)))
    choice = choose(grids)
    if choice is None:
        raise ValueError(f"No validation image of {folder} holds a lesion, so no threshold can be chosen there.")
    return choice


def without_removed(predictor: Predictor, probs: NDArray, decision: Decision, scale: Scale) -> NDArray:
    """Probabilities as they are drawn: not above the threshold in components that the decision leaves out."""
    labels = predictor.labels(probs, decision.threshold)
    removed = labels != predictor.without_small(labels, decision, scale)  # (*spatial)
    return np.where(removed, np.minimum(probs, decision.threshold), probs)


def score_decisions(
    predictor: Predictor, data: SliceDataset | VolumeDataset, predict: ProbsOf, title: str
) -> RunScores:
    """The scores of every image above 1/2, and with the decision of the checkpoint; the network predicts once.

    Args:
        predict: (index, image (*spatial)) -> its probabilities, as of `Predictor.probs`, and the scale that they are
            of; None is that of the files.
        title: text before the progress bar.
    """
    decision, plain = predictor.decision, KeptMaps()
    index_of = {record.id: i for i, record in enumerate(data.records)}

    def chosen(image: NDArray, record: ImageRecord) -> NDArray[np.bool_]:
        probs, scale = predict(index_of[record.id], image)
        plain.keep(record.id, predictor.labels(probs) > 0)
        return predictor.lesions(probs, decision, scale) > 0

    of_chosen = score_all(data, chosen, title=title)
    of_plain = of_chosen if decision == PLAIN else score_all(data, plain.predict, title=f"{title}, above 0.5")
    return RunScores(of_plain, of_chosen, [decision])


class KeptMaps:
    """Maps of lesion or not by image, compressed: a few lesions on a slice take some hundred bytes."""

    def __init__(self) -> None:
        self.maps: dict[str, tuple[tuple[int, ...], bytes]] = {}

    def keep(self, id: str, lesion: NDArray[np.bool_]) -> None:
        self.maps[id] = lesion.shape, zlib.compress(np.packbits(lesion).tobytes(), level=1)

    def predict(self, image: NDArray, record: ImageRecord) -> NDArray[np.bool_]:
        """The map of an image, for `lungseg.evaluation.scores.score_all`."""
        shape, packed = self.maps[record.id]
        bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=math.prod(shape))
        return bits.reshape(shape).astype(bool)
