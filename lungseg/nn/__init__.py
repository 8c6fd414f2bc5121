"""The networks and the layers they are made of: tensors in, tensors out."""

from lungseg.nn.attention import WindowAttention, attention
from lungseg.nn.layers import MLP, DropPath
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging
from lungseg.nn.swin_unet import SwinBlock, SwinUNet
from lungseg.nn.windows import (
    cyclic_shift,
    pad_to_multiple,
    relative_position_index,
    shifted_window_mask,
    window_partition,
    window_reverse,
)

__all__ = [
    "MLP",
    "DropPath",
    "PatchEmbed",
    "PatchExpanding",
    "PatchMerging",
    "SwinBlock",
    "SwinUNet",
    "WindowAttention",
    "attention",
    "cyclic_shift",
    "pad_to_multiple",
    "relative_position_index",
    "shifted_window_mask",
    "window_partition",
    "window_reverse",
]
