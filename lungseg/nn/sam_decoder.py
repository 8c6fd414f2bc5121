"""SAM's mask decoder: tokens and image read each other, then each mask token draws a mask.

"Segment Anything" (Kirillov et al. 2023, https://arxiv.org/abs/2304.02643), section 3 and appendix A, "Lightweight
mask decoder", Figure 14. With equal weights the output equals that of the published code, two of whose details are not
in the paper: the first self-attention has neither positions nor a residual connection, and the positions that the
tokens carry into every later attention are the tokens themselves as they entered.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts
from lungseg.nn.layers import LayerNorm2d


class CrossAttention(nn.Module):
    """Multi-head attention of one set of tokens to another: softmax(q k^T / sqrt(d)) v.

    Args:
        dim: channels of all tokens.
        inner_dim: channels of queries, keys and values together; SAM halves them between tokens and image.
        num_heads: attention heads; must divide inner_dim.
    """

    def __init__(self, dim: int, inner_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner_dim)
        self.k_proj = nn.Linear(dim, inner_dim)
        self.v_proj = nn.Linear(dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, N, C), keys and values (B, M, C) -> (B, N, C)."""
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)  # (B, N or M, inner_dim)
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N or M, d)
        x = F.scaled_dot_product_attention(q, k, v)  # `attention` of lungseg/nn/attention.py, fused
        return self.out_proj(x.transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Tokens attend to tokens, tokens to the image, an MLP on the tokens, and the image to the tokens.

    Positions are added to queries and keys, never to values. Each step is followed by its LayerNorm.

    Args:
        dim: channels of tokens and image.
        num_heads: attention heads.
        mlp_dim: hidden channels of the MLP, which has a ReLU.
        first: the first block, whose tokens are their own positions: its self-attention adds none, and its output
            **replaces** the tokens.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, *, first: bool):
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(dim, dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.token_to_image = CrossAttention(dim, dim // 2, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, dim))
        self.norm3 = nn.LayerNorm(dim)
        self.image_to_token = CrossAttention(dim, dim // 2, num_heads)
        self.norm4 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (P, N, C) and image (P, hw, C) -> the same, after having read each other."""
        tokens = self.norm1(self.mix_tokens(tokens, token_pe))
        tokens = self.norm2(tokens + self.token_to_image(tokens + token_pe, image + image_pe, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.image_to_token(image + image_pe, tokens + token_pe, tokens))
        return tokens, image

    def mix_tokens(self, tokens: Tensor, token_pe: Tensor) -> Tensor:
        """Self-attention of the tokens: (P, N, C) -> the same."""
        if self.first:
            return self.self_attn(tokens, tokens, tokens)
        placed = tokens + token_pe
        return tokens + self.self_attn(placed, placed, tokens)


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks, and a last look of the tokens at the image."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int):
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(dim, num_heads, mlp_dim, first=i == 0) for i in range(depth))
        self.final_attn = CrossAttention(dim, dim // 2, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, image: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (P, N, C), image and its positions (P or 1, hw, C) -> tokens and image after all blocks."""
        token_pe = tokens  # as they entered
        for block in self.blocks:
            tokens, image = block(tokens, image, token_pe, image_pe)
        tokens = self.norm(tokens + self.final_attn(tokens + token_pe, image + image_pe, image))
        return tokens, image


def relu_mlp(dim: int, hidden_dim: int, out_dim: int) -> nn.Sequential:
    """Three linear layers with ReLU between them: (..., dim) -> (..., out_dim)."""
    return nn.Sequential(
        nn.Linear(dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.ReLU(),
        nn.Linear(hidden_dim, out_dim),
    )


class MaskDecoder(nn.Module):
    """Image embedding and prompts to mask logits, each with an estimate of its IoU.

    A prompt may mean several things (a nodule, or the lobe around it). So there are four masks: mask 0 for prompts
    that leave no doubt, masks 1 to 3 for those that do.

    Args:
        dim: channels C of the image embedding, a multiple of 8.
        depth: two-way blocks.
        num_heads: attention heads; must divide dim / 2.
        mlp_dim: hidden channels of the blocks' MLPs.
        num_masks: masks for an ambiguous prompt; one more is made for a clear one.
        iou_hidden_dim: hidden channels of the head that estimates the IoU.

    Raises:
        ValueError: for counts below 1, a dim that 8 does not divide, heads that do not divide dim / 2, or (in forward)
            a number of images that is neither 1 nor that of the prompts.
    """

    def __init__(
        self,
        dim: int = 256,
        *,
        depth: int = 2,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        num_masks: int = 3,
        iou_hidden_dim: int = 256,
    ):
        super().__init__()
        counts = {"dim": dim, "depth": depth, "num_heads": num_heads, "mlp_dim": mlp_dim}
        check_counts("MaskDecoder", **counts, num_masks=num_masks, iou_hidden_dim=iou_hidden_dim)
        if dim % 8 or (dim // 2) % num_heads:
            raise ValueError(
                f"MaskDecoder: dim must be a multiple of 8 and dim / 2 of num_heads, got dim={dim} and "
                f"num_heads={num_heads}."
            )
        self.transformer = TwoWayTransformer(dim, depth, num_heads, mlp_dim)
        self.iou_token = nn.Parameter(torch.randn(1, dim))
        self.mask_tokens = nn.Parameter(torch.randn(num_masks + 1, dim))
        self.upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.mask_heads = nn.ModuleList(relu_mlp(dim, dim, dim // 8) for _ in range(num_masks + 1))
        self.iou_head = relu_mlp(dim, iou_hidden_dim, num_masks + 1)

    def forward(
        self, embedding: Tensor, pe: Tensor, sparse: Tensor, dense: Tensor, *, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Draw the masks of P prompts.

        Args:
            embedding: of the image encoder, (1, C, h, w) for P prompts on one image, or (P, C, h, w) for one prompt
                on each of P images.
            pe: its positions, (1, C, h, w) (`PromptEncoder.dense_pe`).
            sparse, dense: of the prompt encoder, (P, N, C) and (P, C, h, w).
            multimask: masks 1 to num_masks, for an ambiguous prompt; else mask 0.

        Returns:
            Logits (P, num_masks or 1, 4h, 4w), and the estimated IoU of each mask (P, num_masks or 1), which is a
            plain number: no sigmoid.
        """
        masks, iou = self.all_masks(embedding, pe, sparse, dense)
        return (masks[:, 1:], iou[:, 1:]) if multimask else (masks[:, :1], iou[:, :1])

    def all_masks(self, embedding: Tensor, pe: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """All num_masks + 1 masks and estimates."""
        count, grid = len(sparse), embedding.shape[2:]
        if len(embedding) not in (1, count):
            raise ValueError(
                f"MaskDecoder: {len(embedding)} images and {count} prompts. Give one image with any number of prompts, "
                f"or one prompt for each image."
            )
        own = torch.cat([self.iou_token, self.mask_tokens])  # (1 + masks, C)
        tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)  # IoU, masks, points, corners of boxes
        image = (embedding + dense).flatten(2).transpose(1, 2)  # (P, hw, C): one image is repeated for all prompts
        tokens, image = self.transformer(tokens, image, pe.flatten(2).transpose(1, 2))
        pixels = self.upscaling(image.transpose(1, 2).unflatten(2, grid))  # (P, C/8, 4h, 4w)
        heads = [head(tokens[:, 1 + i]) for i, head in enumerate(self.mask_heads)]
        weights = torch.stack(heads, dim=1)  # (P, masks, C/8): each token chooses how to weigh the channels
        return torch.einsum("pmc,pcyx->pmyx", weights, pixels), self.iou_head(tokens[:, 0])
