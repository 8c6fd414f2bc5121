"""How checkpoints name and arrange their tensors, and where our networks keep them: the rules of each layout.

A `rename_*` function takes a published key and the network that is to be filled, and returns our names for it: none if
the network has no such tensor, several if one tensor fills several places. A `rearrange_*` function brings published
tensors that hold the same numbers in another arrangement into the shape of ours. The table of all layouts is in
lungseg/weights/checkpoint_layouts.py.
"""

import re
from collections.abc import Callable, Mapping
from math import isqrt, prod

import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.nn.resnet_unet import ResNet50Encoder, ResNet50UNet
from lungseg.nn.sam import SAM
from lungseg.nn.sam_encoder import SAMImageEncoder
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unetr import UNETR

Rule = tuple[str, str | Callable[[re.Match[str]], str]]  # a pattern at the start of a key, and what replaces it


def rename_by(rules: list[Rule], key: str) -> list[str]:
    """Replace the beginning of a key by the first rule (pattern, replacement) that matches; [] if none does."""
    for pattern, ours in rules:
        if re.match(pattern, key):
            return [re.sub(pattern, ours, key, count=1)]
    return []


# lungseg itself


def rename_ours(key: str, model: nn.Module) -> list[str]:
    """A checkpoint of lungseg has the names of the network."""
    return [key]


