"""Step 10 of 25: the MLP of each token, and stochastic depth.

MLP: linear, GELU, linear. DropPath: in training drop whole images with probability `rate`, divide the rest by 1 - rate.
Hint: one random number per image, shape (B, 1, ..., 1); in evaluation nothing is dropped.
Read: docs/nn/patches.md. Time: about 25 minutes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        """dim channels in and out, hidden_dim between."""
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Drop a residual branch for some images of the batch, in training."""

    def __init__(self, rate: float = 0.0):
        """rate: probability of dropping, 0 <= rate < 1."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)
