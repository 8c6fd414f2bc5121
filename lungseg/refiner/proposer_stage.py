"""The first stage of a refiner: the network that proposes, and two like it for the cross-fitting.

A network proposes better boxes and fewer false alarms on patients it has learned from. A refiner trained on those would
meet worse ones on new patients. So the training patients are dealt into two folds, and the candidates of each come
from a network that has learned from the other.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungseg.checkpoint import InputSpec, NetworkSpec, load_checkpoint
from lungseg.data.manifest import read_manifest
from lungseg.data.slices import slice_size
from lungseg.decision import PLAIN
from lungseg.folder_prediction import predict_probs
from lungseg.losses import dice_bce_loss
from lungseg.predictor import Predictor
from lungseg.refiner.context import Context
from lungseg.refiner.training_crops import TrainingPlaces
from lungseg.trained_network import NETWORKS, TrainedNetwork, read_network
from lungseg.training.crops import most_common
from lungseg.training.data import fingerprint
from lungseg.training.recipe import TrainingRecipe
from lungseg.training.sets import slice_sets


def train_proposer(c: Context) -> TrainedNetwork:
    """The network that proposes: that of --proposer, or a small U-Net trained on all training patients."""
    name, r = "proposer", c.recipe
    finished = c.stages.read_finished(name)
    if r.proposer and not finished:
        take_proposer(c, r.proposer)
    elif not finished:
        spec = NetworkSpec("UNet", {"channels": list(r.channels)})
        sets, input_ = training_sets(c, None)
        train_network(c, name, spec, sets, input_, np.arange(len(sets.records)), tell=True)
    return read_network(c.stages.path(name))


def given_proposer(c: Context, path: str) -> tuple[TrainedNetwork, dict[str, Any]]:
    """The network of a checkpoint that fits the slices, and all of the checkpoint's entries."""
    saved = load_checkpoint(path)
    trained = read_network(path, allow_folds=False, saved=saved)
    check_proposer(c, trained.input, path)
    return trained, saved


def take_proposer(c: Context, path: str) -> None:
    """Write proposer.pt from best.pt of another run."""
    trained, saved = given_proposer(c, path)
    if saved.get("run", {}).get("slices") not in (None, fingerprint(c.folder)):
        print(f"{path} was trained on other slices, or on another split: it may know patients of val and test.")
    line = f"proposer: {path}, {told_of_proposer(c, trained)}"
    entries = {key: saved[key] for key in ("network", "input")}
    c.stages.finish("proposer", trained.network.state_dict(), line, **entries)


def train_fold(c: Context, proposer: TrainedNetwork, fold: int) -> TrainedNetwork:
    """A network like the proposer that has learned from the patients of the other fold only."""
    name = f"proposer_without_fold{fold}"
    if not c.stages.read_finished(name):
        spec = NetworkSpec.from_dict(load_checkpoint(c.stages.path("proposer"))["network"])
        sets, input_ = training_sets(c, proposer.input)
        others = np.flatnonzero(patient_folds(sets.records, c.stages.seed) != fold)
        train_network(c, name, spec, sets, input_, others)
    return read_network(c.stages.path(name))


def train_network(
    c: Context, name: str, spec: NetworkSpec, sets: Any, input_: InputSpec, chosen: NDArray, tell: bool = False
) -> None:
    """Train a network for slices on the chosen ones, augmented; its file is a checkpoint for `read_network`."""
    r, device = c.recipe, c.stages.device

    def loss_of(model: nn.Module, step: int, rng: np.random.Generator) -> Tensor:
        sets.set_epoch(step)  # other variations at each step
        drawn = rng.choice(chosen, min(r.proposer_batch, len(chosen)), replace=False).tolist()
        image, target, _ = zip(*(sets[i] for i in drawn), strict=True)
        return dice_bce_loss(model(torch.stack(image).to(device)), torch.stack(target).to(device))

    def describe(model: nn.Module) -> str:
        return told_of_proposer(c, TrainedNetwork(model, input_, PLAIN))

    c.stages.train(
        name, lambda: NETWORKS[spec.name](**spec.arguments), loss_of, steps=r.proposer_steps, lr=r.proposer_lr,
        describe=describe if tell else None, network=spec.to_dict(), input=input_.to_dict(),
    )  # fmt: skip


def training_sets(c: Context, like: InputSpec | None) -> tuple[Any, InputSpec]:
    """Augmented training slices, and what a checkpoint says of them.

    Args:
        like: those that the proposer was trained on; None: those of the recipe.
    """
    if like is None:
        sides = [slice_size(c.folder, record) for record in c.slices("train").records]
        recipe = TrainingRecipe(img_size=c.recipe.img_size or max(most_common(sides)))
    elif like.whole_size:  # crops of them
        recipe = TrainingRecipe(crop_size=(like.size[0],))
    else:
        recipe = TrainingRecipe(img_size=like.size[0])
    (train, *_), input_ = slice_sets(c.folder, recipe, c.stages.seed)
    return train, input_


def check_proposer(c: Context, input_: InputSpec, path: str) -> None:
    """Refuse a network that does not take single slices, knows several classes, or sees another HU window."""
    if len(input_.size) != 2 or input_.neighbours or len(input_.classes) > 1:
        raise ValueError(
            f"{path}: expected a network for single slices and one lesion class as --proposer. Train one without "
            f"--spatial-dims 3, --neighbours and classes.txt."
        )
    windows = {(record.hu_low, record.hu_high) for record in read_manifest(c.folder)}
    if others := windows - {input_.hu_window}:
        (low, high), (a, b) = input_.hu_window, min(others)
        raise ValueError(
            f"{path} was trained in the HU window {low:g} to {high:g}, and slices of {c.folder} are in {a:g} to {b:g}. "
            f"Export the slices again, or train another proposer."
        )


def patient_folds(records: Any, seed: int) -> NDArray[np.int64]:
    """0 or 1 for each slice: its patients, in a random order, are dealt in turn."""
    patients, index = np.unique([record.group for record in records], return_inverse=True)
    return np.random.default_rng(seed).permutation(len(patients))[index] % 2


def told_of_proposer(c: Context, trained: TrainedNetwork) -> str:
    """How many of the validation lesions it proposes, and how many false alarms."""
    found = candidates_of(c, c.predictor(trained), "val")
    return (
        f"validation: {len(found.proposed) + len(found.false)} candidates, {found.recall:.0%} of "
        f"{len(found.true)} lesions proposed"
    )


def candidates_of(c: Context, predictor: Predictor, split: str) -> TrainingPlaces:
    """The candidates of a split, all by one predictor; its maps are not kept."""
    data = c.slices(split)

    def probs_of(index: int) -> NDArray:
        return predict_probs(predictor, data, index, data.pair(index)[0][0])[0]

    return TrainingPlaces.find(data, c.settings, probs_of, keep_maps=False)


def cross_fitted(c: Context, proposer: TrainedNetwork, folds: list[TrainedNetwork]) -> TrainingPlaces:
    """The candidates of the training slices, each by the network that has not learned from its patient."""
    data = c.slices("train")
    of_slice = patient_folds(data.records, c.stages.seed) if folds else np.zeros(len(data), int)
    predictors = [c.predictor(trained) for trained in folds or [proposer]]

    def probs_of(index: int) -> NDArray:
        return predict_probs(predictors[of_slice[index]], data, index, data.pair(index)[0][0])[0]

    return TrainingPlaces.find(data, c.settings, probs_of)
