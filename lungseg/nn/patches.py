"""From pixels to tokens and between resolutions: embed, merge, expand.

Embedding and merging are those of Swin Transformer (Liu et al. 2021, https://arxiv.org/abs/2103.14030), section 3.1;
expanding is that of Swin-Unet (Cao et al. 2021, https://arxiv.org/abs/2105.05537), section 3.4. All maps of tokens are
(B, H, W, C) here, so no layer needs to know, or remember, the size of an image.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.nn.layers import CONV
from lungseg.nn.windows import pad_to_multiple


def complete_patches(image: Tensor, patch_size: int) -> Tensor:
    """Pad with zeros at the bottom and right until the image consists of whole patches of `patch_size` pixels.

    (B, C, H, W[, D]) -> (B, C, H', W'[, D']). Cropping to the old size undoes it.
    """
    if not any(side % patch_size for side in image.shape[2:]):
        return image  # then torch.export knows that patch_size divides the sides, also where they are symbols
    # Whole patches times their side, not -side % patch_size, so that torch.compile can follow the sizes symbolically.
    missing = [-(-side // patch_size) * patch_size - side for side in image.shape[2:]]
    return F.pad(image, [n for m in reversed(missing) for n in (0, m)])  # F.pad counts from the last axis


class PatchEmbed(nn.Module):
    """Cut the image or volume into patches and map each to a token with one linear map.

    A convolution whose stride is its kernel size is that linear map. Swin Transformer, section 3.1, normalises the
    tokens after it; ViT (Dosovitskiy et al. 2021, equation 1) and UNETR do not.

    Args:
        in_channels: channels of the image.
        embed_dim: channels of a token.
        patch_size: side of a patch in pixels.
        spatial_dims: 2 for images, 3 for volumes.
        norm: normalise each token (LayerNorm).
    """

    def __init__(
        self, in_channels: int, embed_dim: int, patch_size: int = 4, *, spatial_dims: int = 2, norm: bool = True
    ):
        super().__init__()
        self.patch_size = patch_size
        self.proj = CONV[spatial_dims](in_channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) pixels -> (B, ceil(H/patch_size), ceil(W/patch_size), embed_dim) tokens.

        A volume gives (B, H', W', D', embed_dim). Sides that patch_size does not divide are padded with zeros at the
        bottom and right.
        """
        x = self.proj(complete_patches(image, self.patch_size))  # (B, embed_dim, H/p, W/p)
        return self.norm(x.movedim(1, -1))  # (B, H/p, W/p, embed_dim)


class PatchMerging(nn.Module):
    """Join each 2 x 2 neighbourhood into one token: half the side, twice the channels.

    Swin Transformer, section 3.1: concatenate the four (4C), LayerNorm, one linear map to 2C. The order
    of the four is the published one, down the first column, then the second: (0,0) (1,0) (0,1) (1,1).

    Args:
        dim: channels C of the incoming tokens.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C). An odd side gets one row or column of zeros."""
        x = pad_to_multiple(x, 2)
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, row, W/2, col, C), row and col in {0, 1}
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H/2, W/2, col, row, C) -> (B, H/2, W/2, 4C)
        return self.reduction(self.norm(x))  # (B, H/2, W/2, 2C)


class PatchExpanding(nn.Module):
    """Expand each token into a scale x scale square of finer tokens: merging in reverse.

    Swin-Unet, section 3.4: one linear map to scale^2 * out_dim channels, which are distributed over the
    square row by row (a "pixel shuffle" with the channels last), then LayerNorm.

    Args:
        dim: channels of the incoming tokens.
        out_dim: channels of the finer tokens; the paper halves the channels at each x2 step (out_dim = dim / 2),
            and keeps them in the last expansion to pixels.
        scale: finer tokens per side of the square.
    """

    def __init__(self, dim: int, out_dim: int, scale: int = 2):
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, scale * H, scale * W, out_dim)."""
        s = self.scale
        x = self.expand(x).unflatten(3, (s, s, -1))  # (B, H, W, row, col, out_dim)
        x = x.transpose(2, 3)  # (B, H, row, W, col, out_dim)
        x = x.flatten(3, 4).flatten(1, 2)  # (B, s*H, s*W, out_dim)
        return self.norm(x)
