"""The network of a checkpoint: built, given its weights, and held to what the checkpoint says of its images."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lungseg.checkpoint import InputSpec, NetworkSpec, load_checkpoint, refuse_folds
from lungseg.data.classes import checked_classes
from lungseg.decision import Decision
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR

NETWORKS = {network.__name__: network for network in (SwinUNet, UNETR, ResNet50UNet, UNet, RRCUNet)}


class TrainedNetwork(NamedTuple):
    """What a checkpoint of a training script holds for prediction."""

    network: nn.Module  # on the CPU, in evaluation mode
    input: InputSpec  # the images it was trained on
    decision: Decision


def read_network(
    path: str | Path, *, allow_folds: bool = True, saved: Mapping[str, Any] | None = None
) -> TrainedNetwork:
    """The network of a checkpoint, with averaged weights where it has both; of a refiner's, the network that proposes.

    Args:
        allow_folds: False refuses a network of a cross-validation (`lungseg.checkpoint.refuse_folds`).
        saved: what `load_checkpoint` read from the path, if it was read already.

    Raises:
        ValueError: in one sentence that begins with the path, if anything in it does not fit.
    """
    saved = load_checkpoint(path) if saved is None else saved
    if not allow_folds:
        refuse_folds(saved, path)
    try:
        if "input" not in saved:
            raise ValueError(
                'it does not say what images it was trained on (no "input"): an older version wrote it. '
                "Train the network again with this one."
            )
        input_ = InputSpec.from_dict(saved["input"])
        weights = saved["ema"]["weights"] if "ema" in saved else saved["model"]
        network = build_network(NetworkSpec.from_dict(saved["network"]), weights)
        check_input(network, input_)
        return TrainedNetwork(network, input_, Decision.from_dict(saved.get("decision")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (TypeError, LookupError, AttributeError):  # entries are missing, or of other types
        raise ValueError(f"{path}: its entries are not those of a training script. Use another checkpoint.") from None


def build_network(network: NetworkSpec, state: dict[str, Tensor]) -> nn.Module:
    """Build the network of a checkpoint and load its weights: on the CPU, in evaluation mode.

    Args:
        network: the name is one of NETWORKS.
        state: its parameters and buffers.

    Raises:
        ValueError: in one sentence, if the name is unknown or the arguments or the state do not fit.
    """
    name, arguments = network.name, network.arguments
    if " of " in name:  # of a file given as --network
        raise ValueError(
            f"its network is {name}, which only that file can build. Load the weights, entry 'model', into it yourself."
        )
    if name not in NETWORKS:
        raise ValueError(
            f"expected one of the networks {', '.join(NETWORKS)}, got {name!r}. Update lungseg, or train one of these."
        )
    try:
        model = NETWORKS[name](**arguments)
    except Exception as error:  # a file can hold any arguments, and torch has many ways to refuse them
        raise ValueError(f"{name} cannot be built with the saved arguments ({shorten(error)})") from None
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"the saved weights do not fit {name} ({shorten(error)})") from None
    return model.eval()


def check_input(network: nn.Module, input: InputSpec) -> None:
    """Raise a ValueError unless the numbers are possible and the network takes such images."""
    size, scale, spacing, (low, high) = input.size, input.scale, input.spacing_mm, input.hu_window
    sources = input.source_scale or scale
    spacings = spacing if isinstance(spacing, tuple) else (spacing,)
    lengths = [*size, *scale, *sources, *(mm for mm in (*spacings, input.slice_mm) if mm is not None)]
    sound = all(math.isfinite(n) and n > 0 for n in lengths) and len(size) == len(scale) == len(sources) and low < high
    if not sound or len(size) not in (2, 3):
        raise ValueError(f'its "input" holds impossible values: {input.to_dict()}. Use another checkpoint.')
    channels = 2 * input.neighbours + 1
    pixel = torch.zeros(1, channels, *[1] * len(size))  # (1, C, 1, 1[, 1]): every network of ours takes it
    try:
        with torch.no_grad():
            logits = network(pixel)
    except (ValueError, RuntimeError) as error:
        of = f" and {channels} channels" if channels > 1 else ""
        what = f"grey images with {len(size)} sides{of}"
        raise ValueError(f"its network does not take {what} ({shorten(error)})") from None
    classes = input.classes  # none: lesion or not
    expected = len(checked_classes(classes)) if classes else 1
    if logits.shape != (1, expected, *pixel.shape[2:]):
        of = f"of the classes {', '.join(classes)}" if classes else "of lesions"
        raise ValueError(f"its network returns {logits.shape[1]} maps per image, expected {expected}, {of}.")


def shorten(error: Exception) -> str:
    """The message of an error, shortened to one line: torch lists every tensor of a state that does not fit."""
    return textwrap.shorten(str(error), 200, placeholder=" ...")
