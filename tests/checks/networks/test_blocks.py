"""The check of UNETR's block accepts every right way; mutants_networks.py holds the wrong ones."""

import torch
from torch import nn

from lungseg.checks.networks.blocks import check_transformer_block
from lungseg.nn.unetr import TransformerBlock


def test_ours_passes():
    check_transformer_block(TransformerBlock)


def test_torchs_own_layers_pass():
    class Block(nn.Module):
        """The same with torch's function, one head after the other."""

        def __init__(self, dim, num_heads):
            super().__init__()
            self.heads = num_heads
            self.a, self.b = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
            self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

        def forward(self, z):
            y = self.a(z)
            parts = zip(*(f(y).chunk(self.heads, -1) for f in (self.query, self.key, self.value)), strict=True)
            y = [nn.functional.scaled_dot_product_attention(q, k, v) for q, k, v in parts]
            z = z + self.out(torch.cat(y, -1))
            return z + self.mlp(self.b(z))

    check_transformer_block(Block)
