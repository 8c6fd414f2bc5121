"""Small layers that several networks share."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_rates
from lungseg.nn.memory_layout import Conv3d, has_channels_last

# The layers that differ between images and volumes, by spatial_dims.
CONV: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: Conv3d}
CONV_TRANSPOSE: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
MAX_POOL: dict[int, type[nn.MaxPool2d] | type[nn.MaxPool3d]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them, applied to each token separately.

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
    """Stochastic depth: in training, drop a residual branch for some images of the batch.

    "Deep Networks with Stochastic Depth" (Huang et al. 2016), equation 2, with one draw per image. What is
    kept is divided by the probability of keeping it, so that the mean equals that of evaluation, where nothing
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
        """The rate, in the printed network."""
        return f"rate={self.rate:.3g}"


def trunc_normal_init(module: nn.Module) -> None:
    """Draw the weights of a linear layer as ViT and Swin do: normal, sd 0.02, truncated at +-2; bias 0.

    Use it as `network.apply(trunc_normal_init)`; other layers keep torch's own initialisation.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def width_init(module: nn.Module) -> None:
    """Draw the weights of a linear layer with sd 1 / sqrt(inputs), truncated at +-2 sd; bias 0; embeddings sd 0.02.

    CLIP's code draws its towers by their width in this way. The sd of 0.02 of ViT and BERT is close to it at 768
    channels (0.036), but at 64 (0.125) it leaves a network that hardly depends on its input, and learns slowly.
    """
    if isinstance(module, nn.Linear):
        std = module.in_features**-0.5
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


class InstanceNorm(nn.GroupNorm):
    """Give each channel of each image mean 0 and variance 1 over its own pixels, then a learned scale and shift.

    "Instance Normalization" (Ulyanov et al. 2016, https://arxiv.org/abs/1607.08022), equation 2: group norm
    with one channel per group. A map of a single pixel becomes 0, plus the shift; torch's own classes refuse it.

    Args:
        channels: channels in and out.
        affine: learn the scale and the shift. If False, they are 1 and 0.
    """

    def __init__(self, channels: int, *, affine: bool = True):
        super().__init__(channels, channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same."""
        if x.requires_grad and x.dim() == 5 and x.dtype == torch.float32 and has_channels_last(x):
            # Batch norm of a single image is the same. Its gradient takes an eighth of the time in this format.
            images = [self._norm_of_one(image) for image in x.split(1)]
            return images[0] if len(images) == 1 else torch.cat(images)
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _norm_of_one(self, image: Tensor) -> Tensor:
        """(1, channels, *spatial) -> the same."""
        return torch.batch_norm(image, self.weight, self.bias, None, None, True, 0.0, self.eps, False)


class LayerNorm2d(nn.Module):
    """LayerNorm for maps with the channels first: each pixel gets mean 0 and variance 1 over its own channels.

    `nn.LayerNorm` wants the channels last; `InstanceNorm` averages over pixels instead. Convolutional layers of SAM.

    Args:
        channels: channels in and out.
        eps: added to the variance.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)  # (B, H, W, channels)
        return x.movedim(-1, 1)


NORM: dict[str, dict[int, Callable[[int], nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: InstanceNorm, 3: InstanceNorm},
}


def conv_norm_relu(
    in_channels: int, out_channels: int, *, spatial_dims: int = 2, norm: str = "batch", stride: int = 1
) -> nn.Sequential:
    """3 x 3 (x 3) convolution that keeps the size, normalisation, ReLU: (B, in, *spatial) -> (B, out, *spatial).

    The convolution has no bias: the normalisation would subtract it again. With stride 2 the sides are halved and
    rounded up.
    """
    return nn.Sequential(
        CONV[spatial_dims](in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        NORM[norm][spatial_dims](out_channels),
        nn.ReLU(inplace=True),
    )


def double_conv(in_channels: int, out_channels: int, *, spatial_dims: int = 2, norm: str = "batch") -> nn.Sequential:
    """`conv_norm_relu` twice: each stage of a U-Net consists of this (Ronneberger et al. 2015, Figure 1)."""
    return nn.Sequential(
        conv_norm_relu(in_channels, out_channels, spatial_dims=spatial_dims, norm=norm),
        conv_norm_relu(out_channels, out_channels, spatial_dims=spatial_dims, norm=norm),
    )


def interpolate_antialiased(x: Tensor, size: Sequence[int], mode: str) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), "bilinear" or "bicubic", each pixel weighing in when shrinking.

    torch 2.13 repeats the first row in a result that is one pixel wide. On its side the same image comes out right.
    """
    if size[1] == 1:
        return F.interpolate(x.mT, size=(1, size[0]), mode=mode, antialias=True).mT
    return F.interpolate(x, size=tuple(size), mode=mode, antialias=True)


def crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Crop (B, C, *spatial) to `size` at the bottom and right: 2 * ceil(n / 2) is one too many where n is odd."""
    for dim, n in enumerate(size, start=2):
        x = x.narrow(dim, 0, n)
    return x
