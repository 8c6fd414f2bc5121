"""From a checkpoint to lesion probabilities: build the network again, and bring any slice or volume to it and back.

A network knows lesions in pixels, not in millimetres. So an input is first scaled as the slices of its training were,
then covered with windows of the size it was trained on, and the logits are scaled back to the input's own pixels.
"""

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from lungseg.checkpoint import load_checkpoint
from lungseg.data.ct import hu_to_unit, resize_image
from lungseg.inference import sliding_window
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.recipe import option

NETWORKS = {network.__name__: network for network in (SwinUNet, UNETR, ResNet50UNet, UNet, RRCUNet)}
MOST_RATIO = 1.5  # between the pixels of an image and of the training, in mm, before we call them unlike


@dataclass(frozen=True)
class PredictOptions:
    """What a script decides that predicts with a trained network; each field is one of its flags."""

    threshold: float = option(0.5, "lesion is where the probability is above this")
    overlap: float = option(0.5, "share of a window's side that the next one covers again; more is slower and smoother")
    batch_size: int = option(8, "windows in the network at once; fewer need less memory")
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "where to compute; auto takes a GPU if there is one; mps is that of an Apple computer"
    )

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"--threshold must lie between 0 and 1, got {self.threshold}.")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"--overlap must be at least 0 and below 1, got {self.overlap}.")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, got {self.batch_size}.")


# ---- from a checkpoint to a network -----------------------------------------------------------------------------


def build_network(network: dict[str, Any], state: dict[str, Tensor]) -> nn.Module:
    """Build the network that a checkpoint describes and give it its weights: on the CPU, in evaluation mode.

    Args:
        network: {"name": one of NETWORKS, "arguments": {...}}, as `saved["network"]` of a checkpoint.
        state: its parameters and buffers, `saved["model"]`.

    Raises:
        ValueError: in one sentence, if the name is unknown or the arguments or the state do not fit.
    """
    name, arguments = network["name"], network["arguments"]
    if name not in NETWORKS:
        raise ValueError(
            f"the network {name!r} is none of {', '.join(NETWORKS)}. Update lungseg, or train one of them."
        )
    try:
        model = NETWORKS[name](**arguments)
    except Exception as error:  # a file can hold any arguments, and torch has many ways to refuse them
        raise ValueError(f"{name} cannot be built with the saved arguments ({in_short(error)})") from None
    try:
        model.load_state_dict(state)
    except Exception as error:
        raise ValueError(f"the saved weights do not fit {name} ({in_short(error)})") from None
    return model.eval()


