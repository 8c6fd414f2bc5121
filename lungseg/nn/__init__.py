"""The networks and the layers they are made of: tensors in, tensors out."""

from lungseg.nn.attention import SelfAttention, WindowAttention, attention
from lungseg.nn.layers import MLP, DropPath
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging
from lungseg.nn.resnet_unet import ResNet50Encoder, ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinBlock, SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
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
    "UNETR",
    "DropPath",
    "PatchEmbed",
    "PatchExpanding",
    "PatchMerging",
    "RRCUNet",
    "ResNet50Encoder",
    "ResNet50UNet",
    "SelfAttention",
    "SwinBlock",
    "SwinUNet",
    "UNet",
    "WindowAttention",
    "attention",
    "cyclic_shift",
    "pad_to_multiple",
    "relative_position_index",
    "shifted_window_mask",
    "window_partition",
    "window_reverse",
]
