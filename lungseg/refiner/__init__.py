"""A second look at candidates: propose boxes, crop, prompt MedSAM with them (`lungseg.nn.refiner`), judge."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.refiner.crops import Crop as Crop, crop_at as crop_at
    from lungseg.refiner.judge import (
        Judge as Judge,
        fit_judge as fit_judge,
        judge_features as judge_features,
        slice_map as slice_map,
    )
    from lungseg.refiner.proposals import Proposal as Proposal, jitter_box as jitter_box, propose as propose

_EXPORTS = {
    "crops": ("Crop", "crop_at"),
    "judge": ("Judge", "fit_judge", "judge_features", "slice_map"),
    "proposals": ("Proposal", "jitter_box", "propose"),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
