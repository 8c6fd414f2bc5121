"""Swin-Unet: a U-shaped network made of Swin Transformer blocks.

"Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation" (Cao et al. 2021,
https://arxiv.org/abs/2105.05537), Figure 1. The blocks are those of "Swin Transformer" (Liu et al. 2021,
https://arxiv.org/abs/2103.14030), Figure 3. With equal weights the output equals that of the authors' code.

Where their code departs from their figure we follow the code, because published weights were trained with it:
each skip leaves *before* a stage's blocks (so the finest skip is the patch embedding itself), and a map that
fits into one window is attended to as a whole, without a shift. We differ from their code in one case: a map of which
only one side fits into a window (an image much longer than wide). Their window shrinks to the shorter side and is not
shifted, so no information crosses windows along the longer side; we pad the shorter side and shift along the longer.

`stem="conv"` is our own departure, not published: convolutions turn pixels into tokens and tokens into pixels, with
skips at full and half resolution (`lungseg.nn.conv_stem`). docs/nn/swin_unet.md shows what each part of it brings.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lungseg.nn.arguments import check_batch_norm, check_counts, check_image, check_mlp_ratio, check_rates, check_stages
from lungseg.nn.attention import WindowAttention
from lungseg.nn.conv_stem import ConvDecoder, ConvStem
from lungseg.nn.layers import MLP, NORM, DropPath, trunc_normal_init
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging
from lungseg.nn.windows import cyclic_shift, pad_to_multiple, shifted_window_mask, window_partition, window_reverse


class SwinBlock(nn.Module):
    """LayerNorm, (shifted) window attention, add; LayerNorm, MLP, add. Liu et al. 2021, equation 3.

    Args:
        dim: channels C of a token.
        num_heads: attention heads; must divide dim.
        window_size: side of a window in tokens.
        shift_size: how far the grid of windows is shifted, in tokens, 0 <= shift_size < window_size. An axis along
            which the map fits into one window is not shifted.
        mlp_ratio: hidden channels of the MLP, as a multiple of dim.
        qkv_bias, attn_drop, drop: of the attention (`WindowAttention`) and the MLP.
        drop_path: probability of dropping each of the two branches, per image, in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        shift_size: int = 0,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if not 0 <= shift_size < window_size:
            raise ValueError(f"SwinBlock: shift_size must be in [0, window_size={window_size}), got {shift_size}.")
        self.window_size, self.shift_size = window_size, shift_size
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window_size, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=drop)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), any H and W."""
        x = x + self.drop_path(self.window_attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def window_attention(self, x: Tensor) -> Tensor:
        """Attention inside windows that are shifted by `shift_size` tokens along each side that has several windows."""
        _, H, W, _ = x.shape
        ws, (down, across) = self.window_and_shift(H, W)
        x = pad_to_multiple(x, ws)  # (B, H', W', C); pad first, roll after
        _, padded_height, padded_width, _ = x.shape
        attn_mask = None
        if down or across or (padded_height, padded_width) != (H, W):
            attn_mask = shifted_window_mask(H, W, ws, (down, across), device=x.device)  # (nW, N, N)
        windows = window_partition(cyclic_shift(x, (down, across)), ws).flatten(1, 2)  # (B*nW, N, C)
        windows = self.attn(windows, attn_mask).unflatten(1, (ws, ws))  # (B*nW, ws, ws, C)
        x = cyclic_shift(window_reverse(windows, padded_height, padded_width), (-down, -across))  # (B, H', W', C)
        return x[:, :H, :W]  # crop what pad_to_multiple added

    def window_and_shift(self, height: int, width: int) -> tuple[int, tuple[int, int]]:
        """The side of a window and the shift of (rows, columns) on a map of this size, all in tokens."""
        # Shift only along an axis with several windows: where there is one, all tokens see each other already.
        down, across = (self.shift_size if side > self.window_size else 0 for side in (height, width))
        # Not min(window_size, ...): with sides that are symbols, torch.export would carry it into every later size.
        if height > self.window_size or width > self.window_size:
            return self.window_size, (down, across)
        return max(height, width), (0, 0)  # no need for a window larger than the map


class SwinUNet(nn.Module):
    """Encoder, bottleneck and decoder of Swin blocks with skip connections. Cao et al. 2021, Figure 1.

    The defaults are the published tiny size: 27,165,060 parameters for 1 -> 1 channels.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 for lesion against background.
        embed_dim: channels C after patch embedding; stage i has 2^i C.
        depths: blocks per stage. The last stage is the bottleneck; the decoder mirrors the others.
        num_heads: attention heads per stage.
        window_size: side of a window in tokens.
        patch_size: side of a patch in pixels. Smaller patches see smaller lesions, at a higher cost.
        mlp_ratio, qkv_bias: of each block.
        drop_rate: dropout after the patch embedding, after the projections and in the MLPs.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the deepest block; it grows linearly from 0 at the first. The
            decoder re-uses the rates of the mirrored stage, as published.
        head_bias: give the last convolution a bias. Published: no. With one, training can start from the
            prevalence of lesion pixels instead of from 50 %.
        stem: "patch" is the published network. "conv" has convolutions in place of the patch embedding and of the last
            expansion, and skips at the resolutions between pixels and tokens.
        conv_channels: stem="conv": channels at resolution 1/1, 1/2, ...: as many numbers as patch_size has factors 2.
        conv_norm: stem="conv": "batch", which keeps absolute grey values, or "instance", which does not.

    Raises:
        ValueError: for counts below 1, rates outside [0, 1), depths and num_heads of different lengths, heads that
            do not divide the channels, an unknown stem or conv_norm, conv_channels that do not fit patch_size, or (in
            forward) an image that is not (B, in_channels, H, W), whose dtype is not that of the weights, or that is a
            single token while batch norm trains.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        head_bias: bool = False,
        stem: str = "patch",
        conv_channels: Sequence[int] = (16, 32),
        conv_norm: str = "batch",
    ):
        super().__init__()
        counts = {"in_channels": in_channels, "num_classes": num_classes, "embed_dim": embed_dim}
        check_counts("SwinUNet", **counts, window_size=window_size, patch_size=patch_size)
        check_stages("SwinUNet", depths=depths, num_heads=num_heads)
        check_rates("SwinUNet", drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate)
        check_mlp_ratio("SwinUNet", embed_dim, mlp_ratio)
        if len(depths) != len(num_heads):
            raise ValueError(
                f"SwinUNet: depths={tuple(depths)} and num_heads={tuple(num_heads)} must name the same "
                f"number of stages, got {len(depths)} and {len(num_heads)}."
            )
        if stem not in ("patch", "conv"):
            raise ValueError(f'SwinUNet: stem must be "patch" or "conv", got {stem!r}.')
        if stem == "conv":
            check_stages("SwinUNet", conv_channels=conv_channels)
            _check_conv_stem(conv_channels, conv_norm, patch_size)
        self.in_channels, self.stem, self.patch_size = in_channels, stem, patch_size
        self.batch_norm = stem == "conv" and conv_norm == "batch"
        dims = [embed_dim * 2**i for i in range(len(depths))]
        for i, (dim, heads) in enumerate(zip(dims, num_heads, strict=True)):
            if dim % heads:
                raise ValueError(
                    f"SwinUNet: each of num_heads={tuple(num_heads)} must divide the channels of its stage, but "
                    f"{heads} does not divide the {dim} channels of stage {i}, embed_dim={embed_dim} times 2^{i}."
                )
        first_block = [sum(depths[:i]) for i in range(len(depths))]
        deepest_block = max(sum(depths) - 1, 1)

        def stage(i: int) -> nn.Sequential:
            """The blocks of stage i, counted from the finest; encoder and decoder have the same."""
            blocks = [
                SwinBlock(
                    dims[i],
                    num_heads[i],
                    window_size,
                    shift_size=0 if j % 2 == 0 else window_size // 2,  # every other block is shifted
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    drop=drop_rate,
                    attn_drop=attn_drop_rate,
                    drop_path=drop_path_rate * (first_block[i] + j) / deepest_block,
                )
                for j in range(depths[i])
            ]
            return nn.Sequential(*blocks)

        down, up = range(len(depths) - 1), range(len(depths) - 2, -1, -1)
        if stem == "patch":
            self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size)
        else:
            self.conv_stem = ConvStem(in_channels, embed_dim, conv_channels, norm=conv_norm)
        self.pos_drop = nn.Dropout(drop_rate)
        self.encoder = nn.ModuleList(stage(i) for i in down)
        self.merging = nn.ModuleList(PatchMerging(dims[i]) for i in down)
        self.bottleneck = stage(len(depths) - 1)
        self.norm = nn.LayerNorm(dims[-1])
        self.expanding = nn.ModuleList(PatchExpanding(dims[i + 1], dims[i]) for i in up)
        self.fuse = nn.ModuleList(nn.Linear(2 * dims[i], dims[i]) for i in up)
        self.decoder = nn.ModuleList(stage(i) for i in up)
        self.norm_up = nn.LayerNorm(embed_dim)
        if stem == "patch":
            self.final_expanding = PatchExpanding(embed_dim, embed_dim, scale=patch_size)
        else:
            self.conv_decoder = ConvDecoder(embed_dim, conv_channels, norm=conv_norm)
        self.apply(trunc_normal_init)
        self.head = nn.Conv2d(embed_dim if stem == "patch" else conv_channels[0], num_classes, 1, bias=head_bias)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W), any H and W of at least 1 pixel."""
        check_image("SwinUNet", image, self.in_channels, self.head.weight.dtype)
        if self.training and self.batch_norm:
            check_batch_norm("SwinUNet", image, self.patch_size)
        _, _, H, W = image.shape
        x, finer = (self.patch_embed(image), []) if self.stem == "patch" else self.conv_stem(image)
        x = self.pos_drop(x)  # (B, H/4, W/4, C) with patch_size 4
        skips = []
        for stage, merge in zip(self.encoder, self.merging, strict=True):
            skips.append(x)  # side H/4, H/8, H/16 with C, 2C, 4C channels
            x = merge(stage(x))
        x = self.norm(self.bottleneck(x))  # (B, H/32, W/32, 8C)
        for expand, fuse, stage in zip(self.expanding, self.fuse, self.decoder, strict=True):
            skip = skips.pop()
            x = expand(x)[:, : skip.shape[1], : skip.shape[2]]  # twice the side, minus what PatchMerging padded
            x = stage(fuse(torch.cat([x, skip], dim=-1)))
        x = self.norm_up(x)
        if self.stem == "conv":
            return self.head(self.conv_decoder(x, finer))  # (B, num_classes, H, W)
        x = self.final_expanding(x)  # (B, H, W, C) or a little larger
        logits = self.head(x.permute(0, 3, 1, 2))  # (B, num_classes, H, W): a linear map of each pixel
        return logits[..., :H, :W]  # crop what patch_embed padded


def _check_conv_stem(channels: Sequence[int], norm: str, patch_size: int) -> None:
    """Refuse channels that do not lead to patch_size, and an unknown norm."""
    if 2 ** len(channels) != patch_size:
        raise ValueError(
            f"SwinUNet: conv_channels={tuple(channels)} halve the image {len(channels)} times, so a token stands for "
            f"{2 ** len(channels)} pixels, but patch_size is {patch_size}. Give patch_size={2 ** len(channels)}, or as "
            f"many conv_channels as patch_size has factors 2."
        )
    if norm not in tuple(NORM):
        raise ValueError(f"SwinUNet: conv_norm must be one of {', '.join(NORM)}, got {norm!r}.")
