"""Crops to train a refiner on: around boxes of the proposer, around true boxes that were moved, around false alarms.

The target of a crop is the lesion in its box: each connected component that has a pixel there. Of a false alarm it is
empty.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungseg.data.slices import SliceDataset
from lungseg.evaluation.lesions import connected_components
from lungseg.nn.refiner import CandidateRefiner
from lungseg.refiner.crops import Crop
from lungseg.refiner.prediction import CandidateSettings, prior_logits, refiner_input
from lungseg.refiner.proposals import Box, component_boxes, jitter_box


class Place(NamedTuple):
    """A box in one of the slices of a data set."""

    number: int  # of the slice
    box: Box


class CropBatch(NamedTuple):
    """What a step of training sees."""

    ct: Tensor  # (P, C, S, S) in [0, 1]
    boxes: Tensor  # (P, 4)
    prior: Tensor | None  # (P, 1, S, S) logits
    prior_present: Tensor | None  # (P,) bool
    target: Tensor  # (P, 1, S, S) in {0, 1}


@dataclass(eq=False)
class TrainingPlaces:
    """Where the lesions of the training slices are, and where the proposer saw some.

    Attributes:
        slices: of the training split, at the size of their files.
        settings: how crops are cut.
        true: the box of each lesion. A lesion is a connected component in a slice.
        proposed: candidates in whose box there is a lesion.
        false: candidates without.
        found: lesions with a pixel in some candidate's box.
        maps: index -> the proposer's probabilities (H, W), compressed. All stay in memory: of 512 x 512 pixels some kB
            each where they are smooth, and half a MB where they are noise.
    """

    slices: SliceDataset
    settings: CandidateSettings
    true: list[Place] = field(default_factory=list)
    proposed: list[Place] = field(default_factory=list)
    false: list[Place] = field(default_factory=list)
    found: int = 0
    maps: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def find(
        cls,
        slices: SliceDataset,
        settings: CandidateSettings,
        probs_of: Callable[[int], NDArray] | None = None,
        *,
        keep_maps: bool = True,
    ) -> "TrainingPlaces":
        """Look at each slice once.

        Args:
            probs_of: index of a slice -> what a proposer that has not learned from it says. None: true boxes only.
            keep_maps: for `probs`, and so for batches with a mask prompt.
        """
        places = cls(slices, settings)
        for index in range(len(slices)):
            labels, _ = connected_components(slices.pair(index)[1] > 0)
            places.true += [Place(index, box) for box in component_boxes(labels)]
            if probs_of is None:
                continue
            probs, found = probs_of(index), set()
            if keep_maps:
                places.maps[index] = zlib.compress(probs.astype(np.float16).tobytes(), level=1)
            for proposal in settings.propose(probs):
                lesions = components_in_box(labels, proposal.box)
                (places.proposed if lesions else places.false).append(Place(index, proposal.box))
                found |= lesions
            places.found += len(found)
        return places

    @property
    def recall(self) -> float:
        """The share of the lesions with a pixel in some candidate's box; nothing that follows can find more."""
        return self.found / len(self.true) if self.true else float("nan")

    def probs(self, index: int, shape: Sequence[int]) -> NDArray[np.float32]:
        """The proposer's probabilities on a slice (H, W)."""
        return np.frombuffer(zlib.decompress(self.maps[index]), np.float16).reshape(shape).astype(np.float32)

    def draw(
        self, rng: np.random.Generator, *, false_alarms: float = 0.0, proposed: float = 0.0, jitter: float = 0.1
    ) -> Place:
        """A false alarm with that probability; otherwise a lesion, in the box that was proposed or a true one, moved.

        Where false alarms do not occur, one of the other two takes their place; where nothing was proposed, a true box.
        """
        kinds = rng.random(2)
        if kinds[0] < false_alarms and self.false:
            return self.false[rng.integers(len(self.false))]
        if kinds[1] < proposed and self.proposed:
            return self.proposed[rng.integers(len(self.proposed))]
        index, box = self.true[rng.integers(len(self.true))]
        shape = self.slices.pair(index)[1].shape
        return Place(index, jitter_box(box, shape, rng, share=jitter))

    def batch(
        self,
        network: CandidateRefiner,
        rng: np.random.Generator,
        num: int,
        *,
        prior_dropped: float | None = None,
        **shares: float,
    ) -> CropBatch:
        """Crops at `num` places, each turned and mirrored at random.

        Args:
            network: for which they are.
            prior_dropped: share of crops without the proposer's map. None: there is no map.
            shares: of `draw`.
        """
        crops, targets, priors = [], [], []
        for _ in range(num):
            index, box = self.draw(rng, **shares)
            (grey,), target, _ = self.slices.pair(index)
            crop, turn = self.settings.crop(grey, box), int(rng.integers(8))
            crops.append(turned(crop, turn))
            targets.append(turn_map(crop.cut(lesion_in_box(target > 0, box)) >= 0.5, turn))
            if prior_dropped is not None:
                priors.append(turn_map(prior_logits(crop.cut(self.probs(index, grey.shape))), turn))
        ct, boxes, prior = refiner_input(network, crops, priors or None)
        drawn = torch.from_numpy(np.stack(targets))[:, None].float().to(ct.device)
        present = None if prior_dropped is None else torch.from_numpy(rng.random(num) >= prior_dropped).to(ct.device)
        return CropBatch(ct, boxes, prior, present, drawn)


def components_in_box(labels: NDArray, box: Sequence[float]) -> set[int]:
    """The numbers of the components in labels (H, W) that have a pixel in the box."""
    x0, y0, x1, y1 = box
    rows, columns = (
        slice(max(0, ceil(y0 - 0.5)), floor(y1 + 0.5) + 1),
        slice(max(0, ceil(x0 - 0.5)), floor(x1 + 0.5) + 1),
    )
    return set(np.unique(labels[rows, columns]).tolist()) - {0}


def lesion_in_box(target: NDArray[np.bool_], box: Sequence[float]) -> NDArray[np.bool_]:
    """The components of a target (H, W) that have a pixel in the box."""
    labels, _ = connected_components(target)
    return np.isin(labels, list(components_in_box(labels, box)))


def turn_map(image: NDArray, turn: int) -> NDArray:
    """(S, S) turned by turn % 4 quarter turns counterclockwise, and then mirrored for turn >= 4."""
    turned = np.rot90(image, turn % 4)
    return np.ascontiguousarray(turned[:, ::-1] if turn >= 4 else turned)


def turned(crop: Crop, turn: int) -> Crop:
    """A crop and its box, turned as by `turn_map`. It cannot be pasted back."""
    last = crop.size - 1
    x0, y0, x1, y1 = crop.box
    for _ in range(turn % 4):
        x0, y0, x1, y1 = y0, last - x1, y1, last - x0
    if turn >= 4:
        x0, x1 = last - x1, last - x0
    return Crop(turn_map(crop.pixels, turn), (x0, y0, x1, y1), crop.left, crop.top, crop.scale)
