"""From a slice to the refined map: propose, crop, prompt, judge.

predictor = load_predictor("runs/refiner/best.pt")      # a RefinerPredictor
probs = predictor.probs(grey)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungseg.nn.refiner import CandidateRefiner
from lungseg.predictor import Predictor
from lungseg.refiner.crops import Crop, crop_at
from lungseg.refiner.judge import Judge, judge_features, slice_map
from lungseg.refiner.proposals import Proposal, propose
from lungseg.scale import Scale

LEAST = 1e-3  # of a probability in a mask prompt: logits of +-7, as far as they go in networks that are not sure


@dataclass(frozen=True)
class CandidateSettings:
    """How candidates are proposed (`propose`) and cut out (`crop_at`): the same in training and prediction."""

    threshold: float = 0.1
    margin: float = 0.1
    most: int = 8
    size: int = 64
    context: float = 2.0
    smallest: int = 12

    def propose(self, probs: NDArray) -> list[Proposal]:
        """The candidates of one slice (H, W)."""
        return propose(probs, threshold=self.threshold, margin=self.margin, most=self.most)

    def crop(self, grey: NDArray, box: Sequence[float]) -> Crop:
        return crop_at(grey, box, self.size, context=self.context, smallest=self.smallest)


class Looks(NamedTuple):
    """What n candidates of a slice look like at a second look."""

    masks: NDArray[np.float32]  # (n, H, W) probabilities
    similarity: NDArray[np.float64]  # (n,)
    iou: NDArray[np.float64]  # (n,)


class RefinerPredictor(Predictor):
    """A proposer, and a network that looks again at each of its candidates; it takes what a 2-D `Predictor` takes.

    Args:
        proposer: as the `network` of `Predictor`.
        input: what the proposer was trained on.
        refiner: in evaluation mode.
        settings: those of the training.
        judge: fitted on validation candidates.
        options: of `Predictor`. The sliding window and the variations of tta are those of the proposer.
    """

    def __init__(
        self,
        proposer: nn.Module,
        input: Any,
        refiner: CandidateRefiner,
        *,
        settings: CandidateSettings,
        judge: Judge | None = None,
        **options: Any,
    ):
        super().__init__(proposer, input, **options)
        self.refiner, self.settings, self.judge = refiner, settings, judge or Judge()
        self.name = f"{self.name}, refined"

    def proposer_probs(self, grey: NDArray, scale: Scale | None = None, **how: Any) -> NDArray[np.float32]:
        """What the proposer says by itself: arguments and result of `Predictor.probs`."""
        return super().probs(grey, scale, **how)

    def probs(
        self,
        grey: NDArray,
        scale: Scale | None = None,
        *,
        is_stack: bool = False,
        where: NDArray[np.bool_] | None = None,
        inner: slice = slice(None),
    ) -> NDArray[np.float32]:
        """As `Predictor.probs`: each slice is looked at by itself. The proposer searches `where`."""
        probs = self.proposer_probs(grey, scale, is_stack=is_stack, where=where, inner=inner)
        if probs.ndim == 2:
            return self.refined(grey if grey.ndim == 2 else grey[len(grey) // 2], probs)
        return np.stack([self.refined(*pair) for pair in zip(grey[inner], probs, strict=True)])

    def refined(self, grey: NDArray, probs: NDArray) -> NDArray[np.float32]:
        """A slice (H, W) and what the proposer says of it -> the refined map (H, W); all 0 without a candidate."""
        proposals = self.settings.propose(probs)
        if not proposals:
            return np.zeros(probs.shape, np.float32)
        looks = self.look(grey, probs, proposals)
        # The outline is where the refiner is above 1/2, however sure the judge is. In the product of both chances, the
        # threshold that keeps a doubtful candidate would draw a sure one too large.
        return slice_map(looks.masks >= 0.5, self.judge(self.features(proposals, looks)))

    def features(self, proposals: Sequence[Proposal], looks: Looks) -> NDArray[np.float64]:
        """What the judge weighs, (n, 3)."""
        return judge_features([p.score for p in proposals], looks.similarity, looks.iou)

    def look(self, grey: NDArray, probs: NDArray, proposals: Sequence[Proposal]) -> Looks:
        """Look again at the candidates of a slice, `batch_size` at a time."""
        return self.look_at_boxes(grey, [p.box for p in proposals], probs)

    @torch.no_grad()
    def look_at_boxes(self, grey: NDArray, boxes: Sequence[Sequence[float]], probs: NDArray | None = None) -> Looks:
        """The same for any boxes (x0, y0, x1, y1) of the slice; without `probs` the box is the only prompt."""
        crops = [self.settings.crop(grey, box) for box in boxes]
        priors = None if probs is None else [prior_logits(crop.cut(probs)) for crop in crops]
        masks, similarity, iou = [], [], []
        for start in range(0, len(crops), self.batch_size):
            part = slice(start, start + self.batch_size)
            out = self.refiner(*refiner_input(self.refiner, crops[part], None if priors is None else priors[part]))
            drawn = out.mask_logits.sigmoid()[:, 0].cpu().numpy()
            masks += [crop.paste(mask, grey.shape) for crop, mask in zip(crops[part], drawn, strict=True)]
            similarity += out.similarity.tolist()
            iou += out.iou.tolist()
        return Looks(np.stack(masks), np.array(similarity), np.array(iou))


def prior_logits(probs: NDArray) -> NDArray[np.float32]:
    """The proposer's probabilities on a crop as a mask prompt: logits, not beyond those of LEAST and 1 - LEAST."""
    p = np.clip(np.asarray(probs, np.float32), LEAST, 1 - LEAST)
    return np.log(p / (1 - p))


def refiner_input(
    network: CandidateRefiner, crops: Sequence[Crop], priors: Sequence[NDArray] | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Crops as the network takes them: ct (P, C, S, S), boxes (P, 4), prior (P, 1, S, S) or None, on its device."""
    device, channels = next(network.parameters()).device, network.sam.image_encoder.in_channels
    ct = torch.from_numpy(np.stack([crop.pixels for crop in crops]))[:, None].expand(-1, channels, -1, -1)
    boxes = torch.tensor([crop.box for crop in crops], dtype=torch.float32)
    prior = None if priors is None else torch.from_numpy(np.stack(priors))[:, None].to(device)
    return ct.to(device), boxes.to(device), prior
