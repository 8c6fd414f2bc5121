"""Small layers that several networks share."""

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
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"DropPath: rate is a probability in [0, 1), got {rate}.")
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


def check_channels(name: str, x: Tensor, in_channels: int, *, spatial_dims: int = 2) -> None:
    """Raise a `ValueError` in words unless `x` is a (B, in_channels, H, W[, D]) floating-point image."""
    wanted = f"(B, {in_channels}, {', '.join('HWD'[:spatial_dims])})"
    if x.dim() != spatial_dims + 2 or x.shape[1] != in_channels or min(x.shape) < 1:
        raise ValueError(
            f"{name}: the image has shape {tuple(x.shape)}, but {wanted} with sides of at least 1 was expected. "
            f"Reshape it, or build the network with in_channels={x.shape[1] if x.dim() > 1 else '...'}."
        )
    if not x.is_floating_point():
        raise ValueError(
            f"{name}: the image is {x.dtype}, but floating point was expected. Use image.float() / 255 or the like."
        )


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