def unchanged(published: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors as they are: the rearrangement of a layout whose tensors are arranged like ours."""
    return published


# Swin-Unet and Swin


def rename_swin_unet(key: str, model: SwinUNet) -> list[str]:
    """Swin-Unet's own checkpoints (Cao et al. 2021): every tensor has one place here."""
    last = len(model.encoder)  # the bottleneck is their last stage
    rules: list[Rule] = [
        (rf"layers\.{last}\.blocks\.", "bottleneck."),
        (r"layers\.(\d+)\.blocks\.", r"encoder.\1."),
        (r"layers\.(\d+)\.downsample\.", r"merging.\1."),
        (r"layers_up\.0\.(expand|norm)\.", r"expanding.0.\1."),
        (r"layers_up\.(\d+)\.upsample\.", r"expanding.\1."),
        (r"layers_up\.(\d+)\.blocks\.", lambda m: f"decoder.{int(m[1]) - 1}."),
        (r"concat_back_dim\.(\d+)\.", lambda m: f"fuse.{int(m[1]) - 1}."),
        (r"up\.", "final_expanding."),
        (r"output\.", "head."),
        (r"(patch_embed\.|norm\.|norm_up\.)", r"\1"),
    ]
    return rename_by(rules, key)


def rename_swin(key: str, model: SwinUNet, *, downsample_offset: int = 0) -> list[str]:
    """ImageNet Swin: encoder stage i fills our encoder *and* the mirrored stage of our decoder.

    Cao et al. 2021, section 4.2, initialise both in this way. The decoder's expanding and fusing layers keep their
    initial values.
    """
    last = len(model.encoder)
    if match := re.match(r"layers\.(\d+)\.blocks\.(.*)", key):
        stage, rest = int(match[1]), match[2]
        if stage == last:
            return [f"bottleneck.{rest}"]
        return [f"encoder.{stage}.{rest}", f"decoder.{last - 1 - stage}.{rest}"]
    if match := re.match(r"layers\.(\d+)\.downsample\.(.*)", key):
        return [f"merging.{int(match[1]) - downsample_offset}.{match[2]}"]
    return [key] if re.match(r"(patch_embed|norm)\.", key) else []


def rename_timm_swin(key: str, model: SwinUNet) -> list[str]:
    """Like `rename_swin`, but timm puts a merging at the start of the next stage, not at the end of its own."""
    return rename_swin(key, model, downsample_offset=1)


def rearrange_swin(published: dict[str, Tensor], model: SwinUNet) -> dict[str, Tensor]:
    """Leave out the buffers that follow from the window size (we compute them), and complete clipped bias tables."""
    computed = ("relative_position_index", "attn_mask")
    return {key: undo_window_clipping(key, published) for key in published if not key.endswith(computed)}


def undo_window_clipping(key: str, published: Mapping[str, Tensor]) -> Tensor:
    """Complete the bias table of a stage whose whole map was smaller than the checkpoint's window.

    The published code clips the window to such a map, and the table with it. The offsets in the table are the centre
    of the full table; the others, which that stage never saw, repeat the border.
    """
    table = published[key]
    tables = {k: t for k, t in published.items() if k.endswith("relative_position_bias_table") and t.dim() == 2}
    if key not in tables:
        return table
    full = max(len(t) for t in tables.values())
    old, new = isqrt(len(table)), isqrt(full)  # 2a-1 and 2b-1
    grid = table.T.reshape(1, -1, old, old)  # (1, heads, 2a-1, 2a-1)
    grid = F.pad(grid, [(new - old) // 2] * 4, mode="replicate")  # (1, heads, 2b-1, 2b-1)
    return grid[0].flatten(1).T  # ((2b-1)^2, heads)


# UNETR and ViT


def rename_unetr(key: str, model: UNETR) -> list[str]:
    """UNETR's own checkpoints (Hatamizadeh et al. 2021), in the layout of their code and of MONAI."""
    skip = r"encoder([234])\."  # their encoder4, 3, 2 are our skips 0, 1, 2: coarsest first
    rules: list[Rule] = [
        (r"vit\.patch_embedding\.position_embeddings", "position_embedding"),
        (r"vit\.patch_embedding\.patch_embeddings\.(1\.)?", "patch_embed.proj."),
        (r"vit\.(blocks\.\d+\.mlp)\.linear", r"\1.fc"),
        (r"vit\.(blocks\.\d+\.attn)\.out_proj\.", r"\1.proj."),
        (r"vit\.(blocks\.\d+\.(norm[12]|attn\.qkv)\.|norm\.)", r"\1"),
        (r"encoder1\.layer\.", "image_block."),
        (skip + r"transp_conv_init\.conv\.", lambda m: f"skips.{4 - int(m[1])}.0."),
        (skip + r"blocks\.(\d)\.0\.conv\.", lambda m: f"skips.{4 - int(m[1])}.{2 * int(m[2]) + 1}."),
        (skip + r"blocks\.(\d)\.1\.", lambda m: f"skips.{4 - int(m[1])}.{2 * int(m[2]) + 2}."),
        (r"decoder(\d)\.transp_conv\.conv\.", lambda m: f"decoder.{5 - int(m[1])}.up."),
        (r"decoder(\d)\.conv_block\.", lambda m: f"decoder.{5 - int(m[1])}.block."),
        (r"out\.conv\.conv\.", "head."),
    ]
    return [re.sub(r"(conv\d)\.conv\.", r"\1.", name) for name in rename_by(rules, key)]


def rearrange_unetr(published: dict[str, Tensor], model: UNETR) -> dict[str, Tensor]:
    """Put the positions on a grid, and give a linear patch embedding the shape of a convolution kernel."""
    published = dict(published)
    positions, linear = "vit.patch_embedding.position_embeddings", "vit.patch_embedding.patch_embeddings.1.weight"
    if positions in published:
        published[positions] = positions_on_a_grid(published[positions][0], model.position_embedding.shape[:-1])
    if linear in published:
        image_kernel = published.get("encoder1.layer.conv1.conv.weight")
        in_channels = model.in_channels if image_kernel is None else image_kernel.shape[1]
        published[linear] = kernel_of_linear(published[linear], in_channels, model.spatial_dims)
    return published


def note_unetr(model: UNETR) -> str:
    """Warn of other skips: the published code takes them one block later than the paper, in training too."""
    if model.skip_layers == (4, 7, 10):
        return ""
    return f"these weights were trained with skip_layers=(4, 7, 10), this network has {model.skip_layers}"


def rename_vit(key: str, model: UNETR) -> list[str]:
    """ViT (Dosovitskiy et al. 2021) as timm names it: its blocks are those of our encoder."""
    return rename_by([("pos_embed", "position_embedding"), (r"(patch_embed\.|blocks\.|norm\.)", r"\1")], key)


def rearrange_vit(published: dict[str, Tensor], model: UNETR) -> dict[str, Tensor]:
    """Leave out the position of the class token, and put the others on a square grid, since ViT images are square."""
    published = dict(published)
    if "pos_embed" in published:
        first = 1 if "cls_token" in published else 0
        positions = published["pos_embed"][0, first:]  # (N, K)
        side = isqrt(len(positions))
        published["pos_embed"] = positions_on_a_grid(positions, (side, side))
    return published


def positions_on_a_grid(positions: Tensor, grid: tuple[int, ...]) -> Tensor:
    """(N, K) -> (*grid, K) if N tokens fill `grid`, else a square or cube of N tokens, else (N, K) unchanged.

    The published table does not say which grid it had. Tokens are in reading order, the last axis fastest.
    """
    if len(positions) != prod(grid):
        side = round(len(positions) ** (1 / len(grid)))
        grid = (side,) * len(grid)
    return positions.unflatten(0, grid) if len(positions) == prod(grid) else positions


def kernel_of_linear(weight: Tensor, in_channels: int, spatial_dims: int) -> Tensor:
    """(K, p*p*C) -> (K, C, p, p), or with three p: the inputs of the linear map run over the channels fastest."""
    patch_size = round((weight.shape[1] / in_channels) ** (1 / spatial_dims))
    kernel = weight.unflatten(1, (*[patch_size] * spatial_dims, in_channels))  # (K, p, p, C)
    return kernel.movedim(-1, 1)  # (K, C, p, p)


# BiomedCLIP


def rename_biomedclip(key: str, model: BiomedCLIP) -> list[str]:
    """BiomedCLIP as open_clip names it (timm's ViT, transformers' BERT): every tensor has one place here."""
    rules: list[Rule] = [
        (r"visual\.trunk\.pos_embed\.class", "visual.class_position"),
        (r"visual\.trunk\.pos_embed", "visual.position_embedding"),
        (r"visual\.trunk\.cls_token", "visual.class_token"),
        (r"visual\.trunk\.", "visual."),
        (r"visual\.head\.proj\.", "visual_head."),
        (r"text\.transformer\.embeddings\.(word|position)_embeddings\.", r"text.\1_embedding."),
        (r"text\.transformer\.embeddings\.token_type_embeddings\.", "text.type_embedding."),
        (r"text\.transformer\.embeddings\.LayerNorm\.", "text.norm."),
        (r"text\.transformer\.encoder\.layer\.(\d+)\.attention\.self\.", r"text.blocks.\1."),
        (r"text\.transformer\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"text.blocks.\1.proj."),
        (r"text\.transformer\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", r"text.blocks.\1.norm1."),
        (r"text\.transformer\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"text.blocks.\1.mlp.fc1."),
        (r"text\.transformer\.encoder\.layer\.(\d+)\.output\.dense\.", r"text.blocks.\1.mlp.fc2."),
        (r"text\.transformer\.encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"text.blocks.\1.norm2."),
        (r"text\.proj\.", "text_head."),
        (r"logit_scale", "logit_scale"),
    ]
    return rename_by(rules, key)


def rearrange_biomedclip(published: dict[str, Tensor], model: BiomedCLIP) -> dict[str, Tensor]:
    """Take the class token's position out of the table, and put the others on a square grid: ViT images are square."""
    published = dict(published)
    positions, token = "visual.trunk.pos_embed", "visual.trunk.cls_token"
    if positions in published:
        class_position, *rest = published[positions][0].split([1, published[positions].shape[1] - 1])
        published[f"{positions}.class"] = class_position[0]  # (K,)
        side = isqrt(len(rest[0]))
        published[positions] = positions_on_a_grid(rest[0], (side, side))  # (side, side, K)
    if token in published:
        published[token] = published[token].flatten()  # (K,)
    return published


# SAM and MedSAM


def rename_sam_encoder(key: str, model: SAMImageEncoder) -> list[str]:
    """SAM's image encoder (Kirillov et al. 2023): every tensor has one place here."""
    rules: list[Rule] = [
        ("pos_embed", "position_embedding"),
        (r"(blocks\.\d+\.mlp)\.lin", r"\1.fc"),
        (r"(patch_embed|blocks|neck)\.", r"\1."),
    ]
    return rename_by(rules, key)


def rename_sam(key: str, model: SAM) -> list[str]:
    """SAM and MedSAM, which have the same names: every tensor has one place here."""
    if key.startswith("image_encoder."):
        return [f"image_encoder.{name}" for name in rename_sam_encoder(key[14:], model.image_encoder)]
    prompts, decoder = "prompt_encoder.", "mask_decoder."
    kinds = ("background_point", "foreground_point", "top_left", "bottom_right")
    block = r"mask_decoder\.transformer\.layers\.(\d+)\."
    rules: list[Rule] = [
        (r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix", prompts + "positions.frequencies"),
        (r"prompt_encoder\.point_embeddings\.([0-3])\.weight", lambda m: prompts + kinds[int(m[1])]),
        (r"prompt_encoder\.(not_a_point|no_mask)_embed\.weight", prompts + r"\1"),
        (r"prompt_encoder\.mask_downscaling\.", prompts + "mask_convs."),
        (block + r"cross_attn_(token_to_image|image_to_token)\.", decoder + r"transformer.blocks.\1.\2."),
        (block + r"mlp\.lin([12])\.", lambda m: f"{decoder}transformer.blocks.{m[1]}.mlp.{2 * int(m[2]) - 2}."),
        (block, decoder + r"transformer.blocks.\1."),
        (r"mask_decoder\.transformer\.final_attn_token_to_image\.", decoder + "transformer.final_attn."),
        (r"mask_decoder\.transformer\.norm_final_attn\.", decoder + "transformer.norm."),
        (r"mask_decoder\.(iou_token|mask_tokens)\.weight", decoder + r"\1"),
        (r"mask_decoder\.output_upscaling\.", decoder + "upscaling."),
        (r"mask_decoder\.output_hypernetworks_mlps\.(\d+)\.layers\.(\d)\.",
         lambda m: f"{decoder}mask_heads.{m[1]}.{2 * int(m[2])}."),
        (r"mask_decoder\.iou_prediction_head\.layers\.(\d)\.", lambda m: f"{decoder}iou_head.{2 * int(m[1])}."),
    ]  # fmt: skip
    return rename_by(rules, key)


def rearrange_sam(published: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Take the batch axis, 1, off the table of positions, which is on its grid already: (1, h, w, K) -> (h, w, K)."""
    published = dict(published)
    for key in ("pos_embed", "image_encoder.pos_embed"):
        if key in published:
            published[key] = published[key][0]
    return published


# ResNet-50


def rename_resnet(key: str, model: ResNet50Encoder) -> list[str]:
    """A ResNet classifier of torchvision (He et al. 2015): we keep its names, but have no classifier."""
    return rename_by([(r"(conv1\.|bn1\.|layer\d\.)", r"\1")], key)


def rename_resnet_in_unet(key: str, model: ResNet50UNet) -> list[str]:
    """Like `rename_resnet`, into the encoder of the U-Net."""
    return [f"encoder.{name}" for name in rename_resnet(key, model.encoder)]


def rename_resnet_unet(key: str, model: ResNet50UNet) -> list[str]:
    """The ResNet50-U-Net of segmentation_models_pytorch: every tensor has one place here."""
    rules: list[Rule] = [
        (r"encoder\.", "encoder."),
        (r"decoder\.blocks\.(\d)\.conv([12])\.", lambda m: f"decoder.{m[1]}.{int(m[2]) - 1}."),
        (r"segmentation_head\.0\.", "head."),
    ]
    return rename_by(rules, key)
