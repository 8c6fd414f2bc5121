"""A predictor on the slices or volumes of a folder, in the pixels of its files: probabilities, and a decision."""

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.candidates import Candidate, CandidateOptions, keep_candidates
from lungseg.data.folder_files import held_kind
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset
from lungseg.data.volumes import VolumeDataset
from lungseg.decision import PLAIN, Decision
from lungseg.evaluation.choosing import Choice, choose, dice_grid
from lungseg.evaluation.comparison import RunScores
from lungseg.evaluation.scores import class_remark, known_spacings, sample_spacing, scale_remark, score_all, unit_remark
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
        predict: as `probs_of` of `FolderLesions`.
        title: text before the progress bar.
    """
    lesions = FolderLesions(predictor, data, predictor.decision, probs_of=predict)
    chosen = score_all(data, lesions, title=title)
    plain = chosen
    if lesions.decision != PLAIN:
        plain = score_all(data, lesions.plain.predict, title=f"{title}, above 0.5")
    return RunScores(plain, chosen, [lesions.decision])


class FolderLesions:
    """What a predictor draws in the images of a folder: a function of (image, record), as `score_all` calls it.

    Args:
        predictor, data: the network, and the slices or volumes of a split.
        decision: with which lesions are drawn.
        by_class: return the numbers of classes, not lesion or not.
        candidates: also find the candidates of volumes, and clear those that these options leave out.
        probs_of: (index, image (*spatial)) -> its probabilities, as of `Predictor.probs`, and the scale that they are
            of; None is that of the files. By default `predict_probs`.

    Attributes:
        plain: what is above 1/2, if the decision is another; so the network predicts once for both.
        found: id -> the candidates that were kept.
        about_scale: id -> a remark on its scale, if there was one.
    """

    def __init__(
        self,
        predictor: Predictor,
        data: SliceDataset | VolumeDataset,
        decision: Decision,
        *,
        by_class: bool = False,
        candidates: CandidateOptions | None = None,
        probs_of: ProbsOf | None = None,
    ):
        self.predictor, self.data, self.decision = predictor, data, decision
        self.by_class, self.candidates, self.probs_of = by_class, candidates, probs_of
        self.index_of = {record.id: i for i, record in enumerate(data.records)}
        self.plain = KeptMaps()
        self.found: dict[str, list[Candidate]] = {}
        self.about_scale: dict[str, str] = {}

    def __call__(self, image: NDArray, record: ImageRecord) -> NDArray:
        probs, scale = (self.probs_of or self._probs)(self.index_of[record.id], image)
        if self.decision != PLAIN:
            self.plain.keep(record.id, self.predictor.labels(probs) > 0)
        labels = self.predictor.lesions(probs, self.decision, scale)
        if self.candidates:
            self._keep_candidates(labels, self.predictor.any_class(probs), image, record)
        return labels if self.by_class else labels > 0

    def remarks(self) -> list[str]:
        """What does not fit between the network and the images so far, and what it did not look at."""
        predictor, data = self.predictor, self.data
        lone = is_stack(data) and not any(record.series for record in data.records)
        found: list[str | None] = [*scale_remark(self.about_scale, len(data)), unit_remark(data, known_spacings(data))]
        found += [*class_remark(predictor.classes, data.classes), predictor.alone(np.zeros((1, 1))) if lone else None]
        return [remark for remark in [*found, *predictor.skipped_remark()] if remark]

    def _probs(self, index: int, image: NDArray) -> tuple[NDArray, Scale]:
        probs, scale, about_scale = predict_probs(self.predictor, self.data, index, image)
        if about_scale:
            self.about_scale[self.data.records[index].id] = about_scale
        return probs, scale

    def _keep_candidates(self, labels: NDArray, probs: NDArray, image: NDArray, record: ImageRecord) -> None:
        assert self.candidates
        hu = record.hu_low + (record.hu_high - record.hu_low) * image if self.candidates.lungs else image
        spacing_mm = np.atleast_1d(sample_spacing(self.data, self.index_of[record.id])).tolist()
        try:
            self.found[record.id] = keep_candidates(labels, probs, hu, spacing_mm, self.candidates)
        except ValueError as error:
            raise ValueError(f"{record.id}: {error}") from None


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
