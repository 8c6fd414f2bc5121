"""Patch embedding, merging and expanding."""

import torch
from hypothesis import given, strategies as st
from torch import nn

from lungseg.checks.networks.patches import check_patch_expanding, check_patch_merging
from lungseg.nn.patches import PatchEmbed, PatchExpanding, PatchMerging, complete_patches


def test_merging_uses_every_element_of_its_neighbourhood_once():
    check_patch_merging(PatchMerging)


def test_expanding_deals_each_token_out_over_its_own_square():
    check_patch_expanding(PatchExpanding)


def test_merging_concatenates_in_the_published_order():
    merging = PatchMerging(1).double()
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.double)[None, :, :, None]
    assert merging(x).flatten().tolist() == [0, 2, 1, 3]  # (0,0) (1,0) (0,1) (1,1): down, then right


def test_expanding_deals_channels_out_row_by_row():
    expanding = PatchExpanding(4, 1, scale=2)
    expanding.expand, expanding.norm = nn.Identity(), nn.Identity()
    assert expanding(torch.arange(4.0).view(1, 1, 1, 4))[0, :, :, 0].tolist() == [[0, 1], [2, 3]]


@given(H=st.integers(1, 9), W=st.integers(1, 9), p=st.integers(1, 4))
def test_embedding_is_one_linear_map_of_each_patch(H, W, p):
    embed = PatchEmbed(2, 3, patch_size=p).double()
    image = torch.randn(1, 2, H, W, dtype=torch.double)
    tokens = embed(image)
    assert tokens.shape == (1, -(-H // p), -(-W // p), 3)
    first = torch.zeros(2, p, p, dtype=torch.double)  # the first patch, completed with zeros
    corner = image[0, :, :p, :p]
    first[:, : corner.shape[1], : corner.shape[2]] = corner
    expected = embed.norm(embed.proj.weight.flatten(1) @ first.flatten() + embed.proj.bias)
    torch.testing.assert_close(tokens[0, 0, 0], expected)


@given(H=st.integers(1, 9), W=st.integers(1, 9), D=st.integers(1, 9), p=st.integers(1, 4))
def test_completing_patches_adds_zeros_behind_each_axis_only(H, W, D, p):
    image = torch.ones(1, 2, H, W, D)
    complete = complete_patches(image, p)
    assert all(side % p == 0 and side - old < p for side, old in zip(complete.shape[2:], (H, W, D), strict=True))
    assert torch.equal(complete[:, :, :H, :W, :D], image)
    assert complete.sum() == image.sum()


def test_embedding_a_volume_keeps_its_axes_in_order():
    embed = PatchEmbed(2, 3, patch_size=2, spatial_dims=3, norm=False).double()
    volume = torch.randn(1, 2, 4, 6, 8, dtype=torch.double)
    tokens = embed(volume)
    assert tokens.shape == (1, 2, 3, 4, 3)
    patch = volume[0, :, 2:4, 4:6, 6:8]  # the last patch
    torch.testing.assert_close(tokens[0, 1, 2, 3], embed.proj.weight.flatten(1) @ patch.flatten() + embed.proj.bias)
