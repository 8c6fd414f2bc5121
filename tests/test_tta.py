"""Averages over flips and turns: undone exactly, complete, and without effect on a network that commutes with them."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.tta import AverageOverVariations, variations

NUMBER = {("none", 2): 1, ("none", 3): 1, ("flips", 2): 4, ("flips", 3): 8, ("turns", 2): 8, ("turns", 3): 16}


def image_of(shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(0).random((2, 1, *shape))).to(dtype)


@given(kind=st.sampled_from(["none", "flips", "turns"]), shape=st.lists(st.integers(1, 5), min_size=2, max_size=3))
def test_each_variation_is_undone_exactly_and_the_first_changes_nothing(kind, shape):
    image = image_of(shape)
    every = variations(kind, len(shape))
    assert len(every) == NUMBER[kind, len(shape)]
    assert torch.equal(every[0].apply(image), image)
    for variation in every:
        assert torch.equal(variation.undo(variation.apply(image)), image)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", ["flips", "turns"])
def test_the_variations_are_all_flips_and_turns_in_the_plane_each_once(kind, dims):
    """numpy's turns and flips, in all combinations, on numbers that are all different."""
    image = np.arange(3.0**dims).reshape((3,) * dims)
    depths = [image, image[::-1]] if dims == 3 else [image]
    plane = [np.rot90(x, k, axes=(-2, -1)) for x in depths for k in (range(4) if kind == "turns" else (0, 2))]
    expected = {x.tobytes() for y in plane for x in (y, np.flip(y, -1))}
    ours = [v.apply(torch.from_numpy(image)).numpy() for v in variations(kind, dims)]
    assert {np.ascontiguousarray(x).tobytes() for x in ours} == expected and len(ours) == len(expected)


def symmetric(dims):
    """A convolution that commutes with flips and turns: its kernel depends on the distance from the middle alone."""
    conv = (nn.Conv2d if dims == 2 else nn.Conv3d)(1, 1, 3, padding=1, dtype=torch.float64)
    squares = sum(x**2 for x in torch.meshgrid(*[torch.arange(-1.0, 2.0)] * dims, indexing="ij"))
    conv.weight.data.copy_(torch.exp(-squares))
    return conv


@pytest.mark.parametrize("shape", [(6, 9), (3, 5, 4)])
@pytest.mark.parametrize("kind", ["flips", "turns"])
def test_a_network_that_commutes_with_them_keeps_its_logits(kind, shape):
    network, image = symmetric(len(shape)), image_of(shape)
    with torch.no_grad():
        assert torch.allclose(AverageOverVariations(network, kind)(image), network(image), rtol=0, atol=1e-14)


def test_another_network_gets_the_mean_over_turned_copies():
    network, image = nn.Conv2d(1, 3, 3, padding=1, dtype=torch.float64), image_of((5, 8))
    with torch.no_grad():
        maps = []
        for k in range(4):
            for flip in (False, True):
                copy = torch.rot90(image, k, (2, 3))
                copy = copy.flip(3) if flip else copy
                logits = network(copy)
                maps.append(torch.rot90(logits.flip(3) if flip else logits, -k, (2, 3)))
        ours = AverageOverVariations(network, "turns")(image)
        assert torch.allclose(ours, torch.stack(maps).mean(0), rtol=0, atol=1e-14)
        assert not torch.allclose(ours, network(image), atol=1e-3)


def test_the_average_commutes_with_turns_whatever_the_network():
    network = AverageOverVariations(UNet(channels=(2, 4)).double().eval(), "turns")
    image = image_of((8, 8))
    with torch.no_grad():
        assert torch.allclose(network(image.rot90(1, (2, 3))), network(image).rot90(1, (2, 3)), atol=1e-12)


def test_one_variation_is_the_network_itself_bit_by_bit():
    network, image = UNet(channels=(2, 4)).eval(), image_of((8, 6), torch.float32)
    with torch.no_grad():
        assert torch.equal(AverageOverVariations(network, "none")(image), network(image))


def test_a_network_with_a_table_of_positions_takes_an_oblong_image_upright():
    network = UNETR(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, feature_size=2, skip_layers=(1, 2))
    with torch.no_grad():
        assert AverageOverVariations(network.eval(), "turns")(torch.rand(1, 1, 16, 24)).shape == (1, 1, 16, 24)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="tta must be none, flips or turns, got 'all'"):
        variations("all", 2)
