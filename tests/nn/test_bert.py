"""The BERT tower: equal to the published one after each step, against torch's own layer, and padding has no effect."""

import pytest
import torch
from clip_fixtures import assert_near, departure, filled, recorded
from hypothesis import given, settings, strategies as st
from torch import nn

from lungseg.nn.bert import BERT, BertBlock


@pytest.fixture
def tower():
    return filled()[0].text


def small_bert(**options):
    return BERT(**({"vocab_size": 30, "max_length": 12, "dim": 12, "depth": 2, "num_heads": 3} | options))


@torch.no_grad()
def test_every_step_of_the_published_tower(tower):
    published, ids = recorded()["stages"], recorded()["input_ids"]
    x, attn_mask = tower.embed(ids), ids != 0
    assert_near(x, published["text.embeddings"], "embeddings")
    assert torch.equal(attn_mask, recorded()["attention_mask"])
    mixed = []
    hook = tower.blocks[0].proj.register_forward_pre_hook(lambda module, args: mixed.append(args[0]))
    assert_near(tower.blocks[0].norm1(x + tower.blocks[0].attend(x, attn_mask)),
                published["text.layer.0.attention.output"], "first norm")  # fmt: skip
    hook.remove()
    assert_near(mixed[0], published["text.layer.0.attention.self"], "attention")
    for i, block in enumerate(tower.blocks):
        x = block(x, attn_mask)
        assert_near(x, published[f"text.layer.{i}"], f"block {i}")
    assert torch.equal(tower(ids), x)


def test_float64_tells_that_nothing_but_rounding_is_different(tower, in_both_precisions, assert_published):
    published = recorded()["stages"]["text.layer.1"]
    assert_published(*in_both_precisions(tower, recorded()["input_ids"]), published, name="the last layer")


def pre_norm(block, x, attn_mask):
    x = x + block.attend(block.norm1(x), attn_mask)
    return x + block.mlp(block.norm2(x))


def padding_attended(block, x, attn_mask):
    return forward(block, x, torch.ones_like(attn_mask))


def no_residual(block, x, attn_mask):
    x = block.norm1(block.attend(x, attn_mask))
    return block.norm2(x + block.mlp(x))


forward = BertBlock.forward


@pytest.mark.parametrize("mutant", [pre_norm, padding_attended, no_residual])
@torch.no_grad()
def test_another_block_is_told_from_the_published_one(tower, monkeypatch, mutant):
    monkeypatch.setattr(BertBlock, "forward", mutant)
    assert departure(tower(recorded()["input_ids"])[:, 0], recorded()["stages"]["text.layer.1"][:, 0]) > 1e-3


def test_a_block_is_torchs_own_post_norm_encoder_layer():
    """An implementation that shares no code with ours; its mask says True for what may not be attended to."""
    ours = BertBlock(8, 2, mlp_ratio=3.0).double()
    theirs = nn.TransformerEncoderLayer(
        8, 2, 24, dropout=0.0, activation="gelu", batch_first=True, layer_norm_eps=1e-12
    )
    theirs = theirs.double()
    pairs = {"norm1": ours.norm1, "norm2": ours.norm2, "linear1": ours.mlp.fc1, "linear2": ours.mlp.fc2,
             "self_attn.out_proj": ours.proj}  # fmt: skip
    with torch.no_grad():
        for name, module in pairs.items():
            for p in module.parameters():
                p.normal_()
            theirs.get_submodule(name).load_state_dict(module.state_dict())
        three = (ours.query, ours.key, ours.value)
        theirs.self_attn.in_proj_weight.copy_(torch.cat([linear.weight for linear in three]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([linear.bias for linear in three]))
    x, attn_mask = torch.randn(3, 5, 8, dtype=torch.double), torch.arange(5) < torch.tensor([[5], [3], [1]])
    expected = theirs(x, src_key_padding_mask=~attn_mask)
    torch.testing.assert_close(ours(x, attn_mask), expected)


@settings(max_examples=15)
@given(length=st.integers(1, 8), padding=st.integers(0, 4), batch=st.integers(1, 4))
@torch.no_grad()
def test_padding_changes_nothing_and_a_batch_is_a_loop(length, padding, batch):
    network = small_bert().double()
    ids = torch.randint(1, 30, (batch, length))
    padded = torch.cat([ids, torch.zeros(batch, padding, dtype=torch.int64)], dim=1)
    out = network(padded)[:, :length]
    torch.testing.assert_close(out, network(ids))
    torch.testing.assert_close(out, torch.cat([network(one[None]) for one in ids]))


def test_the_order_of_words_matters_and_gradients_reach_what_is_used():
    network = small_bert().double()
    ids = torch.tensor([[2, 5, 6, 3], [2, 6, 5, 3]])
    out = network(ids)[:, 0]
    assert (out[0] - out[1]).abs().max() > 1e-5
    out[:, :3].square().sum().backward()  # all channels together have a fixed norm after the LayerNorm
    assert all(p.grad.any() for p in network.parameters())
    assert not network.word_embedding.weight.grad[7].any() and not network.type_embedding.weight.grad[1].any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: small_bert(dim=0), "dim must be an integer of at least 1"),
        (lambda: small_bert(num_heads=5), "num_heads=5 does not divide dim=12"),
        (lambda: small_bert()(torch.ones(2, 13, dtype=torch.int64)), r"at most 12 tokens per sentence, got \(2, 13\)"),
        (lambda: small_bert()(torch.ones(2, dtype=torch.int64)), r"expected token numbers \(B, N\)"),
        (lambda: small_bert()(torch.ones(1, 2)), "integers"),
        (lambda: small_bert()("a nodule"), "got str"),
        (lambda: small_bert()(torch.tensor([[2, 30]])), "run from 2 to 30, but this network has a vocabulary of 30"),
        (lambda: small_bert()(torch.tensor([[2, 3], [0, 0]])), "all padding"),
    ],
)
def test_what_it_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()
