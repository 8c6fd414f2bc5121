"""The rules of the layouts: each published key has its place here, and rearranged numbers are where they belong."""

import re
from pathlib import Path

import pytest
import torch

from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unetr import UNETR
from lungseg.weights.renaming import kernel_of_linear, positions_on_a_grid, rename_swin, rename_timm_swin, rename_unetr

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/unetr"


def test_the_merging_after_a_stage_is_named_by_either_of_its_neighbours():
    model = SwinUNet(embed_dim=8, num_heads=(1, 2, 4, 8))
    assert rename_swin("layers.0.downsample.norm.bias", model) == ["merging.0.norm.bias"]
    assert rename_timm_swin("layers.1.downsample.norm.bias", model) == ["merging.0.norm.bias"]


@pytest.mark.parametrize(
    ("keys", "options"),
    [("unetr2d_256_c1_k1.keys.txt", {}), ("unetr3d_96_c1_k14.keys.txt", {"num_classes": 14, "spatial_dims": 3})],
)
def test_every_published_key_has_its_own_place_or_is_known_to_be_dead(keys, options):
    """By names and shapes alone, at full size on the meta device."""
    with torch.device("meta"):
        model = UNETR(**options)
    ours, places = {name: p.shape for name, p in model.named_parameters()}, []
    for line in (FIXTURES / keys).read_text().splitlines()[1:]:
        key, shape, _, _ = line.split("\t")
        shape = tuple(int(n) for n in re.findall(r"\d+", shape))
        names = rename_unetr(key, model)
        if "norm_cross_attn" in key:
            assert not set(names) & set(ours)
        elif key.endswith("position_embeddings"):
            assert shape[1] == ours["position_embedding"][:-1].numel()
            places += names
        else:
            assert tuple(ours[names[0]]) == shape, key
            places += names
    assert sorted(places) == sorted(ours)


def test_positions_take_the_grid_of_the_network_before_a_square():
    positions = torch.arange(16.0)[:, None]
    assert positions_on_a_grid(positions, (2, 8)).shape == (2, 8, 1)
    assert positions_on_a_grid(positions, (5, 5)).shape == (4, 4, 1)
    assert positions_on_a_grid(torch.zeros(27, 1), (5, 5, 5)).shape == (3, 3, 3, 1)
    assert positions_on_a_grid(torch.zeros(27, 1), (5, 5)).shape == (27, 1)


def test_the_kernel_of_a_linear_map_by_hand():
    """Two channels, patches of 2 x 2: the inputs are the channels of pixel (0, 0), then of (0, 1), and so on."""
    kernel = kernel_of_linear(torch.arange(8.0)[None], in_channels=2, spatial_dims=2)
    assert kernel.tolist() == [[[[0, 2], [4, 6]], [[1, 3], [5, 7]]]]
