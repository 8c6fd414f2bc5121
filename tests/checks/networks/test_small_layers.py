"""The checks of MLP, DropPath and UNETR's maps accept every right way; mutants_networks.py holds the wrong ones."""

import torch
from torch import nn

from lungseg.checks.networks.small_layers import check_drop_path, check_mlp
from lungseg.nn.layers import MLP, DropPath


def test_ours_pass():
    check_mlp(MLP)
    check_drop_path(DropPath)


def test_a_sequential_is_an_mlp():
    check_mlp(lambda dim, hidden_dim: nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim)))


def test_other_ways_to_draw_are_taken():
    class Drop(nn.Module):
        def __init__(self, drop_prob):
            super().__init__()
            self.drop_prob = drop_prob

        def forward(self, x):
            keep = 1 - self.drop_prob
            mask = torch.floor(keep + torch.rand((x.shape[0],) + (1,) * (x.ndim - 1)))  # as timm draws it
            return x.div(keep) * mask if self.training and self.drop_prob else x

    check_drop_path(Drop)
