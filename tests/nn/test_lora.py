"""LoRA: nothing at first, low rank after a step, merged without a difference."""

import copy

import pytest
import torch
from torch import nn

from lungseg.nn.lora import LowRankQV, add_lora, merge_lora
from lungseg.nn.sam_encoder import SAMImageEncoder

SIZES = {
    "img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2, "window_size": 3,
    "global_blocks": (1,), "out_channels": 8,
}  # fmt: skip


def test_only_queries_and_values_change_by_products_of_low_rank():
    x, plain = torch.randn(5, 6), nn.Linear(6, 18)
    adapted = LowRankQV(copy.deepcopy(plain), 2)
    assert torch.equal(adapted(x), plain(x))
    nn.init.normal_(adapted.up)
    change = adapted(x) - plain(x)
    assert torch.equal(change[:, 6:12], torch.zeros(5, 6))
    for i, part in ((0, change[:, :6]), (1, change[:, 12:])):
        expected = torch.stack([adapted.up[i] @ (adapted.down[i] @ row) for row in x])
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-5)
        assert torch.linalg.matrix_rank(adapted.up[i] @ adapted.down[i]) == 2
    with pytest.raises(ValueError, match="rank must be an integer of at least 1"):
        LowRankQV(plain, 0)


def test_merged_weights_compute_the_same_with_the_names_of_the_plain_network():
    encoder, image = SAMImageEncoder(1, **SIZES).eval(), torch.randn(2, 1, 16, 16)
    names, untouched = list(encoder.state_dict()), encoder(image)
    add_lora(encoder, 3)
    assert torch.equal(encoder(image), untouched)
    encoder(image).pow(2).sum().backward()
    for block in encoder.blocks:
        qkv = block.attn.qkv
        assert qkv.qkv.weight.grad is None and qkv.up.grad.abs().min() > 0  # B learns first; A has no gradient yet
        assert not qkv.down.grad.any()
        nn.init.normal_(qkv.up, std=0.1)
    adapted = encoder(image)
    assert not torch.allclose(adapted, untouched, atol=1e-3)
    merge_lora(encoder)
    torch.testing.assert_close(encoder(image), adapted, atol=1e-5, rtol=1e-5)
    assert list(encoder.state_dict()) == names and all(p.requires_grad for p in encoder.parameters())
