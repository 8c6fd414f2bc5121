"""The networks and the layers they are made of: tensors in, tensors out.

Every class and function of the files next to this one can be imported from here: `from lungseg.nn import SwinUNet`.
"""

from lungseg.nn.arguments import (
    check_batch_norm,
    check_counts,
    check_image,
    check_mlp_ratio,
    check_rates,
    check_stages,
    is_count,
)
from lungseg.nn.attention import SelfAttention, WindowAttention, attention, fused_attention
from lungseg.nn.bert import BERT, BertBlock
from lungseg.nn.biomedclip import BiomedCLIP, clip_input
from lungseg.nn.conv_stem import ConvDecoder, ConvStem
from lungseg.nn.layers import (
    MLP,
    DropPath,
    InstanceNorm,
    conv_norm_relu,
    crop,
    double_conv,
    trunc_normal_init,
    width_init,
)
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging, complete_patches
from lungseg.nn.resnet_unet import Bottleneck, ResNet50Encoder, ResNet50UNet, imagenet_input
from lungseg.nn.rrc_unet import RecurrentConv, RecurrentResidualBlock, RRCUNet
from lungseg.nn.swin_unet import SwinBlock, SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import (
    UNETR,
    ResidualBlock,
    TransformerBlock,
    UpBlock,
    deconvolution,
    resize_positions,
    skip_path,
    token_grid,
    tokens_to_map,
)
from lungseg.nn.vit import ViTEncoder
from lungseg.nn.windows import (
    cyclic_shift,
    pad_to_multiple,
    relative_position_index,
    shifted_window_mask,
    window_partition,
    window_reverse,
)

__all__ = [
    "BERT",
    "BertBlock",
    "BiomedCLIP",
    "Bottleneck",
    "ConvDecoder",
    "ConvStem",
    "DropPath",
    "InstanceNorm",
    "MLP",
    "PatchEmbed",
    "PatchExpanding",
    "PatchMerging",
    "RRCUNet",
    "RecurrentConv",
    "RecurrentResidualBlock",
    "ResNet50Encoder",
    "ResNet50UNet",
    "ResidualBlock",
    "SelfAttention",
    "SwinBlock",
    "SwinUNet",
    "TransformerBlock",
    "UNETR",
    "UNet",
    "UpBlock",
    "ViTEncoder",
    "WindowAttention",
    "attention",
    "check_batch_norm",
    "check_counts",
    "check_image",
    "check_mlp_ratio",
    "check_rates",
    "check_stages",
    "clip_input",
    "complete_patches",
    "conv_norm_relu",
    "crop",
    "cyclic_shift",
    "deconvolution",
    "double_conv",
    "fused_attention",
    "imagenet_input",
    "is_count",
    "pad_to_multiple",
    "relative_position_index",
    "resize_positions",
    "shifted_window_mask",
    "skip_path",
    "token_grid",
    "tokens_to_map",
    "trunc_normal_init",
    "width_init",
    "window_partition",
    "window_reverse",
]
