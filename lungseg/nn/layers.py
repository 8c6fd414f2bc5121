"""Small layers that several networks share."""

from collections.abc import Sequence
from math import inf
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The layers that differ between images and volumes, by spatial_dims.
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, applied to each token by itself.

    "Attention Is All You Need" (Vaswani et al. 2017), section 3.3, with GELU as in ViT (Dosovitskiy et
    al. 2021, equation 3).

    Args:
        dim: channels in and out.
        hidden_dim: channels between the two layers, usually 4 * dim.
        drop: probability of dropping a channel after each layer, in training.
    """

    def __init__(self, dim: int, hidden_dim: int, *, drop: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        x = self.drop(F.gelu(self.fc1(x)))  # (..., hidden_dim)
        return self.drop(self.fc2(x))


class DropPath(nn.Module):
    """Stochastic depth: in training, leave a residual branch out for some images of the batch.

    "Deep Networks with Stochastic Depth" (Huang et al. 2016), equation 2, with one draw per image. What
    stays is divided by its probability of staying, so that the mean is that of evaluation, where nothing
    is dropped.

    Args:
        rate: probability of dropping the branch, 0 <= rate < 1.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        check_rates("DropPath", rate=rate)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(1.0 - self.rate)  # (B, 1, ..., 1)
        return x * keep / (1.0 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


def trunc_normal_init(module: nn.Module) -> None:
    """Draw the weights of a linear layer as ViT and Swin do: normal, sd 0.02, cut at +-2; bias 0.

    Use it as `network.apply(trunc_normal_init)`; other layers keep torch's own initialisation.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def is_count(value: object) -> bool:
    """Whether a value is an integer of at least 1, Python's or numpy's."""
    return isinstance(value, Integral) and value >= 1


def check_counts(name: str, **options: object) -> None:
    """Raise a `ValueError` in words unless each option is an integer of at least 1."""
    for option, value in options.items():
        if not is_count(value):
            raise ValueError(f"{name}: {option} must be an integer of at least 1, got {value!r}.")


def check_stages(name: str, **options: object) -> None:
    """Raise a `ValueError` in words unless each option is a sequence of integers of at least 1, and not empty."""
    for option, value in options.items():
        sequence = isinstance(value, Sequence) and not isinstance(value, str)
        if not sequence or not value or not all(is_count(n) for n in value):
            raise ValueError(
                f"{name}: {option} must name at least one stage, each by an integer of at least 1, got {value!r}. "
                f"Give a sequence such as (2, 2), or (2,) for a single stage."
            )


def check_rates(name: str, **options: object) -> None:
    """Raise a `ValueError` in words unless each option is a probability below 1: with 1 nothing would be left."""
    for option, value in options.items():
        if not isinstance(value, Real) or not 0 <= value < 1:
            raise ValueError(f"{name}: {option} must be a probability in [0, 1), got {value!r}.")


def check_mlp_ratio(name: str, dim: int, mlp_ratio: object) -> None:
    """Raise a `ValueError` in words unless an MLP of mlp_ratio * dim hidden channels has at least one."""
    if not isinstance(mlp_ratio, Real) or not 1 <= mlp_ratio * dim < inf:
        raise ValueError(f"{name}: mlp_ratio must be a number of at least 1/{dim}, one channel, got {mlp_ratio!r}.")


def check_image(name: str, image: Tensor, in_channels: int, dtype: torch.dtype, *, spatial_dims: int = 2) -> None:
    """Raise a `ValueError` in words unless an image is a (B, in_channels, H, W[, D]) tensor that suits the weights.

    Args:
        name: who is asking.
        image: what was given.
        in_channels, spatial_dims: of the network.
        dtype: of its weights. The image must have the same, or under autocast another below float64.
    """
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{name}: the image is a {type(image).__name__}, but a torch tensor was expected. "
            f"Convert it by torch.from_numpy(image) or torch.tensor(image)."
        )
    if image.dim() != spatial_dims + 2 or image.shape[1] != in_channels or min(image.shape) < 1:
        raise ValueError(
            f"{name}: the image has shape {tuple(image.shape)}, but (B, {in_channels}, "
            f"{', '.join('HWD'[:spatial_dims])}) with sides of at least 1 was expected. "
            f"{shape_remedy(tuple(image.shape), in_channels, spatial_dims)}"
        )
    if image.dtype != dtype and not (autocast_casts(image.dtype, image) and autocast_casts(dtype, image)):
        remedy = "image.float()" if dtype == torch.float32 else f"image.to({dtype})"
        raise ValueError(f"{name}: the image is {image.dtype}, but the weights are {dtype}. Convert it by {remedy}.")


def shape_remedy(shape: tuple[int, ...], in_channels: int, spatial_dims: int) -> str:
    """What to do about an image of a wrong shape."""
    missing = spatial_dims + 2 - len(shape)
    if 0 in shape:
        return "There is nothing in it: check how it was cut or collected."
    if missing == 2 and in_channels == 1:
        return "Add the axes of batch and channel by image[None, None]."
    if missing == 1 and shape[0] == in_channels:
        return "Add the axis of the batch by image[None]."
    if missing == 1 and in_channels == 1:
        return "Add the axis of the channel by image[:, None]."
    if missing == 0 and shape[-1] == in_channels:
        return "Bring the channels to the front by image.movedim(-1, 1)."
    if missing == 0:
        return f"Reshape it, or build the network with in_channels={shape[1]}."
    return "Reshape it."


def autocast_casts(dtype: torch.dtype, image: Tensor) -> bool:
    """Whether autocast is on where the image is, and would bring a tensor of this dtype to its own."""
    return dtype.is_floating_point and dtype != torch.float64 and torch.is_autocast_enabled(image.device.type)


class InstanceNorm(nn.GroupNorm):
    """Give each channel of each image mean 0 and variance 1 over its own pixels, then a learned scale and shift.

    "Instance Normalization" (Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022), equation 2: group norm
    with one channel per group. A map of a single pixel becomes the shift alone; torch's own classes refuse it.

    Args:
        channels: channels in and out.
        affine: learn the scale and the shift. Off, scale 1 and shift 0.
    """

    def __init__(self, channels: int, *, affine: bool = True):
        super().__init__(channels, channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


NORM = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: InstanceNorm, 3: InstanceNorm},
}


def conv_norm_relu(in_channels: int, out_channels: int, *, spatial_dims: int = 2, norm: str = "batch") -> nn.Sequential:
    """3 x 3 (x 3) convolution that keeps the size, normalisation, ReLU: (B, in, *spatial) -> (B, out, *spatial).

    The convolution has no bias: the normalisation would subtract it again.
    """
    return nn.Sequential(
        CONV[spatial_dims](in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        NORM[norm][spatial_dims](out_channels),
        nn.ReLU(inplace=True),
    )


def double_conv(in_channels: int, out_channels: int, *, spatial_dims: int = 2, norm: str = "batch") -> nn.Sequential:
    """`conv_norm_relu` twice: what each stage of a U-Net is made of (Ronneberger et al. 2015, Figure 1)."""
    return nn.Sequential(
        conv_norm_relu(in_channels, out_channels, spatial_dims=spatial_dims, norm=norm),
        conv_norm_relu(out_channels, out_channels, spatial_dims=spatial_dims, norm=norm),
    )


def check_batch_norm(name: str, x: Tensor, stride: int) -> None:
    """Raise a `ValueError` in words if the map at `stride` has one pixel in all: no batch to normalise over."""
    if x.shape[0] == 1 and max(x.shape[2:]) <= stride:
        raise ValueError(
            f"{name}: one image of {' x '.join(map(str, x.shape[2:]))} pixels is a single pixel at stride {stride}, "
            f"and batch norm cannot train on one value per channel. Give two images or more, or a side above {stride}."
        )
