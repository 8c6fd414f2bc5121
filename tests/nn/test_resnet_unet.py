"""ResNet50-U-Net: Table 1 of He et al., parity with the published network, and what a network owes its user."""

import copy
import math
import re
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from lungseg.checks.networks.network import check_segmentation_network
from lungseg.checks.networks.overfitting import check_overfits_one_batch
from lungseg.nn.resnet_unet import Bottleneck, ResNet50Encoder, ResNet50UNet, imagenet_input

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/resnet_unet"
SMALL = {"stem": 4, "widths": (2, 3, 4, 5), "depths": (1, 2, 1, 1)}


def small_network(in_channels=1, num_classes=1, **options):
    return ResNet50UNet(in_channels, num_classes, **(SMALL | {"decoder_channels": (8, 8, 6, 4, 4)} | options))


def test_it_keeps_sizes_images_and_calls_apart_and_uses_every_parameter():
    check_segmentation_network(small_network, full_size=(128, 96), max_side=70)


# Table 1


@pytest.mark.parametrize(("in_channels", "count"), [(3, 23_508_032), (1, 23_508_032 - 2 * 64 * 7 * 7)])
def test_the_encoder_has_the_published_number_of_parameters(in_channels, count):
    with torch.device("meta"):
        encoder = ResNet50Encoder(in_channels)
    assert sum(p.numel() for p in encoder.parameters()) == count


@pytest.mark.parametrize(("in_channels", "count"), [(3, 32_521_105), (1, 32_514_833)])
def test_the_published_number_of_parameters(in_channels, count):
    with torch.device("meta"):
        network = ResNet50UNet(in_channels)
    assert sum(p.numel() for p in network.parameters()) == count


def test_each_map_has_the_size_of_table_1():
    with torch.device("meta"):
        maps = ResNet50Encoder()(torch.zeros(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]  # fmt: skip


def test_it_has_fifty_layers_counting_the_classifier_it_lacks():
    with torch.device("meta"):
        encoder = ResNet50Encoder()
    convolutions = [n for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d) and "downsample" not in n]
    assert len(convolutions) + 1 == 50


@given(H=st.integers(1, 70), W=st.integers(1, 70))
@settings(max_examples=20)
def test_each_stage_halves_the_sides_and_rounds_up(H, W):
    encoder = ResNet50Encoder(1, **SMALL).eval()
    maps = encoder(torch.randn(1, 1, H, W))
    for m, channels, stride in zip(maps, encoder.out_channels, (2, 4, 8, 16, 32), strict=True):
        assert m.shape == (1, channels, math.ceil(H / stride), math.ceil(W / stride))


# The bottleneck


