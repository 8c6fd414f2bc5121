"""The layouts of checkpoints that `load_published` knows, in one table.

A layout is a pattern that recognises it, a rule that renames one key, and, where a published tensor holds the same
numbers in another arrangement, a function that rearranges them first. The rules are in lungseg/weights/renaming.py;
reading, fitting and reporting, which are the same for all layouts, are in lungseg/weights/load.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor, nn

from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.nn.resnet_unet import ResNet50Encoder, ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.sam import SAM
from lungseg.nn.sam_encoder import SAMImageEncoder
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.weights.renaming import (
    note_unetr,
    rearrange_biomedclip,
    rearrange_sam,
    rearrange_swin,
    rearrange_unetr,
    rearrange_vit,
    rename_biomedclip,
    rename_ours,
    rename_resnet,
    rename_resnet_in_unet,
    rename_resnet_unet,
    rename_sam,
    rename_sam_encoder,
    rename_swin,
    rename_swin_unet,
    rename_timm_swin,
    rename_unetr,
    rename_vit,
    unchanged,
)

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Layout(Generic[Network]):
    """One way to name the tensors of a network: our own, or a published one."""

    name: str
    network: type[Network]
    recognised_by: str  # a pattern: a table of tensors may have this layout if one of its keys matches
    rename: Callable[[str, Network], list[str]]  # published key -> our names; [] where we have no such tensor
    encoder: tuple[str, ...]  # prefixes of our names that make up the encoder
    first_convolutions: tuple[str, ...]  # our kernels that read the image: their input channels can be adapted
    rearrange: Callable[[dict[str, Tensor], Network], dict[str, Tensor]] = unchanged  # same keys, in the shape of ours
    why_unused: Mapping[str, str] = field(default_factory=dict)  # pattern of keys without a place here -> the reason
    note: Callable[[Network], str] = lambda model: ""  # what tensors cannot show: how the network must be wired
    ours: bool = False  # the names of lungseg itself: everything has to fit, except for the head


SWIN_ENCODER = ("patch_embed.", "conv_stem.", "pos_drop.", "encoder.", "merging.", "bottleneck.", "norm.")
UNETR_ENCODER = ("patch_embed.", "position_embedding", "pos_drop.", "blocks.", "norm.")
UNET_ENCODER = ("encoder.", "bottleneck.")
PATCH_EMBED = ("patch_embed.proj.weight",)
SWIN_FIRST = (*PATCH_EMBED, "conv_stem.stages.0.0.0.weight")
UNETR_FIRST = (*PATCH_EMBED, "image_block.conv1.weight", "image_block.conv3.weight")
UNET_FIRST = ("encoder.0.0.0.weight", "bottleneck.0.0.weight")  # the latter if the bottleneck is the only stage
RRC_FIRST = ("encoder.0.project.weight", "bottleneck.project.weight")
RESNET_FIRST = ("encoder.conv1.weight",)
VIT_OF_SAM = ("patch_embed.", "position_embedding", "blocks.", "neck.")
SAM_FIRST = ("image_encoder.patch_embed.proj.weight",)
CLIP_TOWERS = ("visual.", "text.")
CLIP_FIRST = ("visual.patch_embed.proj.weight",)
CLASSIFIER = "the head of a classifier"
CONV_STEM = {r"(patch_embed|up)\.": "this network has convolutions there (stem='conv')"}
NO_QKV_BIAS = "this network was built with qkv_bias=False"

LAYOUTS: tuple[Layout, ...] = (  # the one that fills most of a network is used, and of equals the first
    Layout("lungseg", SwinUNet, r"(final_expanding|conv_decoder)\.", rename_ours, SWIN_ENCODER, SWIN_FIRST, ours=True),
    Layout("lungseg", UNETR, r"image_block\.", rename_ours, UNETR_ENCODER, UNETR_FIRST, ours=True),
    Layout("lungseg", ResNet50UNet, r"decoder\.0\.0\.", rename_ours, ("encoder.",), RESNET_FIRST, ours=True),
    Layout("lungseg", RRCUNet, r"bottleneck\.units\.", rename_ours, UNET_ENCODER, RRC_FIRST, ours=True),
    Layout("lungseg", UNet, r"bottleneck\.0\.", rename_ours, UNET_ENCODER, UNET_FIRST, ours=True),
    Layout("lungseg", SAM, r"prompt_encoder\.top_left", rename_ours, ("image_encoder.",), SAM_FIRST, ours=True),
    Layout("lungseg", SAMImageEncoder, r"position_embedding", rename_ours, VIT_OF_SAM, PATCH_EMBED, ours=True),
    Layout("lungseg", BiomedCLIP, r"visual\.class_token", rename_ours, CLIP_TOWERS, CLIP_FIRST, ours=True),
    Layout(
        "Swin-Unet", SwinUNet, r"layers_up\.", rename_swin_unet, SWIN_ENCODER, PATCH_EMBED, rearrange_swin, CONV_STEM
    ),
    Layout(
        "Swin (microsoft)",
        SwinUNet,
        r"layers\.0\.downsample\.",
        rename_swin,
        SWIN_ENCODER,
        PATCH_EMBED,
        rearrange_swin,
        CONV_STEM,
    ),
    Layout(
        "Swin (timm)",
        SwinUNet,
        r"layers\.1\.downsample\.",
        rename_timm_swin,
        SWIN_ENCODER,
        PATCH_EMBED,
        rearrange_swin,
        CONV_STEM,
    ),
    Layout(
        "UNETR",
        UNETR,
        r"vit\.blocks\.",
        rename_unetr,
        UNETR_ENCODER,
        UNETR_FIRST,
        rearrange_unetr,
        {
            r".*norm_cross_attn\.": "made by the published code, but no forward pass uses it",
            r".*attn\.qkv\.bias": NO_QKV_BIAS,
        },
        note_unetr,
    ),
    Layout(
        "ViT (timm)",
        UNETR,
        r"blocks\.\d+\.attn\.qkv\.",
        rename_vit,
        UNETR_ENCODER,
        PATCH_EMBED,
        rearrange_vit,
        {r"cls_token": "UNETR has no class token", r"head\.": CLASSIFIER, r".*attn\.qkv\.bias": NO_QKV_BIAS},
    ),
    Layout(
        "BiomedCLIP (open_clip)",
        BiomedCLIP,
        r"visual\.trunk\.",
        rename_biomedclip,
        CLIP_TOWERS,
        CLIP_FIRST,
        rearrange_biomedclip,
        {
            r"text\.transformer\.embeddings\.position_ids": "the numbers 0 to 511, no weights: we count positions",
            r"text\.transformer\.pooler\.": "BERT's pooler, which BiomedCLIP does not use",
        },
    ),
    Layout("ResNet50-U-Net (smp)", ResNet50UNet, r"encoder\.layer1\.", rename_resnet_unet, ("encoder.",), RESNET_FIRST),
    Layout(
        "ResNet-50 (torchvision)",
        ResNet50UNet,
        r"layer1\.",
        rename_resnet_in_unet,
        ("encoder.",),
        RESNET_FIRST,
        why_unused={r"fc\.": CLASSIFIER},
    ),
    Layout(
        "ResNet-50 (torchvision)",
        ResNet50Encoder,
        r"layer1\.",
        rename_resnet,
        ("conv1.", "bn1.", "layer"),
        ("conv1.weight",),
        why_unused={r"fc\.": CLASSIFIER},
    ),
    Layout("SAM", SAM, r"image_encoder\.pos_embed", rename_sam, ("image_encoder.",), SAM_FIRST, rearrange_sam),
    Layout("SAM", SAMImageEncoder, r"pos_embed", rename_sam_encoder, VIT_OF_SAM, PATCH_EMBED, rearrange_sam),
)


def encoder_names(model: nn.Module) -> list[str]:
    """Name the network's direct children, modules and parameters, that make up its encoder.

    Raises:
        ValueError: if it is not one of our networks.
    """
    for layout in LAYOUTS:
        if layout.ours and isinstance(model, layout.network):
            names = [name.removesuffix(".") for name in layout.encoder]
            return [name for name in names if hasattr(model, name)]
    raise ValueError(f"{type(model).__name__} is not a network of lungseg, so its encoder is unknown.")
