"""At the end of a run: the threshold and the smallest component that suit its network, and what they are worth.

They are chosen on the validation images, from the network's probabilities there (`lungseg.evaluation.choosing`), kept
in best.pt as its "decision", and applied to the test images once, beside the scores at the plain threshold of 1/2.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.data.resampled_volumes import ResampledVolumes
from lungseg.data.samples import Samples
from lungseg.decision import PLAIN, Decision, remove_small
from lungseg.evaluation.choosing import Choice, choose, dice_grid
from lungseg.evaluation.metrics import counts_from_pred, summarise, summarise_classes
from lungseg.inference import resize_logits
from lungseg.training.data import Data
from lungseg.training.distributed import Processes
from lungseg.training.step import Batches, gather_counts, to_device, with_ids


class Decided(NamedTuple):
    """A choice, and the test scores with it: those of `lungseg.evaluation.metrics.summarise`, or of its classes."""

    choice: Choice
    scores: dict[str, float]

    def line(self, split: str) -> str:
        """For the screen; `split` is the real name of the test split."""
        (decision, dice, plain), s = self.choice, self.scores
        if decision == PLAIN:
            return (
                f"On validation no threshold and no smallest component is better than 0.5 and none: Dice {plain:.4f}."
            )
        return (
            f"Chosen on validation (Dice {dice:.4f}, with 0.5 {plain:.4f}): lesion is where the probability is "
            f"{decision}. {split}: Dice {s['dice']:.4f}, IoU {s['iou']:.4f}, RMSE {s['rmse']:.4f}, "
            f"recall {s['recall']:.4f}; with 0.5:"
        )

    def to_dict(self) -> dict[str, Any]:
        """For the log: the decision, the validation Dice with it and with 1/2, and all test scores with it."""
        decision, dice, plain = self.choice
        return {**decision.to_dict(), "val_dice": dice, "val_dice_with_0.5": plain, "test": self.scores}


def decide(
    model: nn.Module,
    data: Data,
    best: Path,
    *,
    autocast_dtype: torch.dtype | None = None,
    processes: Processes,
) -> Decided | None:
    """Choose on the validation images, write the decision into the checkpoint `best`, and score the test images.

    Two passes more over held-out images; the memory is that of one batch.

    Returns:
        None if no validation image has a Dice; the same in every process.
    """
    compute: dict[str, Any] = {"autocast_dtype": autocast_dtype, "processes": processes}
    dims = len(data.input.size)
    pixel = training_pixels(data.val_set)
    shown = probabilities(model, data.val, title="choose", **compute)
    grids = [dice_grid(id_, p, y, dims, pixel=pixel[id_]) for id_, p, y in shown]
    choice = choose([grid for share in processes.gather(grids) for grid in share])
    if choice is None:
        return None
    if processes.is_main:
        state = load_checkpoint(best)
        if state.get("decision") != choice.decision.to_dict():  # a finished run that is resumed finds its own
            save_checkpoint(best, state | {"decision": choice.decision.to_dict()})
    names, counts, pixel = [], [], training_pixels(data.test_set)
    for id_, probs, target in probabilities(model, data.test, title="test", **compute):
        names.append(id_)
        pred = lesions(probs, choice.decision, dims, pixel=pixel[id_])
        maps = [torch.from_numpy(x)[:, None] for x in (pred, target)]  # (K, 1, *spatial)
        counts.append(counts_from_pred(*maps)[None])  # (1, K, 4)
    ids, table = gather_counts(names, counts, processes)
    return Decided(choice, summarise(table) if table.ndim == 2 else summarise_classes(table, data.classes))


def training_pixels(samples: Samples) -> dict[str, float]:
    """id -> training pixels per pixel of the target, in which `Decision.min_pixels` counts: 1, unless resampled."""
    resampled = samples if isinstance(samples, ResampledVolumes) else None
    return {r.id: 1.0 if resampled is None else resampled.slices_shown(i) for i, r in enumerate(samples.records)}


def lesions(probs: NDArray, decision: Decision, dims: int, *, pixel: float = 1.0) -> NDArray[np.uint8]:
    """(K, *spatial) probabilities -> the same shape in {0, 1}; each class by itself. `pixel`: `training_pixels`."""
    maps = (probs > decision.threshold).astype(np.uint8)
    return np.stack([remove_small(of_class, decision.min_pixels / pixel, dims) for of_class in maps])


@torch.no_grad()
def probabilities(
    model: nn.Module,
    batches: Batches,
    *,
    autocast_dtype: torch.dtype | None,
    processes: Processes,
    title: str,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """(id, probabilities (K, *spatial), target of the same shape) of each image of this process, as in `evaluate`.

    The network is left in the mode it was in.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    bar = tqdm(batches, desc=title, leave=False, disable=None if processes.is_main else True)
    try:
        for image, target, ids in with_ids(bar, processes):
            with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
                logits = model(to_device(image, device))
            logits = resize_logits(logits, target.shape[2:])  # of volumes that were resampled
            yield from zip(ids, logits.float().sigmoid().cpu().numpy(), target.numpy(), strict=True)
    finally:
        model.train(was_training)
