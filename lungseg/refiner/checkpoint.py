"""best.pt of a refiner: everything that prediction needs, in one file, which also is a checkpoint of its proposer.

"network", "input", "model"     the proposer, as in every checkpoint
"refiner"                       sizes, weights, how candidates are made, the judge
"decision"                      chosen on validation, of the refined map
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lungseg.decision import Decision
from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.nn.refiner import CandidateRefiner
from lungseg.nn.sam import MedSAM
from lungseg.refiner.judge import Judge
from lungseg.refiner.prediction import CandidateSettings, RefinerPredictor
from lungseg.trained_network import TrainedNetwork, shorten

UNFIT = (KeyError, ValueError, TypeError, RuntimeError, AttributeError)  # of entries that are missing or do not fit


@dataclass(frozen=True)
class RefinerSpec:
    """How to build a `CandidateRefiner` again.

    Attributes:
        sam, clip: keyword arguments of `MedSAM` and `BiomedCLIP`; None is without BiomedCLIP.
        rank: of LoRA.
        sentences: whether it compares crops with sentences.
    """

    sam: dict[str, Any]
    clip: dict[str, Any] | None = None
    rank: int = 0
    sentences: bool = False

    def build(self) -> CandidateRefiner:
        """The network with weights that are still to be loaded."""
        clip = None if self.clip is None else BiomedCLIP(**self.clip)
        texts = torch.zeros(2, clip.visual_head.out_features) if clip is not None and self.sentences else None
        return CandidateRefiner(MedSAM(**self.sam), clip, text_features=texts, rank=self.rank)


def refiner_entries(
    spec: RefinerSpec, network: nn.Module, settings: CandidateSettings, judge: Judge
) -> dict[str, dict[str, Any]]:
    """What best.pt holds besides the proposer."""
    entries = {"spec": asdict(spec), "settings": asdict(settings), "judge": asdict(judge)}
    return {"refiner": entries | {"weights": network.state_dict()}}


def refiner_predictor(
    saved: Mapping[str, Any], trained: TrainedNetwork, path: str | Path, device: str | torch.device, **options: Any
) -> RefinerPredictor:
    """The predictor of a checkpoint with a refiner.

    Args:
        saved: what `load_checkpoint` read from `path`.
        trained: its proposer.
        options: of `Predictor`: overlap, batch_size, tta, search.

    Raises:
        ValueError: in one sentence that begins with the path, if its entries do not fit.
    """
    try:
        entries = saved["refiner"]
        network = RefinerSpec(**entries["spec"]).build()
        network.load_state_dict(entries["weights"])
        settings, judge = CandidateSettings(**entries["settings"]), Judge(**entries["judge"])
        decision = Decision.from_dict(saved.get("decision"))
    except UNFIT as error:
        raise ValueError(
            f"{path}: its refiner cannot be built ({shorten(error)}). Use another checkpoint of "
            f"examples/train_refiner.py."
        ) from None
    return RefinerPredictor(
        trained.network.to(device), trained.input, network.eval().to(device), settings=settings, judge=judge,
        decision=decision, **options,
    )  # fmt: skip
