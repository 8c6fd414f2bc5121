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
    LayerNorm2d,
    conv_norm_relu,
    crop,
    double_conv,
    interpolate_antialiased,
    trunc_normal_init,
    width_init,
)
from lungseg.nn.lora import LowRankQV, add_lora, merge_lora
from lungseg.nn.memory_layout import Conv3d, fast_layout, has_channels_last
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging, complete_patches
from lungseg.nn.refiner import CandidateRefiner, Refined, zero_init
from lungseg.nn.resnet_unet import Bottleneck, ResNet50Encoder, ResNet50UNet, imagenet_input
from lungseg.nn.rrc_unet import RecurrentConv, RecurrentResidualBlock, RRCUNet
from lungseg.nn.sam import (
    SAM,
    MedSAM,
    frame_size,
    logits_to_original,
    places_to_frame,
    resize_bilinear,
    sam_input,
)
from lungseg.nn.sam_decoder import CrossAttention, MaskDecoder, TwoWayBlock, TwoWayTransformer, relu_mlp
from lungseg.nn.sam_encoder import (
    DecomposedAttention,
    SAMBlock,
    SAMImageEncoder,
    decomposed_bias,
    relative_vectors,
    resize_relative_positions,
)
from lungseg.nn.sam_prompts import FourierPositions, PromptEncoder
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
    "CandidateRefiner",
    "Conv3d",
    "ConvDecoder",
    "ConvStem",
    "CrossAttention",
    "DecomposedAttention",
    "DropPath",
    "FourierPositions",
    "InstanceNorm",
    "LayerNorm2d",
    "LowRankQV",
    "MLP",
    "MaskDecoder",
    "MedSAM",
    "PatchEmbed",
    "PatchExpanding",
    "PatchMerging",
    "PromptEncoder",
    "RRCUNet",
    "RecurrentConv",
    "RecurrentResidualBlock",
    "Refined",
    "ResNet50Encoder",
    "ResNet50UNet",
    "ResidualBlock",
    "SAM",
    "SAMBlock",
    "SAMImageEncoder",
    "SelfAttention",
    "SwinBlock",
    "SwinUNet",
    "TransformerBlock",
    "TwoWayBlock",
    "TwoWayTransformer",
    "UNETR",
    "UNet",
    "UpBlock",
    "ViTEncoder",
    "WindowAttention",
    "add_lora",
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
    "decomposed_bias",
    "deconvolution",
    "double_conv",
    "fast_layout",
    "frame_size",
    "fused_attention",
    "has_channels_last",
    "imagenet_input",
    "interpolate_antialiased",
    "is_count",
    "logits_to_original",
    "merge_lora",
    "pad_to_multiple",
    "places_to_frame",
    "relative_position_index",
    "relative_vectors",
    "relu_mlp",
    "resize_bilinear",
    "resize_positions",
    "resize_relative_positions",
    "sam_input",
    "shifted_window_mask",
    "skip_path",
    "token_grid",
    "tokens_to_map",
    "trunc_normal_init",
    "width_init",
    "window_partition",
    "window_reverse",
    "zero_init",
]
