"""The checks of heads accept every right way; mutants_networks.py holds the wrong ones."""

import torch

from lungseg.checks.networks.heads import check_merge_heads, check_split_heads


def test_chunks_are_as_good_as_a_view():
    check_split_heads(lambda x, num_heads: torch.stack(x.chunk(num_heads, -1), 1))
    check_merge_heads(lambda x: torch.cat(x.unbind(1), -1))
