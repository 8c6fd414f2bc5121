"""RRC-U-Net: a U-Net of recurrent residual convolutions, for volumes.

"RRc-UNet 3D for lung tumor segmentation from CT scans of Non-Small Cell Lung Cancer patients" (Le and Saut, ICCV
Workshops 2023). Its code was never published. This is our reading of it, built from the recurrent residual unit of its
predecessors, R2U-Net (Alom et al. 2018, https://arxiv.org/abs/1802.06955) and, in three dimensions, R2U3D (Kadia et
al. 2021, https://arxiv.org/abs/2105.02290). We do not claim that it equals the paper's network or its results.
"""

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import is_count
from lungseg.nn.layers import CONV, NORM
from lungseg.nn.unet import UNet


class RecurrentConv(nn.Module):
    """A convolution of x that is refined several times by its own last output. Alom et al. 2018, equations 1 and 2.

    h(0) = Wf * x and h(t) = relu(norm_t(Wf * x + Wr * h(t-1))), with t = 1 ... steps. All steps share the two
    convolutions: each step widens the receptive field by a pixel on every side, without new kernels. They do not share
    the normalisations: maps of different steps have different means, and batch norm keeps a running mean.

    Args:
        channels: channels in and out.
        steps: how often Wr is applied.
        spatial_dims, norm: as in `UNet`.
    """

    def __init__(self, channels: int, *, steps: int = 2, spatial_dims: int = 3, norm: str = "instance"):
        super().__init__()
        self.feed_forward = CONV[spatial_dims](channels, channels, kernel_size=3, padding=1, bias=False)  # Wf
        self.recurrent = CONV[spatial_dims](channels, channels, kernel_size=3, padding=1, bias=False)  # Wr
        self.norms = nn.ModuleList(NORM[norm][spatial_dims](channels) for _ in range(steps))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, *spatial) -> the same."""
        drive = h = self.feed_forward(x)
        for norm in self.norms:
            h = F.relu(norm(drive + self.recurrent(h)), inplace=True)
        return h


class RecurrentResidualBlock(nn.Module):
    """x + two recurrent convolutions of x, where x first passes a 1 x 1 convolution to the right number of channels.

    Alom et al. 2018, Figure 4 (d).

    Args:
        in_channels, out_channels: channels in and out.
        steps, spatial_dims, norm: of each `RecurrentConv`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, steps: int = 2, spatial_dims: int = 3, norm: str = "instance"
    ):
        super().__init__()
        unit = partial(RecurrentConv, out_channels, steps=steps, spatial_dims=spatial_dims, norm=norm)
        self.project = CONV[spatial_dims](in_channels, out_channels, kernel_size=1)
        self.units = nn.Sequential(unit(), unit())

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, *spatial) -> (B, out_channels, *spatial)."""
        x = self.project(x)
        return x + self.units(x)


class RRCUNet(UNet):
    """`UNet` with `RecurrentResidualBlock` in every stage: our reading of Le and Saut 2023.

    Args:
        in_channels, num_classes, spatial_dims, channels, norm: as in `UNet`, with defaults for volumes.
        steps: how often each recurrent convolution is applied; 2 in R2U-Net.

    Raises:
        ValueError: as `UNet`, or for fewer than one step.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        spatial_dims: int = 3,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        norm: str = "instance",
        steps: int = 2,
    ):
        if not is_count(steps):
            raise ValueError(
                f"RRCUNet: steps must be an integer of at least 1, got {steps!r}. Without recurrence, use UNet."
            )
        block = partial(RecurrentResidualBlock, steps=steps, spatial_dims=spatial_dims, norm=norm)
        super().__init__(in_channels, num_classes, spatial_dims=spatial_dims, channels=channels, norm=norm, block=block)
