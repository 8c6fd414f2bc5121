"""UNETR: a ViT encoder whose hidden states feed a convolutional decoder, for images and volumes.

"UNETR: Transformers for 3D Medical Image Segmentation" (Hatamizadeh et al. 2021, https://arxiv.org/abs/2103.10504),
Figure 2 and equations 1-4. With equal weights the output equals that of MONAI's UNETR, which continues the authors'
code. Where that code departs from the paper, we follow the code in how a block is built (residual blocks with instance
norm and leaky ReLU, where the figure shows plain ones with batch norm and ReLU), and the paper in where a skip leaves:
after blocks 3, 6 and 9. The code reads blocks 4, 7 and 10, so published weights need `skip_layers=(4, 7, 10)`.

The paper writes K for the channels of a token and L for the number of blocks; here they are embed_dim and depth.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts, check_image, check_mlp_ratio, check_rates, is_count
from lungseg.nn.attention import SelfAttention
from lungseg.nn.layers import (
    CONV,
    CONV_TRANSPOSE,
    MLP,
    NORM,
    InstanceNorm,
    interpolate_antialiased,
    trunc_normal_init,
)
from lungseg.nn.patches import PatchEmbed, complete_patches

# Smaller networks: UNETR(**PRESETS["tiny"]). Patches of 8 resolve smaller lesions, with four times the tokens.
PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"embed_dim": 192, "depth": 4, "num_heads": 3, "feature_size": 8},
    "tiny_patch8": {"embed_dim": 192, "depth": 6, "num_heads": 3, "feature_size": 8, "patch_size": 8},
    "small_patch8": {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 8},
}


class TransformerBlock(nn.Module):
    """LayerNorm, self-attention, add; LayerNorm, MLP, add. UNETR, equations 2 and 3.

    Args:
        dim: channels K of a token.
        num_heads: attention heads; must divide dim.
        mlp_ratio: hidden channels of the MLP, as a multiple of dim.
        qkv_bias, scale, attn_drop: of the attention (`SelfAttention`).
        drop: dropout after the attention and in the MLP.
        eps: what both LayerNorms add to the variance. UNETR has 1e-5; ViT as timm publishes it has 1e-6.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = SelfAttention(dim, num_heads, qkv_bias=qkv_bias, scale=scale, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop=drop)

    def forward(self, z: Tensor) -> Tensor:
        """(B, N, K) -> (B, N, K)."""
        z = z + self.attn(self.norm1(z))  # equation 2
        return z + self.mlp(self.norm2(z))  # equation 3


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with instance norm (or batch norm), added to the input; leaky ReLU.

    If the number of channels changes, the input passes a 1 x 1 convolution with a norm before it is added. A map needs
    at least two pixels: the instance norm of a single pixel is 0, whatever its value.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 2,
        norm_affine: bool = False,
        norm: str = "instance",
    ):
        super().__init__()
        conv = CONV[spatial_dims]
        make_norm = NORM["batch"][spatial_dims] if norm == "batch" else partial(InstanceNorm, affine=norm_affine)
        self.conv1 = conv(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = make_norm(out_channels)
        self.conv2 = conv(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = make_norm(out_channels)
        self.conv3: nn.Module = nn.Identity()
        self.norm3: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.conv3 = conv(in_channels, out_channels, kernel_size=1, bias=False)
            self.norm3 = make_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        residual = self.norm3(self.conv3(x))
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.01, inplace=True)
        x = self.norm2(self.conv2(x))
        x += residual  # in place, which saves a map: the gradient of a norm needs its input, not its output
        return F.leaky_relu(x, 0.01, inplace=True)


class UpBlock(nn.Module):
    """Double the sides with a deconvolution, concatenate the skip, and merge both in a residual block."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int = 2,
        norm_affine: bool = False,
        norm: str = "instance",
    ):
        super().__init__()
        self.up = deconvolution(in_channels, out_channels, spatial_dims)
        self.block = ResidualBlock(
            2 * out_channels, out_channels, spatial_dims=spatial_dims, norm_affine=norm_affine, norm=norm
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in_channels, H, W) and (B, out_channels, 2H, 2W) -> (B, out_channels, 2H, 2W)."""
        return self.block(torch.cat([self.up(x), skip], dim=1))


def deconvolution(in_channels: int, out_channels: int, spatial_dims: int) -> nn.Module:
    """Expand each pixel into a square of 2 x 2 (a cube of 2 x 2 x 2) with one linear map."""
    return CONV_TRANSPOSE[spatial_dims](in_channels, out_channels, kernel_size=2, stride=2, bias=False)


def skip_path(
    embed_dim: int, channels: int, doublings: int, *, spatial_dims: int, norm_affine: bool, norm: str = "instance"
) -> nn.Sequential:
    """Bring a hidden state to the size of its place in the decoder, one doubling at a time. Figure 2, middle."""
    layers: list[nn.Module] = [deconvolution(embed_dim, channels, spatial_dims)]
    for _ in range(doublings - 1):
        layers.append(deconvolution(channels, channels, spatial_dims))
        layers.append(ResidualBlock(channels, channels, spatial_dims=spatial_dims, norm_affine=norm_affine, norm=norm))
    return nn.Sequential(*layers)


def resize_positions(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Interpolate a position table to another grid of tokens: (*old_grid, K) -> (*grid, K).

    Bicubic for images, trilinear for volumes, between the centres of the patches (ViT, section 3.2, last paragraph).
    At least in float32: torch has no bicubic interpolation in half precision on a CPU, and sums would be rounded.
    """
    if tuple(table.shape[:-1]) == tuple(grid):
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32)).movedim(-1, 0)[None]  # (1, K, *old_grid)
    if len(grid) == 2:
        wide = interpolate_antialiased(wide, grid, "bicubic")  # (1, K, *grid)
    else:
        wide = F.interpolate(wide, size=tuple(grid), mode="trilinear")
    return wide[0].movedim(0, -1).to(table.dtype)  # (*grid, K)


def tokens_to_map(z: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, N, K) -> (B, K, *grid): tokens are in reading order, the last axis fastest."""
    return z.transpose(1, 2).unflatten(2, tuple(grid))


def token_grid(img_size: int | Sequence[int] | None, spatial_dims: int, patch_size: int) -> list[int]:
    """Count the patches along each axis of an image of `img_size` pixels (one number, or one per axis)."""
    if img_size is None:
        img_size = {2: 256, 3: 96}[spatial_dims]
    sides = [img_size] * spatial_dims if is_count(img_size) else img_size
    if not isinstance(sides, Sequence) or len(sides) != spatial_dims or not all(is_count(side) for side in sides):
        raise ValueError(f"UNETR: img_size must be one integer or {spatial_dims}, each at least 1, got {img_size!r}.")
    return [-(-side // patch_size) for side in sides]  # rounded up


def _choose_skip_layers(skip_layers: Sequence[int] | None, depth: int, doublings: int) -> tuple[int, ...]:
    """Number the blocks whose hidden states the decoder reads: those given if they fit, evenly spread ones if None."""
    even = tuple(max(1, depth * i // doublings) for i in range(1, doublings))
    if skip_layers is None:
        return even
    fits = isinstance(skip_layers, Sequence) and len(skip_layers) == len(even)
    if not fits or not all(is_count(i) and i <= depth for i in skip_layers) or list(skip_layers) != sorted(skip_layers):
        raise ValueError(
            f"UNETR: patch_size={2**doublings} and depth={depth} need {len(even)} skip_layers, ascending from 1 to "
            f"{depth}, got {skip_layers!r}. Evenly spread: {even}."
        )
    return tuple(skip_layers)


class UNETR(nn.Module):
    """Patch embedding, transformer blocks, and a decoder that reads their hidden states. UNETR, Figure 2.

    The defaults are the published size: 87,315,377 parameters in 2-D (256 x 256, 1 -> 1 channels), 92,784,046 in 3-D
    (96^3, 1 -> 14). MONAI's network has 18,432 more, which its forward pass never uses.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for lesion against background.
        img_size: sides in pixels, one number or one per axis, for which the position table is made; 256 for images and
            96 for volumes if None. Any other size works too: the table is interpolated.
        spatial_dims: 2 for images, 3 for volumes.
        embed_dim: channels of a token, K in the paper ("hidden_size" in MONAI).
        depth: transformer blocks, L in the paper.
        num_heads: attention heads; must divide embed_dim.
        mlp_ratio: hidden channels of each MLP, as a multiple of embed_dim.
        feature_size: channels of the decoder at full resolution; each halving of the sides doubles them.
        patch_size: side of a patch in pixels, a power of two 2^k; the decoder has k steps. Smaller patches
            resolve smaller lesions, at a higher cost.
        skip_layers: the k - 1 blocks, counted from 1, whose output feeds the decoder, finest first. None spreads them
            evenly: (3, 6, 9) for the published size, as in the paper. Weights of MONAI need (4, 7, 10).
        qkv_bias: learn a bias for queries, keys and values. Published: no; ViT has it.
        attn_scale: "sqrt" divides q k^T by sqrt(head_dim), as the paper does (equation 4). "head_dim" divides by
            head_dim itself, as one report prints it, which leaves attention almost uniform (docs/nn/unetr.md in the
            repository).
        drop_rate: dropout after the position embedding, after the attention and in the MLPs.
        attn_drop_rate: dropout of attention weights.
        norm_affine: learn a scale and a shift in each instance norm. Published: no.
        norm: "instance" is published. "batch" (our departure) keeps the absolute grey values of CT: an instance norm
            takes its scale from the image at hand, and makes the noise of a patch of air as strong as tissue.

    Raises:
        ValueError: for counts below 1, rates outside [0, 1), a patch_size that is not a power of two, skip_layers that
            do not fit patch_size and depth, spatial_dims other than 2 and 3, an unknown attn_scale or norm, heads that
            do not divide embed_dim, or (in forward) an image that is not (B, in_channels, H, W[, D]) or whose dtype is
            not that of the weights.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        img_size: int | Sequence[int] | None = None,
        spatial_dims: int = 2,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        feature_size: int = 16,
        patch_size: int = 16,
        skip_layers: Sequence[int] | None = None,
        qkv_bias: bool = False,
        attn_scale: str = "sqrt",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        norm_affine: bool = False,
        norm: str = "instance",
    ):
        super().__init__()
        counts = {"in_channels": in_channels, "num_classes": num_classes, "spatial_dims": spatial_dims, "depth": depth}
        counts |= {"embed_dim": embed_dim, "num_heads": num_heads}
        check_counts("UNETR", **counts, feature_size=feature_size, patch_size=patch_size)
        check_rates("UNETR", drop_rate=drop_rate, attn_drop_rate=attn_drop_rate)
        check_mlp_ratio("UNETR", embed_dim, mlp_ratio)
        doublings = int(patch_size).bit_length() - 1  # from tokens back to pixels: 4 for a patch of 16
        if embed_dim % num_heads:
            raise ValueError(
                f"UNETR: num_heads={num_heads} does not divide embed_dim={embed_dim}. "
                f"Choose an embed_dim that is a multiple of num_heads."
            )
        if spatial_dims not in (2, 3):
            raise ValueError(f"UNETR: spatial_dims must be 2 (images) or 3 (volumes), got {spatial_dims}.")
        if patch_size < 2 or patch_size != 2**doublings:
            raise ValueError(f"UNETR: patch_size must be a power of two, at least 2, got {patch_size}. Use 8 or 16.")
        if attn_scale not in ("sqrt", "head_dim"):
            raise ValueError(f'UNETR: attn_scale must be "sqrt" or "head_dim", got {attn_scale!r}.')
        if norm not in tuple(NORM):
            raise ValueError(f"UNETR: norm must be one of {', '.join(NORM)}, got {norm!r}.")
        self.in_channels, self.spatial_dims, self.patch_size = in_channels, spatial_dims, patch_size
        self.skip_layers = _choose_skip_layers(skip_layers, depth, doublings)
        scale = None if attn_scale == "sqrt" else num_heads / embed_dim
        block = partial(TransformerBlock, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, scale=scale)
        layers: dict[str, Any] = {"spatial_dims": spatial_dims, "norm_affine": norm_affine, "norm": norm}
        widths = [feature_size * 2**j for j in range(doublings)]  # of the decoder, at 1, 1/2, 1/4, 1/8 of the sides

        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size, spatial_dims=spatial_dims, norm=False)
        grid = token_grid(img_size, spatial_dims, patch_size)
        self.position_embedding = nn.Parameter(torch.zeros(*grid, embed_dim))
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)
        blocks = [block(embed_dim, num_heads, drop=drop_rate, attn_drop=attn_drop_rate) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.blocks.apply(trunc_normal_init)
        self.norm = nn.LayerNorm(embed_dim)

        coarse_to_fine = range(doublings - 1, 0, -1)
        self.skips = nn.ModuleList(skip_path(embed_dim, widths[j], doublings - j, **layers) for j in coarse_to_fine)
        self.image_block = ResidualBlock(in_channels, feature_size, **layers)
        pairs = zip([embed_dim, *reversed(widths)], reversed(widths), strict=False)
        self.decoder = nn.ModuleList(UpBlock(wide, narrow, **layers) for wide, narrow in pairs)
        self.head = CONV[spatial_dims](feature_size, num_classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W[, D]) -> logits (B, num_classes, H, W[, D]), any sides of at least 1 pixel."""
        dtype = self.patch_embed.proj.weight.dtype
        check_image("UNETR", image, self.in_channels, dtype, spatial_dims=self.spatial_dims)
        size = image.shape[2:]
        image = complete_patches(image, self.patch_size)  # sides are multiples of P now
        hidden = self.hidden_states(image)  # z_0 ... z_L
        grid = [side // self.patch_size for side in image.shape[2:]]
        x = tokens_to_map(self.norm(hidden[-1]), grid)  # (B, K, H/16, W/16)
        skips = [tokens_to_map(hidden[layer], grid) for layer in reversed(self.skip_layers)]  # z_9, z_6, z_3
        skips = [path(skip) for path, skip in zip(self.skips, skips, strict=True)]  # sides H/8, H/4, H/2
        for up, skip in zip(self.decoder, [*skips, self.image_block(image)], strict=True):
            x = up(x, skip)  # sides H/8, H/4, H/2, H with 8, 4, 2, 1 times feature_size channels
        logits = self.head(x)  # (B, num_classes, H, W): a linear map of each pixel
        return logits[(..., *(slice(side) for side in size))]  # crop what complete_patches added

    def hidden_states(self, image: Tensor) -> list[Tensor]:
        """The tokens after each block, z_0 (before the first) to z_L: each (B, N, K). Equations 1-3."""
        x = self.patch_embed(image)  # (B, H/P, W/P, K)
        x = x + resize_positions(self.position_embedding, x.shape[1:-1])  # equation 1
        hidden = [self.pos_drop(x.flatten(1, -2))]  # (B, N, K), tokens in reading order
        for block in self.blocks:
            hidden.append(block(hidden[-1]))
        return hidden
