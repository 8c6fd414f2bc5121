"""U-Net in 2-D and 3-D: what a network owes its user, and what batch norm owes CT."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lungseg.checks.networks.network import check_segmentation_network
from lungseg.checks.networks.overfitting import check_overfits_one_batch
from lungseg.nn.unet import UNet, crop


def small_network(in_channels=1, num_classes=1, **options):
    return UNet(in_channels, num_classes, **({"channels": (4, 8, 8)} | options))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_it_keeps_sizes_images_and_calls_apart_and_uses_every_parameter_in_2d(norm):
    check_segmentation_network(lambda i, k: small_network(i, k, norm=norm), full_size=(48, 40), max_side=50)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_it_keeps_sizes_images_and_calls_apart_and_uses_every_parameter_in_3d(norm):
    def build(in_channels, num_classes):
        return small_network(in_channels, num_classes, spatial_dims=3, norm=norm)

    check_segmentation_network(build, full_size=(16, 20, 12), max_side=14, sizes=6)


# The architecture


@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 7_762_465), ({"norm": "instance"}, 7_762_465), ({"spatial_dims": 3}, 22_578_273)],
)
def test_the_number_of_parameters(options, count):
    with torch.device("meta"):
        network = UNet(**options)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_number_of_parameters_is_that_of_figure_1_written_out(spatial_dims):
    """The paper's channels: per stage two convolutions without bias and two norms, four up-convolutions, a head."""
    channels = [64, 128, 256, 512, 1024]
    with torch.device("meta"):
        network = UNet(3, 2, channels=channels, spatial_dims=spatial_dims)

    def stage(a, b):
        return 3**spatial_dims * (a * b + b * b) + 2 * 2 * b

    down = stage(3, 64) + sum(stage(n // 2, n) for n in channels[1:])
    up = sum(2**spatial_dims * n * (n // 2) + n // 2 + stage(n, n // 2) for n in channels[1:])
    assert sum(p.numel() for p in network.parameters()) == down + up + 64 * 2 + 2


@given(H=st.integers(1, 40), W=st.integers(1, 40))
@settings(max_examples=20)
def test_each_stage_halves_the_sides_and_rounds_up(H, W):
    network, seen = small_network().eval(), []
    for stage in [*network.encoder, network.bottleneck]:
        stage.register_forward_hook(lambda m, args, out: seen.append(tuple(out.shape[1:])))
    network(torch.randn(1, 1, H, W))
    assert seen == [(c, math.ceil(H / s), math.ceil(W / s)) for c, s in [(4, 1), (8, 2), (8, 4)]]


def test_the_logits_at_a_pixel_see_the_image_around_it_and_no_further():
    """Footprint of the gradient: two convolutions per stage reach 2 pixels of that stage, down and up."""
    network = small_network().double().eval()
    image = torch.randn(1, 1, 96, 96, dtype=torch.double, requires_grad=True)
    grad = torch.autograd.grad(network(image)[0, 0, 48, 48], image)[0][0, 0]
    rows = grad.abs().sum(1).nonzero().flatten()
    reach = 2 + 2 * 2 + 2 * 4 + 2 * 2 + 2  # 20, and up to 3 more on one side for the pooling of 4 x 4
    assert 48 - reach - 3 <= rows.min() < 48 < rows.max() <= 48 + reach + 3
    assert len(rows) > 2 * reach - 6  # max-pooling lets one pixel of four through: a few of the border miss out


def test_a_skip_carries_fine_detail():
    """Without the way through the bottleneck the logits still depend on the image, pixel by pixel."""
    network = small_network().eval()
    for up in network.up:
        torch.nn.init.zeros_(up.weight)
    flat = torch.zeros(1, 1, 32, 32)
    dot = flat.clone()
    dot[0, 0, 16, 16] = 5
    changed = (network(dot) - network(flat))[0, 0].abs() > 0
    assert changed[16, 16] and not changed[:8].any()


def test_crop_cuts_at_the_far_ends():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert crop(x, (2, 3)).tolist() == [[[[0, 1, 2], [4, 5, 6]]]]


# The two norms


@pytest.mark.parametrize(("norm", "same"), [("batch", True), ("instance", False)])
def test_a_crop_gives_what_the_whole_slice_gives_if_norms_do_not_look_at_the_image(norm, same):
    network = small_network(norm=norm).double()
    image = torch.randn(4, 1, 96, 96, dtype=torch.double)
    network(image)  # so that running statistics are other than 0 and 1
    network.eval()
    whole, part = network(image), network(image[:, :, 16:80, 16:80])
    inner = part[:, :, 24:40, 24:40] - whole[:, :, 40:56, 40:56]  # further from the crop's border than a pixel sees
    assert (inner.abs().max() < 1e-12) == same


def test_instance_norm_trains_on_a_single_small_image_and_batch_norm_says_why_it_cannot():
    image = torch.randn(1, 1, 4, 3)
    assert small_network(norm="instance")(image).isfinite().all()
    with pytest.raises(ValueError, match="UNet: one image of 4 x 3 pixels is a single pixel at stride 4"):
        small_network()(image)
    assert small_network()(torch.randn(1, 1, 5, 3)).isfinite().all()
    assert small_network()(image.expand(2, 1, 4, 3)).isfinite().all()


# What a network owes its user


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_compiles_and_exports_at_two_sizes(spatial_dims):
    network = small_network(channels=(2, 4), spatial_dims=spatial_dims).eval().requires_grad_(False)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    for side in (16, 21):
        image = torch.randn(1, 1, *[side] * spatial_dims)
        expected = network(image)
        torch.testing.assert_close(compiled(image), expected)
        torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), expected)


def test_one_export_serves_all_multiples_of_the_stride():
    network = small_network().eval()
    rows, cols = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("cols", min=2, max=64)
    sizes = {0: torch.export.Dim("B"), 2: 4 * rows, 3: 4 * cols}
    exported = torch.export.export(network, (torch.randn(2, 1, 16, 20),), dynamic_shapes=(sizes,)).module()
    image = torch.randn(3, 1, 32, 24)
    torch.testing.assert_close(exported(image), network(image))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_half_precision_stays_close(norm):
    network = small_network(norm=norm).eval()
    image = torch.randn(2, 1, 48, 48)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(image).float()
    with torch.no_grad():
        full = network(image)
    assert (half - full).norm() < 0.03 * full.norm()  # bfloat16 keeps about three digits


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_it_overfits_one_batch(norm):
    network = UNet(channels=(8, 16, 32), norm=norm)
    check_overfits_one_batch(network, lr=1e-2, steps=60)


@pytest.mark.parametrize("stages", [1, 2, 6])
def test_any_number_of_stages(stages):
    assert UNet(channels=(4,) * stages).eval()(torch.randn(1, 1, 21, 50)).shape == (1, 1, 21, 50)


def test_any_block_that_keeps_the_size_fits_into_the_u():
    network = small_network(block=lambda a, b: torch.nn.Conv2d(a, b, kernel_size=1), norm="instance")
    image = torch.randn(1, 1, 8, 8, requires_grad=True)
    grad = torch.autograd.grad(network(image)[0, 0, 5, 2], image)[0][0, 0]
    assert grad[5, 2] != 0 and not grad[:4].any() and not grad[:, 4:].any()  # one cell of the deepest map


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 for slices or 3 for volumes, got 1"),
        ({"norm": "layer"}, "norm must be one of batch, instance, got 'layer'"),
        ({"channels": ()}, r"at least one stage, .*got \(\)"),
    ],
)
def test_wrong_options_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**options)


def test_a_volume_for_a_network_of_slices_is_refused():
    with pytest.raises(ValueError, match=r"UNet: the image has shape \(1, 1, 8, 8, 8\), but \(B, 1, H, W\)"):
        small_network()(torch.zeros(1, 1, 8, 8, 8))
