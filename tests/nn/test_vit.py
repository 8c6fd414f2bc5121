"""The ViT tower: equal to the published one after each step, a class token, other image sizes."""

import pytest
import torch
from clip_fixtures import assert_near, departure, filled, recorded
from torch import nn

from lungseg.nn.unetr import resize_positions
from lungseg.nn.vit import ViTEncoder


@pytest.fixture
def tower():
    return filled()[0].visual


def small_tower(**options):
    return ViTEncoder(**({"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 3, "patch_size": 8} | options))


@torch.no_grad()
def test_every_step_of_the_published_tower(tower):
    published, image = recorded()["stages"], recorded()["image"]
    assert_near(tower.patch_embed(image).flatten(1, 2), published["visual.patch_embed"])
    z = tower.embed(image)
    assert_near(z, published["visual.tokens"], "tokens")
    assert_near(tower.blocks[0].attn(tower.blocks[0].norm1(z)), published["visual.blocks.0.attn"], "attention")
    for i, block in enumerate(tower.blocks):
        z = block(z)
        assert_near(z, published[f"visual.blocks.{i}"], f"block {i}")
    assert_near(tower(image), published["visual.norm"], "norm")
    assert_near(tower(image)[:, 0], published["visual.trunk"], "class token")


def test_the_epsilon_is_timms(tower, in_both_precisions, assert_published):
    assert_published(*in_both_precisions(tower, recorded()["image"]), recorded()["stages"]["visual.norm"])
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    with pytest.raises(AssertionError, match="eps"):
        assert_published(*in_both_precisions(tower, recorded()["image"]), recorded()["stages"]["visual.norm"])


def without_the_class_position(tower):
    nn.init.zeros_(tower.class_position)


def with_positions_transposed(tower):
    tower.position_embedding.data = tower.position_embedding.data.transpose(0, 1)


def without_qkv_bias(tower):
    nn.init.zeros_(tower.blocks[0].attn.qkv.bias)


@pytest.mark.parametrize("mutate", [without_the_class_position, with_positions_transposed, without_qkv_bias])
@torch.no_grad()
def test_another_tower_is_told_from_the_published_one(tower, mutate):
    mutate(tower)
    assert departure(tower(recorded()["image"])[:, 0], recorded()["stages"]["visual.trunk"]) > 1e-3


@torch.no_grad()
def test_another_size_sees_the_interpolated_positions():
    small, large = small_tower().eval(), small_tower(img_size=48).eval()
    state = small.state_dict()
    state["position_embedding"] = resize_positions(state["position_embedding"], (6, 6))
    large.load_state_dict(state)
    image = torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(small(image), large(image))
    assert small(torch.randn(2, 3, 9, 30)).shape == (2, 1 + 2 * 4, 12)  # sides are completed to whole patches


def test_a_batch_is_a_loop_and_gradients_reach_every_parameter():
    tower, image = small_tower().double(), torch.randn(3, 3, 32, 32, dtype=torch.double)
    out = tower(image)
    torch.testing.assert_close(out, torch.cat([tower(one[None]) for one in image]))
    out[:, 0].square().sum().backward()
    assert all(p.grad.any() for p in tower.parameters())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: small_tower(depth=0), "depth must be an integer of at least 1"),
        (lambda: small_tower(num_heads=5), "num_heads=5 does not divide dim=12"),
        (lambda: small_tower()(torch.zeros(1, 1, 32, 32)), r"but \(B, 3, H, W\)"),
        (lambda: small_tower()(torch.zeros(1, 3, 32, 32).double()), "weights are torch.float32"),
    ],
)
def test_what_it_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()
