"""The checks of patches accept every right way; mutants_networks.py holds the wrong ones."""

import torch
from torch import nn

from lungseg.checks.networks.patches import check_patch_embed, check_patch_expanding, check_patch_merging
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging


def test_ours_pass():
    check_patch_embed(PatchEmbed)
    check_patch_merging(PatchMerging)
    check_patch_expanding(PatchExpanding)


def test_tokens_in_one_row_and_without_a_norm_are_taken():
    class Flat(PatchEmbed):
        def __init__(self, in_channels, embed_dim, patch_size):
            super().__init__(in_channels, embed_dim, patch_size, norm=False)

        def forward(self, image):
            return super().forward(image).flatten(1, 2)

    check_patch_embed(Flat)


def test_einops_style_merging_is_taken():
    class Merging(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.layers = nn.Sequential(nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim))

        def forward(self, x):
            x = nn.functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = x.unfold(1, 2, 2).unfold(2, 2, 2)  # (B, H/2, W/2, C, row, col)
            return self.layers(x.permute(0, 1, 2, 5, 4, 3).flatten(3))

    check_patch_merging(Merging)


def test_einsum_expanding_is_taken():
    class Expanding(PatchExpanding):
        def forward(self, x):
            s = self.scale
            fine = torch.zeros(len(x), s * x.shape[1], s * x.shape[2], self.norm.normalized_shape[0])
            for i, group in enumerate(self.expand(x).chunk(s * s, -1)):
                fine[:, i // s :: s, i % s :: s] = group
            return self.norm(fine)

    check_patch_expanding(Expanding)
