"""What a network is given: each option and each image is checked once, and refused with the reason and the remedy."""

from collections.abc import Sequence
from math import inf
from numbers import Integral, Real
from typing import TypeGuard

import torch
from torch import Tensor


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is an integer of at least 1, Python's or NumPy's."""
    return isinstance(value, Integral) and int(value) >= 1


def check_counts(name: str, **options: int) -> None:
    """Raise a `ValueError` that names the option unless each is an integer of at least 1."""
    for option, value in options.items():
        if not is_count(value):
            raise ValueError(f"{name}: {option} must be an integer of at least 1, got {value!r}.")


def check_stages(name: str, **options: Sequence[int]) -> None:
    """Raise a `ValueError` that names the option unless each is a non-empty sequence of integers of at least 1."""
    for option, value in options.items():
        sequence = isinstance(value, Sequence) and not isinstance(value, str)
        if not sequence or not value or not all(is_count(n) for n in value):
            raise ValueError(
                f"{name}: {option} must name at least one stage, each by an integer of at least 1, got {value!r}. "
                f"Give a sequence such as (2, 2), or (2,) for a single stage."
            )


def check_rates(name: str, **options: float) -> None:
    """Raise a `ValueError` that names the option unless each is a probability below 1: at 1 nothing would be left."""
    for option, value in options.items():
        if not isinstance(value, Real) or not 0 <= value < 1:
            raise ValueError(f"{name}: {option} must be a probability in [0, 1), got {value!r}.")


def check_mlp_ratio(name: str, dim: int, mlp_ratio: float) -> None:
    """Raise a `ValueError` unless an MLP with mlp_ratio * dim hidden channels has at least one."""
    if not isinstance(mlp_ratio, Real) or not 1 <= mlp_ratio * dim < inf:
        raise ValueError(f"{name}: mlp_ratio must be a number of at least 1/{dim}, one channel, got {mlp_ratio!r}.")


def check_image(name: str, image: Tensor, in_channels: int, dtype: torch.dtype, *, spatial_dims: int = 2) -> None:
    """Raise a `ValueError` with the remedy unless the image is (B, in_channels, H, W[, D]) and suits the weights.

    Args:
        name: the network, for the message.
        image: what it was given.
        in_channels, spatial_dims: of the network.
        dtype: of its weights. The image must have the same, or, under autocast, any other below float64.
    """
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name}: the image is a {type(image).__name__}, but a torch tensor was expected. "
            f"Convert it with torch.from_numpy(image) or torch.tensor(image)."
        )
    if image.dim() != spatial_dims + 2 or image.shape[1] != in_channels or min(image.shape) < 1:
        raise ValueError(
            f"{name}: the image has shape {tuple(image.shape)}, but (B, {in_channels}, "
            f"{', '.join('HWD'[:spatial_dims])}) with sides of at least 1 was expected. "
            f"{_shape_remedy(tuple(image.shape), in_channels, spatial_dims)}"
        )
    if image.dtype != dtype and not (_autocast_casts(image.dtype, image) and _autocast_casts(dtype, image)):
        remedy = "image.float()" if dtype == torch.float32 else f"image.to({dtype})"
        raise ValueError(f"{name}: the image is {image.dtype}, but the weights are {dtype}. Convert it with {remedy}.")


def _shape_remedy(shape: tuple[int, ...], in_channels: int, spatial_dims: int) -> str:
    """What to do about an image of this wrong shape."""
    missing = spatial_dims + 2 - len(shape)
    if 0 in shape:
        return "It is empty: check how it was cropped or collected."
    if missing == 2 and in_channels == 1:
        return "Add the batch and channel axes with image[None, None]."
    if missing == 1 and shape[0] == in_channels:
        return "Add the batch axis with image[None]."
    if missing == 1 and in_channels == 1:
        return "Add the channel axis with image[:, None]."
    if missing == 0 and shape[-1] == in_channels:
        return "Move the channels to the front with image.movedim(-1, 1)."
    if missing == 0:
        return f"Reshape it, or build the network with in_channels={shape[1]}."
    return "Reshape it."


def _autocast_casts(dtype: torch.dtype, image: Tensor) -> bool:
    """Whether autocast is on for the image's device, and would cast a tensor of this dtype."""
    return dtype.is_floating_point and dtype != torch.float64 and torch.is_autocast_enabled(image.device.type)


def check_batch_norm(name: str, x: Tensor, stride: int) -> None:
    """Raise a `ValueError` if the map at `stride` has a single pixel in all: batch norm would have one value."""
    if x.shape[0] == 1 and max(x.shape[2:]) <= stride:
        raise ValueError(
            f"{name}: one image of {' x '.join(map(str, x.shape[2:]))} pixels is a single pixel at stride {stride}, "
            f"and batch norm cannot train on one value per channel. Give two images or more, or a side above {stride}."
        )
