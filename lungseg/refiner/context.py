"""What every stage of the training of a refiner needs: the recipe, the data, the folder of the run."""

from dataclasses import dataclass
from pathlib import Path

from lungseg.data.slices import SliceDataset
from lungseg.predictor import Predictor
from lungseg.refiner.prediction import CandidateSettings
from lungseg.refiner.recipe import RefinerRecipe
from lungseg.refiner.stages import Stages
from lungseg.trained_network import TrainedNetwork


@dataclass(frozen=True)
class Context:
    """One run: its recipe, the folder of slices, and its stages."""

    recipe: RefinerRecipe
    folder: Path
    stages: Stages

    @property
    def settings(self) -> CandidateSettings:
        """How candidates are proposed and cut out."""
        r = self.recipe
        return CandidateSettings(r.threshold, r.margin, r.most, r.crop_size, r.context, r.smallest)

    def slices(self, split: str) -> SliceDataset:
        """The slices of a split, at the size of their files."""
        return SliceDataset(self.folder, split)

    def predictor(self, trained: TrainedNetwork) -> Predictor:
        """The predictor of a proposer, on the device of the run."""
        return Predictor(trained.network.to(self.stages.device), trained.input, decision=trained.decision)
