"""In which order the numbers of a map lie in memory: the same values, and on a CPU a different speed.

torch stores a map (B, C, H, W) channel by channel. In the format `channels_last` all channels of a pixel lie side by
side instead. Shapes, values and formulas stay the same, and each layer passes the format on to the next; but on a CPU
max-pooling, batch norm and transposed convolutions are then 2 to 13 times as fast, convolutions a little faster.
docs/benchmarks.md in the repository has the measurements. On a GPU nothing is changed here: it was not measured there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The exceptions. In two dimensions the gradient of a kernel takes 3 to 4 times as long in this format, without the
# instructions of AVX-512. With them, volumes that need no gradient take 5 % longer.
KERNEL_GRADIENT_IS_FAST = torch.backends.cpu.get_cpu_capability() == "AVX512"


def fast_layout(image: Tensor) -> Tensor:
    """The image (B, C, H, W) in the format in which a network of convolutions is faster: the same shape and values."""
    if image.device.type != "cpu" or (torch.is_grad_enabled() and not KERNEL_GRADIENT_IS_FAST):
        return image
    # A copy, because of an image with one channel torch cannot tell the format: both have the same order of numbers.
    return image.clone(memory_format=torch.channels_last)


def has_channels_last(x: Tensor) -> bool:
    """Whether a volume (B, C, H, W, D) on a CPU has its channels last, as `Conv3d` leaves it."""
    return x.device.type == "cpu" and x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last_3d)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that computes on a CPU with the channels last where that is faster: the same values, up to rounding.

    The gradient of a 3 x 3 x 3 convolution at full resolution is then up to 1.7 times as fast. The input is brought
    into this format, at no cost if it already is; the output is in it, so that the next layer finds it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W, D) -> (B, out_channels, H', W', D'); or both without B."""
        slower = KERNEL_GRADIENT_IS_FAST and not torch.is_grad_enabled()
        if x.device.type != "cpu" or self.in_channels == 1 or slower or x.dim() != 5:  # a single channel has no order
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if max(self.kernel_size) == 1 == max(self.stride) == self.groups and not any(self.padding):
            # A linear map of each voxel: torch's convolution would take 8 times as long.
            return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        return super().forward(x)
