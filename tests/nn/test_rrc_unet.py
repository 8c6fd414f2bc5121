"""Recurrent residual convolutions and the U-Net made of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lungseg.checks.networks.network import check_segmentation_network
from lungseg.nn.rrc_unet import RecurrentConv, RecurrentResidualBlock, RRCUNet


def small_network(in_channels=1, num_classes=1, **options):
    return RRCUNet(in_channels, num_classes, **({"channels": (4, 8, 8)} | options))


def test_it_keeps_sizes_images_and_calls_apart_and_uses_every_parameter_in_3d():
    check_segmentation_network(small_network, full_size=(16, 20, 12), max_side=14, sizes=6)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_it_keeps_sizes_images_and_calls_apart_and_uses_every_parameter_in_2d(norm):
    check_segmentation_network(lambda i, k: small_network(i, k, spatial_dims=2, norm=norm), full_size=(48, 40))


# The recurrent unit


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_unit_is_the_recurrence_written_out(steps):
    unit = RecurrentConv(2, steps=steps).double()
    x = torch.randn(2, 2, 5, 4, 3, dtype=torch.double)
    forward = F.conv3d(x, unit.feed_forward.weight, padding=1)  # Wf * x
    h = forward
    for _ in range(steps):
        total = forward + F.conv3d(h, unit.recurrent.weight, padding=1)
        mean, var = total.mean((2, 3, 4), keepdim=True), total.var((2, 3, 4), keepdim=True, unbiased=False)
        h = ((total - mean) / (var + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(unit(x), h)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_step_sees_one_pixel_further_with_the_same_kernels(steps):
    unit = RecurrentConv(3, steps=steps, spatial_dims=2, norm="batch").double().eval()
    x = torch.randn(1, 3, 17, 17, dtype=torch.double, requires_grad=True)
    for norm in unit.norms:
        nn.init.constant_(norm.bias, 9.0)  # keeps every ReLU open
    grad = torch.autograd.grad(unit(x)[0, :, 8, 8].sum(), x)[0]
    rows = grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert (rows.min(), rows.max()) == (8 - 1 - steps, 8 + 1 + steps)
    assert sum(p.numel() for p in unit.parameters()) == 2 * 9 * 3 * 3 + steps * 2 * 3


def test_each_step_has_its_own_running_statistics():
    unit = RecurrentConv(3, spatial_dims=2, norm="batch")
    unit(torch.randn(4, 3, 8, 8))
    first, second = (norm.running_mean for norm in unit.norms)
    assert first.any() and not torch.allclose(first, second)


def test_a_block_without_recurrence_in_its_units_is_its_projection():
    block = RecurrentResidualBlock(3, 5)
    for norm in block.units[1].norms:
        nn.init.zeros_(norm.weight)
    x = torch.randn(1, 3, 4, 4, 4)
    torch.testing.assert_close(block(x), block.project(x))


# The network


@pytest.mark.parametrize(
    ("options", "count"), [({}, 12_220_145), ({"spatial_dims": 2}, 4_194_033), ({"steps": 3}, 12_220_145 + 2_944)]
)
def test_the_number_of_parameters(options, count):
    """A third step adds one norm to each of the 18 units: 2 * 2 * (2 * (16 + 32 + 64 + 128) + 256) numbers."""
    with torch.device("meta"):
        network = RRCUNet(**options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_it_compiles_and_exports_at_two_sizes():
    network = small_network(channels=(2, 4)).eval().requires_grad_(False)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    for side in (8, 11):
        image = torch.randn(1, 1, side, side, side)
        expected = network(image)
        torch.testing.assert_close(compiled(image), expected)
        torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), expected)


def test_half_precision_stays_close():
    network = small_network().eval()
    image = torch.randn(2, 1, 16, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(image).float()
    with torch.no_grad():
        full = network(image)
    assert (half - full).norm() < 0.05 * full.norm()  # bfloat16 keeps about three digits; four convolutions per unit


def test_it_overfits_one_batch_of_volumes():
    network = small_network(channels=(8, 16))
    generator = torch.Generator().manual_seed(1)
    target = torch.zeros(2, 1, 12, 12, 12)
    for i, (r, c) in enumerate(torch.randint(1, 6, (2, 2), generator=generator).tolist()):
        target[i, 0, r : r + 4, c : c + 5, 3:8] = 1
    image = target + 0.3 * torch.randn(target.shape, generator=generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(image), target).backward()
        optimizer.step()
    pred = network(image) > 0
    dice = 2 * (pred * target).sum() / (pred.sum() + target.sum())
    assert dice > 0.99


def test_wrong_options_and_images_are_refused_in_its_own_name():
    with pytest.raises(ValueError, match="RRCUNet: steps must be an integer .*, got 0. Without recurrence, use UNet"):
        RRCUNet(steps=0)
    with pytest.raises(ValueError, match="RRCUNet: spatial_dims must be 2 for slices or 3 for volumes, got 4"):
        RRCUNet(spatial_dims=4)
    with pytest.raises(ValueError, match=r"RRCUNet: the image has shape \(1, 1, 8, 8\), but \(B, 1, H, W, D\)"):
        small_network()(torch.zeros(1, 1, 8, 8))
