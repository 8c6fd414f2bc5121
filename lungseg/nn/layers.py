"""Small layers that several networks share."""

import torch.nn.functional as F
from torch import Tensor, nn


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
        raise ValueError(f"{name}: the image is {x.dtype}, but floating point was expected. Use image.float() / 255 or the like.")
