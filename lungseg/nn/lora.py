"""LoRA: a large network learns a new task by small changes of low rank, beside weights that stay as they are.

"LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2021, https://arxiv.org/abs/2106.09685), section 4.1:
h = W x + B A x, with A random and B zero, so that nothing changes before the first step. As there, only the maps to
queries and values are adapted (section 4.2). The paper's factor alpha / r is 1 here.
"""

import torch
from torch import Tensor, nn

from lungseg.nn.arguments import check_counts
from lungseg.nn.sam_encoder import DecomposedAttention


class LowRankQV(nn.Module):
    """A linear map to queries, keys and values side by side, with changes of rank r for queries and values.

    Args:
        qkv: the trained map from C to 3C channels; it is frozen.
        rank: r; 2 (r C + C r) numbers are learned in place of 2 C C.
    """

    def __init__(self, qkv: nn.Linear, rank: int):
        super().__init__()
        check_counts("LowRankQV", rank=rank)
        dim = qkv.in_features
        self.qkv = qkv.requires_grad_(False)
        self.down = nn.Parameter(qkv.weight.new_empty(2, rank, dim))  # A of queries, A of values
        self.up = nn.Parameter(qkv.weight.new_zeros(2, dim, rank))  # B of both
        nn.init.normal_(self.down, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., 3C)."""
        q, v = ((x @ down.T) @ up.T for down, up in zip(self.down, self.up, strict=True))  # (..., C) each
        return self.qkv(x) + torch.cat([q, torch.zeros_like(q), v], dim=-1)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One linear map that computes the same: W + B A. Predicting with it costs nothing more than before."""
        q, v = self.up @ self.down  # (C, C) each
        self.qkv.weight += torch.cat([q, torch.zeros_like(q), v])
        self.up.zero_()  # this module has become the same map
        return self.qkv


def add_lora(network: nn.Module, rank: int) -> None:
    """Give every attention with relative positions inside `network`, as in SAM's image encoder, its `LowRankQV`."""
    for module in network.modules():
        if isinstance(module, DecomposedAttention) and isinstance(module.qkv, nn.Linear):
            module.qkv = LowRankQV(module.qkv, rank)


def merge_lora(network: nn.Module) -> None:
    """Undo `add_lora`, with what was learned merged into the weights."""
    for module in network.modules():
        if isinstance(module, DecomposedAttention) and isinstance(module.qkv, LowRankQV):
            module.qkv = module.qkv.merged().requires_grad_(True)
