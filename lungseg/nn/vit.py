"""ViT: an image as a sequence of patches and one class token, which collects what is said about the whole image.

"An Image is Worth 16x16 Words" (Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929), equations 1-4. The blocks
are those of UNETR (`TransformerBlock`); new here is the class token, a learned vector that enters as one more token.
With equal weights the output equals that of timm's vit_base_patch16_224, the image tower of BiomedCLIP.
"""

import torch
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts, check_image, check_mlp_ratio
from lungseg.nn.layers import width_init
from lungseg.nn.patches import PatchEmbed
from lungseg.nn.unetr import TransformerBlock, resize_positions

EPS = 1e-6  # of every LayerNorm: timm's ViT has 1e-6 where torch's own default is 1e-5


class ViTEncoder(nn.Module):
    """Patch embedding, class token, positions, transformer blocks, LayerNorm. The defaults are ViT-B/16.

    Args:
        in_channels: channels of the image.
        img_size: side in pixels for which the position table is made. Any other size works too: it is interpolated.
        patch_size: side of a patch in pixels.
        embed_dim: channels K of a token.
        depth: transformer blocks.
        num_heads: attention heads; must divide embed_dim.
        mlp_ratio: hidden channels of each MLP, as a multiple of embed_dim.

    Raises:
        ValueError: for counts below 1, heads that do not divide embed_dim, or (in forward) an image that is not
            (B, in_channels, H, W) or whose dtype is not that of the weights.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        check_counts("ViTEncoder", in_channels=in_channels, img_size=img_size, patch_size=patch_size)
        check_counts("ViTEncoder", embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        check_mlp_ratio("ViTEncoder", embed_dim, mlp_ratio)
        self.in_channels = in_channels
        side = -(-img_size // patch_size)  # patches along each side, rounded up
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size, norm=False)
        self.class_token = nn.Parameter(torch.zeros(embed_dim))
        self.class_position = nn.Parameter(torch.zeros(embed_dim))  # added to it: it has no place on the grid
        self.position_embedding = nn.Parameter(torch.zeros(side, side, embed_dim))
        for parameter, std in [(self.class_token, 1e-6), (self.class_position, 0.02), (self.position_embedding, 0.02)]:
            nn.init.trunc_normal_(parameter, std=std)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, mlp_ratio=mlp_ratio, qkv_bias=True, eps=EPS) for _ in range(depth)
        )
        self.blocks.apply(width_init)
        self.norm = nn.LayerNorm(embed_dim, eps=EPS)

    def embed(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 1 + N, K): the class token first, then the N patches in reading order."""
        check_image("ViTEncoder", image, self.in_channels, self.patch_embed.proj.weight.dtype)
        patches = self.patch_embed(image)  # (B, H/P, W/P, K)
        patches = patches + resize_positions(self.position_embedding, patches.shape[1:-1])
        class_token = (self.class_token + self.class_position).expand(len(image), 1, -1)  # (B, 1, K)
        return torch.cat([class_token, patches.flatten(1, 2)], dim=1)  # equation 1

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> normalised tokens (B, 1 + N, K), the class token first."""
        z = self.embed(image)
        for block in self.blocks:
            z = block(z)  # equations 2 and 3
        return self.norm(z)  # equation 4, of every token