def test_a_bottleneck_is_its_three_convolutions_added_to_the_projected_input():
    block = Bottleneck(3, 2, stride=2).double().train()

    def normalised(x):
        return F.batch_norm(x, None, None, training=True)

    x = torch.randn(4, 3, 7, 6, dtype=torch.double)
    inner = normalised(torch.einsum("oi,bihw->bohw", block.conv1.weight[..., 0, 0], x)).clamp(min=0)
    inner = normalised(F.conv2d(inner, block.conv2.weight, stride=2, padding=1)).clamp(min=0)
    inner = normalised(torch.einsum("oi,bihw->bohw", block.conv3.weight[..., 0, 0], inner))
    shortcut = torch.einsum("oi,bihw->bohw", block.downsample[0].weight[..., 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(block(x), (inner + normalised(shortcut)).clamp(min=0))


@pytest.mark.parametrize(("in_channels", "stride", "projected"), [(8, 1, False), (8, 2, True), (4, 1, True)])
def test_the_shortcut_is_projected_only_where_the_shape_changes(in_channels, stride, projected):
    block = Bottleneck(in_channels, width=2, stride=stride).eval()
    nn.init.zeros_(block.bn3.weight)  # f(x) = 0
    x = torch.rand(1, in_channels, 4, 4)
    assert (block.downsample is not None) == projected
    if not projected:
        assert torch.equal(block(x), x)


def test_no_pixel_is_skipped_by_the_stride():
    """The stride is in the 3 x 3. In the first 1 x 1, as in the paper, three of four pixels would have no effect."""
    block = Bottleneck(3, 8, stride=2).double().eval()
    nn.init.zeros_(block.downsample[0].weight)
    x = torch.randn(1, 3, 8, 8, dtype=torch.double, requires_grad=True)
    out = block(x)
    assert out.shape == (1, 32, 4, 4)
    assert (torch.autograd.grad((out * torch.randn_like(out)).sum(), x)[0].abs().sum(1) > 0).all()


# Parity with the published network


def ours(key):
    """The published name of a tensor -> ours."""
    key = re.sub(r"decoder\.blocks\.(\d)\.conv(\d)", lambda m: f"decoder.{m[1]}.{int(m[2]) - 1}", key)
    return key.replace("segmentation_head.0", "head")


@pytest.fixture
def published():
    """segmentation_models_pytorch 0.6.0 with small bottlenecks, 2 x 3 x 64 x 96: their weights in our network."""
    saved = torch.load(FIXTURES / "tiny_smp_unet_resnet.pt", weights_only=True)
    config = saved["config"]
    network = ResNet50UNet(
        config["in_channels"],
        config["classes"],
        stem=config["stem"],
        widths=config["planes"],
        depths=config["layers"],
        decoder_channels=config["decoder_channels"],
    )
    network.load_state_dict({ours(key): value for key, value in saved["state_dict"].items()})
    return saved, network.eval()


def test_equal_weights_give_the_published_output(published, in_both_precisions, assert_published):
    saved, network = published
    assert_published(*in_both_precisions(network, saved["input"]), saved["output"])


def test_equal_weights_give_the_published_gradients(published):
    saved, network = published
    network.double()  # float32 would add the rounding of this processor to that of the published norms
    image = saved["input"].double().requires_grad_()
    seed = torch.Generator().manual_seed(zlib.crc32(b"smp_unet_resnet/cotangent"))
    (network(image) * torch.randn(saved["output"].shape, generator=seed)).sum().backward()
    assert image.grad.norm().item() == pytest.approx(saved["input_grad_norm"], rel=1e-5)
    parameters = dict(network.named_parameters())
    assert len(saved["grad_norm_sum"]) == len(parameters)
    for key, (norm, _) in saved["grad_norm_sum"].items():
        assert parameters[ours(key)].grad.norm().item() == pytest.approx(norm, rel=1e-4), key


def test_in_training_output_and_running_statistics_are_the_published_ones(
    published, in_both_precisions, assert_published
):
    saved, network = published
    network.train()
    assert_published(*in_both_precisions(network, saved["input"]), saved["output_train_mode"], norm=48)
    exact, single = copy.deepcopy(network).double(), network
    with torch.no_grad():
        exact(saved["input"].double()), single(saved["input"])
    states = exact.state_dict(), single.state_dict()
    assert len(saved["running_after"]) == sum("running" in key for key in states[0])
    for key, expected in saved["running_after"].items():
        assert_published(*(state[ours(key)] for state in states), expected, name=key)


# What a network owes its user


def test_one_small_image_cannot_be_trained_on_and_the_error_says_why():
    network = small_network()
    with pytest.raises(ValueError, match="one image of 32 x 7 pixels is a single pixel at stride 32.*a side above 32"):
        network(torch.randn(1, 1, 32, 7))
    assert network(torch.randn(1, 1, 33, 7)).shape == (1, 1, 33, 7)
    assert network(torch.randn(2, 1, 1, 1)).shape == (2, 1, 1, 1)


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_a_grey_image_is_copied_and_normalised_as_the_imagenet_weights_expect(in_channels):
    grey = torch.rand(2, 1, 33, 40)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    if in_channels != 3:
        mean, std = mean.mean().repeat(in_channels), std.mean().repeat(in_channels)
    by_hand = torch.cat([(grey - m) / s for m, s in zip(mean, std, strict=True)], dim=1)
    assert torch.allclose(imagenet_input(grey, in_channels), by_hand, atol=1e-6)
    sizes = {"stem": 4, "widths": (2, 2, 2, 2), "depths": (1, 1, 1, 1), "decoder_channels": (4, 4, 4, 4, 4)}
    takes_grey = ResNet50UNet(in_channels, grey_input=True, **sizes).eval()
    as_published = ResNet50UNet(in_channels, **sizes).eval()
    as_published.load_state_dict(takes_grey.state_dict())  # the same state: nothing of it is learned or stored
    assert torch.equal(takes_grey(grey), as_published(imagenet_input(grey, in_channels)))
    with pytest.raises(ValueError, match="ResNet50UNet"):
        takes_grey(torch.rand(1, 2, 40, 40))


def test_a_wrong_image_is_refused_in_the_name_of_the_network():
    with pytest.raises(ValueError, match=r"ResNet50UNet: the image has shape \(1, 1, 8, 8\), but \(B, 3, H, W\)"):
        small_network(3)(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"ResNet50Encoder: the image has shape \(1, 1, 8, 8\), but \(B, 3, H, W\)"):
        ResNet50Encoder(3, **SMALL)(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("options", [{"widths": (2, 3, 4)}, {"depths": (1, 1, 1, 1, 1)}])
def test_other_than_four_stages_are_an_error(options):
    with pytest.raises(ValueError, match="must name four stages each"):
        small_network(**options)


def test_other_than_five_decoder_stages_are_an_error():
    with pytest.raises(ValueError, match="must name five stages, one for each halving of the encoder, got 4"):
        small_network(decoder_channels=(8, 8, 4, 4))


def test_the_decoder_starts_with_the_spread_of_the_reference():
    network = ResNet50UNet()
    first = network.decoder[0][0][0].weight
    assert first.std().item() == pytest.approx((2 / (9 * 3072)) ** 0.5, rel=0.01)  # He et al. 2015b, fan in
    assert not network.head.bias.any()
    stem = network.encoder.conv1.weight
    assert stem.std().item() == pytest.approx((2 / (49 * 64)) ** 0.5, rel=0.05)  # fan out


def test_it_compiles_and_exports_at_two_sizes():
    network = small_network(depths=(1, 1, 1, 1)).eval().requires_grad_(False)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    for side in (64, 45):
        image = torch.randn(1, 1, side, 40)
        expected = network(image)
        torch.testing.assert_close(compiled(image), expected)
    torch.testing.assert_close(torch.export.export(network, (image,)).module()(image), expected)  # even ones: below


def test_one_export_serves_all_multiples_of_32():
    network = small_network(depths=(1, 1, 1, 1)).eval()
    rows, cols = torch.export.Dim("rows", min=2, max=64), torch.export.Dim("cols", min=2, max=64)
    sizes = {0: torch.export.Dim("B"), 2: 32 * rows, 3: 32 * cols}
    exported = torch.export.export(network, (torch.randn(2, 1, 64, 96),), dynamic_shapes=(sizes,)).module()
    image = torch.randn(3, 1, 128, 64)
    torch.testing.assert_close(exported(image), network(image))


def test_half_precision_stays_close():
    network = small_network(stem=16, widths=(8, 8, 8, 8)).eval()
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        half = network(image).float()
    with torch.no_grad():
        full = network(image)
    assert (half - full).norm() < 0.03 * full.norm()  # bfloat16 keeps about three digits


def test_it_overfits_one_batch():
    network = small_network(stem=16, widths=(8, 8, 8, 8), decoder_channels=(32, 32, 16, 16, 16))
    check_overfits_one_batch(network, lr=1e-2, steps=80)
