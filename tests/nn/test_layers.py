"""Layers shared by several networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lungseg.nn.layers import (
    CONV,
    MLP,
    NORM,
    DropPath,
    InstanceNorm,
    LayerNorm2d,
    conv_norm_relu,
    double_conv,
    interpolate_antialiased,
    trunc_normal_init,
    width_init,
)


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
def test_drop_path_refuses_what_is_not_a_probability(rate):
    with pytest.raises(ValueError, match=rf"in \[0, 1\), got {rate}"):
        DropPath(rate)


def test_trunc_normal_init_has_the_published_spread():
    layer = nn.Linear(400, 400)
    trunc_normal_init(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not layer.bias.any()


@pytest.mark.parametrize("inputs", [50, 400])
def test_width_init_keeps_the_spread_of_what_it_is_given(inputs):
    layer, table = nn.Linear(inputs, 400), nn.Embedding(400, 100)
    width_init(layer)
    width_init(table)
    x = torch.randn(300, inputs)
    assert layer(x).std().item() == pytest.approx(0.88, rel=0.05)  # that of a normal truncated at 2 sd
    assert layer.weight.abs().max() <= 2 * inputs**-0.5 and not layer.bias.any()
    assert table.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("spatial", [(5, 4), (5, 4, 3)])
def test_instance_norm_is_torchs_own(spatial):
    norm = InstanceNorm(3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 3 + 2 * torch.randn(2, 3, *spatial, dtype=torch.double)
    torch.testing.assert_close(norm(x), F.instance_norm(x, weight=norm.weight, bias=norm.bias))
    without = InstanceNorm(3, affine=False)
    assert not list(without.parameters())
    torch.testing.assert_close(without(x), F.instance_norm(x))


def test_instance_norm_of_a_single_pixel_is_the_shift():
    norm = InstanceNorm(3)
    nn.init.normal_(norm.bias)
    torch.testing.assert_close(norm(torch.randn(1, 3, 1, 1)), norm.bias.view(1, 3, 1, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize(("conv", "spatial"), [(F.conv2d, (5, 4)), (F.conv3d, (5, 4, 3))])
def test_conv_norm_relu_is_what_its_name_says(norm, conv, spatial):
    block = conv_norm_relu(2, 3, spatial_dims=len(spatial), norm=norm).double()
    x = torch.randn(4, 2, *spatial, dtype=torch.double)
    y = conv(x, block[0].weight, padding=1)
    over = tuple(range(2, y.dim())) if norm == "instance" else (0, *range(2, y.dim()))
    y = (y - y.mean(over, keepdim=True)) / (y.var(over, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x), y.clamp(min=0))
    assert len(list(block.parameters())) == 3  # a kernel, a scale and a shift: no bias before a norm


def test_double_conv_is_one_after_the_other():
    block = double_conv(2, 3, norm="instance")
    x = torch.randn(4, 2, 6, 6)
    assert torch.equal(block(x), block[1](block[0](x)))
    assert block(x).shape == (4, 3, 6, 6)
    torch.testing.assert_close(block(x)[:1], block(x[:1]))  # with batch norm in either, images would see each other


@pytest.mark.parametrize("norm", NORM)
@pytest.mark.parametrize("spatial_dims", CONV)
def test_both_halves_of_a_double_conv_are_of_the_kind_asked_for(spatial_dims, norm):
    halves = double_conv(2, 3, spatial_dims=spatial_dims, norm=norm)
    assert [[type(layer) for layer in half] for half in halves] == [
        [CONV[spatial_dims], NORM[norm][spatial_dims], nn.ReLU]
    ] * 2
    assert halves(torch.randn(2, 2, *[4] * spatial_dims)).shape == (2, 3, *[4] * spatial_dims)


def test_layer_norm_2d_gives_each_pixel_mean_0_and_variance_1_over_its_channels():
    norm, x = LayerNorm2d(5).double(), 3 + 10 * torch.randn(2, 5, 3, 4, dtype=torch.double)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    centred = x - x.mean(1, keepdim=True)
    scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), scaled * norm.weight[:, None, None] + norm.bias[:, None, None])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("size", [(8, 1), (1, 8), (3, 1), (1, 1), (8, 5)])
def test_an_image_of_equal_columns_becomes_one_of_equal_columns_also_of_one(mode, dtype, size):
    rows = torch.randint(0, 256, (2, 3, 5, 1)).to(dtype)
    wide = interpolate_antialiased(rows.expand(-1, -1, -1, 4), (size[0], 6), mode)[..., :1]
    for columns in (1, 3):
        result = interpolate_antialiased(rows.expand(-1, -1, -1, columns), size, mode)
        torch.testing.assert_close(result, wide.expand_as(result), rtol=1e-5, atol=1 if dtype == torch.uint8 else 1e-3)