def load_predictor(
    path: str | Path, device: str | torch.device = "cpu", *, overlap: float = 0.5, batch_size: int = 8
) -> "Predictor":
    """Read a checkpoint of a training script, such as run/best.pt, and make its network ready to predict.

    Args:
        device: where the network computes.
        overlap, batch_size: of its windows, as in `lungseg.inference.sliding_window`.

    Raises:
        ValueError: in one sentence that begins with the path, if anything in it does not fit.
    """
    saved = load_checkpoint(path)
    try:
        if "input" not in saved:
            raise ValueError(
                'it does not say what images it was trained on (no "input"): an older version wrote it. '
                "Train the network again with this one."
            )
        network = build_network(saved["network"], saved["model"])
        check_input(network, saved["input"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (TypeError, LookupError, AttributeError):  # entries are missing, or of other types
        raise ValueError(f"{path}: its entries are not those of a training script. Use another checkpoint.") from None
    return Predictor(network.to(device), saved["input"], overlap=overlap, batch_size=batch_size)


def check_input(network: nn.Module, input: dict[str, Any]) -> None:
    """Raise a ValueError unless the "input" of a checkpoint is sound and the network takes such images."""
    size, scale, spacing, (low, high) = input["size"], input["scale"], input["spacing_mm"], input["hu_window"]
    lengths = [*size, *scale, *(mm for mm in np.ravel(spacing) if mm is not None)]  # None, of any axis, is unknown
    sound = all(math.isfinite(n) and n > 0 for n in lengths) and len(size) == len(scale) and low < high
    if not sound or len(size) not in (2, 3):
        raise ValueError(f'its "input" makes no sense: {input}. Use another checkpoint.')
    pixel = torch.zeros(1, 1, *[1] * len(size))  # (1, 1, 1, 1[, 1]): every network of ours takes it
    try:
        with torch.no_grad():
            logits = network(pixel)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"its network takes no grey images with {len(size)} sides ({in_short(error)})") from None
    if logits.shape != pixel.shape:
        raise ValueError(f"its network gives {logits.shape[1]} maps for an image; one, of lesions, is wanted.")


def in_short(error: Exception) -> str:
    """What torch says, on one line: of a state that does not fit it lists every tensor."""
    return textwrap.shorten(str(error), 200, placeholder=" ...")


# ---- from an image to probabilities -----------------------------------------------------------------------------


class Predictor:
    """A trained network that takes slices and volumes of any size.

    Args:
        network: (B, 1, *spatial) grey images in [0, 1] -> logits (B, 1, *spatial), in evaluation mode.
        input: what it was trained on, the "input" of a checkpoint: `size` in pixels along each side, `scale` in
            training pixels per pixel of the data's files, `hu_window` (low, high), and `spacing_mm`, or None.
        overlap, batch_size: of its windows, as in `lungseg.inference.sliding_window`.

    Attributes:
        spatial_dims: 2 if the network takes slices, 3 if it takes volumes.
    """

    def __init__(self, network: nn.Module, input: dict[str, Any], *, overlap: float = 0.5, batch_size: int = 8):
        self.network, self.input, self.overlap, self.batch_size = network, input, overlap, batch_size
        self.spatial_dims = len(input["size"])

    def grey(self, hu: ArrayLike) -> NDArray[np.float32]:
        """HU of any shape -> the grey values in [0, 1] of the training (`lungseg.data.ct.hu_to_unit`)."""
        return hu_to_unit(hu, self.input["hu_window"])

    def unlike_pixels(self, spacing_mm: ArrayLike | None) -> tuple[str, str] | None:
        """How large a pixel is in an image and was in the training, where that differs too much to expect good results.

        Args:
            spacing_mm: of a pixel along each side of the image. NaN or None is unknown. To a network for slices the
                distance between the slices of a volume does not matter.

        Returns:
            Such as ("1.4 x 1.4", "0.7 x 0.7"), in mm, if along any side one is more than MOST_RATIO of the other; else,
            or if one is unknown, None.
        """
        if spacing_mm is None or self.input["spacing_mm"] is None:
            return None
        dims = self.spatial_dims
        known = np.array(self.input["spacing_mm"], dtype=float)  # NaN where it is None
        here, trained = np.array(spacing_mm)[-dims:], np.broadcast_to(known, dims)  # (dims,) each
        if not np.abs(np.log(here / trained)).max() > math.log(MOST_RATIO):  # NaN is not
            return None
        return tuple(" x ".join(f"{mm:.3g}" for mm in lengths) for lengths in (here, trained))

    def probs(self, grey: NDArray) -> NDArray[np.float32]:
        """The probability of lesion at each pixel, in the shape of `grey`.

        Args:
            grey: (H, W) or (D, H, W), floating point in [0, 1]. Its pixels should be about as large in mm as those of
                the files the network was trained on. A network for slices takes a volume slice by slice.

        Raises:
            ValueError: for other values, or for a single slice and a network for volumes.
        """
        if grey.ndim not in (2, 3) or grey.size == 0 or not np.issubdtype(grey.dtype, np.floating):
            raise ValueError(
                f"expected grey values (H, W) or (D, H, W), floating point, got {grey.shape} {grey.dtype}."
            )
        if not (grey.min() >= 0 and grey.max() <= 1):  # NaN fails both
            raise ValueError(
                f"grey values must lie in [0, 1], got {grey.min():g} to {grey.max():g}. "
                f"Use Predictor.grey for HU, and divide grey levels by the largest."
            )
        if grey.ndim < self.spatial_dims:
            raise ValueError("the network was trained on volumes, and this is a single slice. Give it a volume.")
        if grey.ndim == self.spatial_dims:
            return self._probs(grey[None])[0]
        parts = [grey[z : z + self.batch_size] for z in range(0, len(grey), self.batch_size)]
        bar = tqdm(parts, desc="slices", leave=False, disable=None)  # None: quiet when not on a terminal
        return np.concatenate([self._probs(slices) for slices in bar])  # (D, H, W)

    def _probs(self, images: NDArray) -> NDArray[np.float32]:
        """(B, *spatial) -> (B, *spatial), all B at once."""
        spatial, scale = images.shape[1:], self.input["scale"]
        scaled = tuple(max(1, round(n * factor)) for n, factor in zip(spatial, scale, strict=True))
        x = torch.from_numpy(np.stack([resize(image.astype(np.float32), scaled) for image in images]))
        logits = sliding_window(
            self.network, x[:, None], self.input["size"], overlap=self.overlap, batch_size=self.batch_size
        )  # (B, 1, *scaled)
        if scaled != spatial:  # logits cross 0 in a nearly straight line; probabilities jump there
            logits = F.interpolate(logits, spatial, mode="bilinear" if len(spatial) == 2 else "trilinear")
        return logits[:, 0].sigmoid().numpy()  # (B, *spatial)


def resize(image: NDArray[np.float32], size: tuple[int, ...]) -> NDArray[np.float32]:
    """`lungseg.data.ct.resize_image` for slices (H, W), and for volumes (D, H, W): slice by slice, then along D."""
    if image.ndim == 2:
        return resize_image(image, size)
    depth, height, width = size
    slices = np.stack([resize_image(slice_, (height, width)) for slice_ in image])  # (D, height, width)
    columns = slices.reshape(len(slices), height * width)  # an image with a row for each slice
    return resize_image(columns, (depth, height * width)).reshape(size)  # (depth, height, width)
