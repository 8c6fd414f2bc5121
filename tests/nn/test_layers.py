"""Layers shared by several networks."""

import pytest
import torch
from torch import nn

from lungseg.nn.layers import MLP, DropPath, check_channels, trunc_normal_init


def test_mlp_is_two_linear_maps_with_a_gelu_between():
    mlp = MLP(3, 12).double()
    x = torch.randn(2, 5, 3, dtype=torch.double)
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # the exact GELU, x * P(normal <= x)
    torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias)


def test_drop_path_keeps_or_drops_whole_images_and_keeps_the_mean():
    drop_path = DropPath(0.25)
    out = drop_path(torch.ones(4000, 3, 2))
    per_image = out.flatten(1)
    assert (per_image == per_image[:, :1]).all()  # one draw per image
    assert set(per_image.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert per_image.mean().item() == pytest.approx(1.0, abs=0.03)


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero():
    x = torch.randn(8, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_refuses_what_is_no_probability(rate):
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {rate}"):
        DropPath(rate)


def test_trunc_normal_init_has_the_published_spread():
    layer = nn.Linear(400, 400)
    trunc_normal_init(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not layer.bias.any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\), but \(B, 1, H, W\).*in_channels=3"),
        (torch.zeros(8, 8), r"shape \(8, 8\), but \(B, 1, H, W\)"),
        (torch.zeros(2, 1, 0, 8), "sides of at least 1"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "torch.uint8, but floating point"),
    ],
)
def test_a_wrong_image_is_refused_in_words(image, message):
    with pytest.raises(ValueError, match=message):
        check_channels("net", image, 1)
