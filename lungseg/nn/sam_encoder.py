"""SAM's image encoder: a ViT with attention in windows, whole-map attention in a few blocks, and relative positions.

"Segment Anything" (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643), appendix A, "Image encoder", which is the
ViTDet of "Exploring Plain Vision Transformer Backbones for Object Detection" (Li et al. 2022,
https://arxiv.org/abs/2203.16527), section 3. The decomposed relative positions are those of MViTv2 (Li et al. 2022,
https://arxiv.org/abs/2112.01526), equation 4. With equal weights the output equals that of the published code.

Windows here differ from Swin's (lungseg/nn/swin_unet.py) in three ways:

- they are never shifted: a few blocks attend over the whole map instead;
- where windows do not divide the map, zeros are added at the bottom and right, and these tokens are attended **like
  any other**. Swin in this library masks its padding. Here a padded token is zero, so its key and value are the biases
  of the linear maps, and its relative position is that of its place: the published weights were trained with it;
- relative positions depend on the query: two short tables of vectors, one for rows and one for columns, instead of
  Swin's table of numbers.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts, check_image, is_count
from lungseg.nn.attention import attention, fused_attention
from lungseg.nn.layers import MLP, LayerNorm2d, trunc_normal_init
from lungseg.nn.patches import PatchEmbed
from lungseg.nn.unetr import resize_positions, token_grid
from lungseg.nn.windows import pad_to_multiple, window_partition, window_reverse


def resize_relative_positions(table: Tensor, rows: int) -> Tensor:
    """Interpolate a table of vectors for the offsets along one axis to another number of rows: (L, d) -> (rows, d).

    Linear, with the rows as the middles of equal intervals; in float32 at least, as `resize_positions`.
    """
    if len(table) == rows:
        return table
    wide = table.to(torch.promote_types(table.dtype, torch.float32)).T[None]  # (1, d, L)
    return F.interpolate(wide, size=rows, mode="linear")[0].T.to(table.dtype)  # (rows, d)


def relative_vectors(table: Tensor, side: int) -> Tensor:
    """The vector of each pair (query, key) along one axis of `side` tokens: (2 * side - 1, d) -> (side, side, d).

    The row of the table is the offset query - key, counted from -(side - 1). A table of another length, made for
    another image size, is interpolated first.
    """
    place = torch.arange(side, device=table.device)
    return resize_relative_positions(table, 2 * side - 1)[place[:, None] - place[None, :] + side - 1]


def decomposed_bias(q: Tensor, rel_pos_h: Tensor, rel_pos_w: Tensor, grid: Sequence[int]) -> Tensor:
    """What is added to the logits: bias(y, x; y', x') = q . R_h[y - y'] + q . R_w[x - x']. MViTv2, equation 4.

    Args:
        q: queries **before** they are multiplied by 1/sqrt(d), (B, heads, H * W, d).
        rel_pos_h, rel_pos_w: vectors of the offsets along rows and columns, (2H - 1, d) and (2W - 1, d).
        grid: H and W in tokens.

    Returns:
        (B, heads, H * W, H * W): query, key.
    """
    height, width = grid
    q = q.unflatten(2, (height, width))  # (B, heads, H, W, d)
    by_row = torch.einsum("bnyxd,ykd->bnyxk", q, relative_vectors(rel_pos_h, height))  # (B, heads, H, W, H)
    by_column = torch.einsum("bnyxd,xkd->bnyxk", q, relative_vectors(rel_pos_w, width))  # (B, heads, H, W, W)
    bias = by_row[..., :, None] + by_column[..., None, :]  # (B, heads, H, W, H, W)
    return bias.flatten(4).flatten(2, 3)


class DecomposedAttention(nn.Module):
    """Multi-head self-attention on a map, softmax(q k^T / sqrt(d) + bias) v, with the bias of `decomposed_bias`.

    Args:
        dim: channels of a token.
        num_heads: attention heads; must divide dim. All share the two tables.
        grid: rows and columns for which the tables are made. Another map interpolates them.
        fused: use torch's fused attention on a GPU, and on a CPU where no gradient is needed: there it has no kernel
            with a gradient for the bias. Otherwise the formula runs.
    """

    def __init__(self, dim: int, num_heads: int, grid: Sequence[int], *, fused: bool = True):
        super().__init__()
        self.num_heads, self.fused = num_heads, fused
        self.qkv: nn.Module = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid[0] - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid[1] - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C): a map, or windows with B * nW in the place of B."""
        grid = x.shape[1:3]
        q, k, v = self.qkv(x.flatten(1, 2)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = self.bias(q, grid)  # q, k, v: (B, heads, N, d); bias: (B, heads, N, N)
        if self.fused and (x.device.type != "cpu" or not bias.requires_grad):
            x = fused_attention(q, k, v, bias=bias)
        else:
            x, _ = attention(q, k, v, bias=bias)
        x = x.transpose(1, 2).flatten(2)  # (B, N, C): heads side by side
        return self.proj(x).unflatten(1, grid)

    def bias(self, q: Tensor, grid: Sequence[int]) -> Tensor:
        """`decomposed_bias` of these tables."""
        return decomposed_bias(q, self.rel_pos_h, self.rel_pos_w, grid)


class SAMBlock(nn.Module):
    """LayerNorm, attention in windows or over the map, add; LayerNorm, MLP, add.

    Args:
        dim, num_heads: of the attention.
        grid: the map, in tokens, for which the network is built.
        window_size: side of a window in tokens; 0 attends over the whole map.
    """

    def __init__(self, dim: int, num_heads: int, grid: Sequence[int], window_size: int):
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = DecomposedAttention(dim, num_heads, (window_size, window_size) if window_size else grid)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.mix_tokens(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def mix_tokens(self, x: Tensor) -> Tensor:
        """Attention among all tokens, or inside windows whose padding takes part: (B, H, W, C) -> the same."""
        if not self.window_size:
            return self.attn(x)
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.window_size)  # zeros, after the norm; no mask keeps them apart
        windows = self.attn(window_partition(x, self.window_size))  # (B*nW, ws, ws, C)
        return window_reverse(windows, *x.shape[1:3])[:, :height, :width]


class SAMImageEncoder(nn.Module):
    """Image to embedding: one vector of `out_channels` numbers for each patch.

    The defaults are ViT-B of the published SAM, 89,670,912 parameters. An image of another size than img_size is
    embedded too: the table of positions and those of the blocks that attend over the whole map are interpolated.
    Sides that patch_size does not divide are padded with zeros at the bottom and right.

    Args:
        in_channels: channels of the image.
        img_size: side in pixels for which the tables are made.
        patch_size: side of a patch in pixels.
        embed_dim: channels of a token.
        depth: transformer blocks.
        num_heads: attention heads; must divide embed_dim.
        window_size: side of a window in tokens.
        global_blocks: the blocks, counted from 0, that attend over the whole map.
        out_channels: channels of the embedding.

    Raises:
        ValueError: for counts below 1, heads that do not divide embed_dim, global_blocks that are not blocks of this
            network, or (in forward) an image that is not (B, in_channels, H, W) or whose dtype is not that of the
            weights.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        img_size: int = 1024,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        window_size: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
        out_channels: int = 256,
    ):
        super().__init__()
        counts = {"in_channels": in_channels, "img_size": img_size, "patch_size": patch_size, "embed_dim": embed_dim}
        counts |= {"depth": depth, "num_heads": num_heads, "window_size": window_size, "out_channels": out_channels}
        check_counts("SAMImageEncoder", **counts)
        if embed_dim % num_heads:
            raise ValueError(
                f"SAMImageEncoder: num_heads={num_heads} does not divide embed_dim={embed_dim}. "
                f"Choose an embed_dim that is a multiple of num_heads."
            )
        sequence = isinstance(global_blocks, Sequence) and not isinstance(global_blocks, str)
        if not sequence or not all(is_count(i + 1) and i < depth for i in global_blocks):
            raise ValueError(
                f"SAMImageEncoder: global_blocks must name blocks from 0 to depth - 1 = {depth - 1}, "
                f"got {global_blocks!r}."
            )
        self.in_channels = in_channels
        grid = token_grid(img_size, 2, patch_size)
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size, norm=False)
        self.position_embedding = nn.Parameter(torch.zeros(*grid, embed_dim))
        nn.init.trunc_normal_(self.position_embedding, std=0.02)
        self.blocks = nn.ModuleList(
            SAMBlock(embed_dim, num_heads, grid, 0 if i in global_blocks else window_size) for i in range(depth)
        )
        self.blocks.apply(trunc_normal_init)
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dim, out_channels, kernel_size=1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )

    def forward(self, image: Tensor, added: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) -> embedding (B, out_channels, h, w), h = ceil(H / patch_size), w likewise.

        `added`, (B, h, w, embed_dim), is added to the tokens of the patches: what other images show there
        (`lungseg.nn.refiner`).
        """
        check_image("SAMImageEncoder", image, self.in_channels, self.patch_embed.proj.weight.dtype)
        x = self.patch_embed(image)  # (B, h, w, C)
        x = x if added is None else x + added
        x = x + resize_positions(self.position_embedding, x.shape[1:-1])
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))  # (B, out_channels, h, w)
