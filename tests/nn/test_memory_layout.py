"""The format in memory must change no value: neither an output nor a gradient."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from lungseg.nn import memory_layout
from lungseg.nn.layers import InstanceNorm
from lungseg.nn.memory_layout import Conv3d, fast_layout, has_channels_last
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.unet import UNet


def output_and_gradients(module, x):
    """The output, and the gradients of the input and of all parameters for a fixed random weighting of the output."""
    x = x.detach().requires_grad_()
    y = module(x)
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y, *torch.autograd.grad((y * weighting).sum(), [x, *module.parameters()])]


def assert_same(module, plain, x):
    for ours, theirs in zip(output_and_gradients(module, x), output_and_gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@given(
    st.integers(1, 2), st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3]), st.integers(1, 2), st.booleans()
)
def test_a_convolution_equals_torchs_own(batch, channels, out, kernel, stride, bias):
    torch.manual_seed(0)
    conv = Conv3d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=bias)
    plain = nn.Conv3d(channels, out, kernel, stride=stride, padding=kernel // 2, bias=bias)
    plain.load_state_dict(conv.state_dict())  # the same names and shapes: checkpoints fit
    assert_same(conv, plain, torch.randn(batch, channels, 5, 4, 6))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"padding": 1}, (2, 4, 3, 4, 5)),
        ({"padding": "same"}, (2, 4, 3, 4, 5)),
        ({"groups": 2}, (2, 4, 3, 4, 5)),
        ({}, (4, 3, 4, 5)),
    ],
)
def test_so_does_one_of_single_voxels_whatever_its_options(options, shape):
    conv, plain = (kind(4, 6, 1, **options) for kind in (Conv3d, nn.Conv3d))
    plain.load_state_dict(conv.state_dict())
    assert_same(conv, plain, torch.randn(shape))


@given(st.integers(1, 3), st.integers(2, 5), st.booleans())
def test_instance_norm_does_not_depend_on_the_format(batch, channels, affine):
    torch.manual_seed(0)
    norm = InstanceNorm(channels, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(batch, channels, 4, 3, 5) + 2

    def in_format(x):
        return norm(x.contiguous(memory_format=torch.channels_last_3d))

    parameters = list(norm.parameters())
    for other in (in_format, lambda x: F.instance_norm(x, weight=norm.weight, bias=norm.bias)):
        results = []
        for f in (norm, other):
            leaf = x.clone().requires_grad_()
            y = f(leaf)
            results.append([y, *torch.autograd.grad((y**3).sum(), [leaf, *parameters])])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fast", [True, False])
def test_an_image_changes_its_format_and_nothing_else(fast, monkeypatch):
    monkeypatch.setattr(memory_layout, "KERNEL_GRADIENT_IS_FAST", fast)
    for channels in (1, 3):
        image = torch.randn(2, channels, 4, 6)
        converted = channels * 6, channels  # numbers from one row to the next, and from one column to the next
        assert torch.equal(fast_layout(image), image)
        assert (fast_layout(image).stride()[2:] == converted) == (fast or channels == 1)  # one channel: the same order
        with torch.no_grad():
            assert fast_layout(image).stride() == (channels * 24, 1, *converted)


NETWORKS = {
    "unet": lambda: (UNet(channels=(4, 6, 8)), (2, 1, 13, 10)),
    "unet 3d": lambda: (UNet(spatial_dims=3, channels=(4, 6), norm="instance"), (2, 1, 7, 6, 5)),
    "rrc": lambda: (RRCUNet(channels=(4, 6)), (1, 1, 6, 5, 7)),
    "resnet": lambda: (
        ResNet50UNet(1, stem=4, widths=(2,) * 4, depths=(1,) * 4, decoder_channels=(4,) * 5),
        (2, 1, 64, 40),
    ),
}


def without_formats(monkeypatch):
    """Let every network compute as torch would without us."""
    monkeypatch.setattr(memory_layout.torch, "channels_last", torch.contiguous_format)
    monkeypatch.setattr(Conv3d, "forward", nn.Conv3d.forward)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_the_same_values_and_gradients_in_both_formats(name, monkeypatch):
    torch.manual_seed(0)
    network, shape = NETWORKS[name]()
    image = torch.randn(shape)
    monkeypatch.setattr(memory_layout, "KERNEL_GRADIENT_IS_FAST", True)
    fast = output_and_gradients(copy.deepcopy(network), image)
    without_formats(monkeypatch)
    plain = output_and_gradients(network, image)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_the_format_reaches_the_last_layer():
    """A layer in between that lost it would make all that follow slow, without any other sign."""
    seen = {}
    for name in ("unet", "unet 3d", "resnet"):
        network, shape = NETWORKS[name]()
        network.eval().head.register_forward_hook(lambda m, args, out, name=name: seen.update({name: args[0]}))
        with torch.no_grad():
            network(torch.randn(shape))
    assert seen["unet"].is_contiguous(memory_format=torch.channels_last)
    assert seen["resnet"].is_contiguous(memory_format=torch.channels_last)
    assert has_channels_last(seen["unet 3d"]) != memory_layout.KERNEL_GRADIENT_IS_FAST
    network, shape = NETWORKS["unet 3d"]()
    network.head.register_forward_hook(lambda m, args, out: seen.update({"training": args[0]}))
    network(torch.randn(shape))
    assert has_channels_last(seen["training"])
