"""Convolutions before and after the tokens: sizes, what each part sees, and absolute grey values."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

from lungseg.checks.networks.network import check_segmentation_network
from lungseg.checks.networks.overfitting import check_overfits_one_batch
from lungseg.nn.conv_stem import ConvDecoder, ConvStem
from lungseg.nn.swin_unet import SwinUNet

SIZES = st.tuples(st.integers(1, 23), st.integers(1, 23))
CONV = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "stem": "conv"}


def conv_swin(in_channels=1, num_classes=1, **options):
    return SwinUNet(in_channels, num_classes, **(CONV | {"conv_channels": (4, 6), "drop_path_rate": 0.0} | options))


@settings(deadline=None, max_examples=25)
@given(size=SIZES, steps=st.integers(1, 3))
def test_each_step_halves_and_rounds_up_and_the_decoder_returns_to_every_size(size, steps):
    channels = (3, 4, 5)[:steps]
    stem, decoder = ConvStem(2, 8, channels).eval(), ConvDecoder(8, channels).eval()
    tokens, maps = stem(torch.randn(2, 2, *size))
    sides = [tuple(-(-n // 2**i) for n in size) for i in range(steps + 1)]
    assert [tuple(m.shape) for m in maps] == [(2, c, *s) for c, s in zip(channels, sides, strict=False)]
    assert tokens.shape == (2, *sides[-1], 8)
    assert decoder(tokens, maps).shape == (2, 3, *size)


def test_the_finest_skip_tells_the_pixels_of_a_token_apart():
    """With the tokens held at zero, the decoder still knows each pixel; a patch embedding has only the tokens."""
    stem, decoder = ConvStem(1, 8, (4, 6)).eval(), ConvDecoder(8, (4, 6)).eval()
    marks = torch.zeros(3, 1, 64, 64)
    marks[1, 0, 33, 30] = marks[2, 0, 33, 31] = 1.0  # two pixels of one token
    out = decoder(torch.zeros(3, 16, 16, 8), stem(marks)[1])
    assert not torch.allclose(out[1], out[2], atol=1e-3)
    seen = (out[1] - out[0]).abs().sum(dim=0).nonzero()
    assert (seen - torch.tensor([33, 30])).abs().max() < 20  # only near the pixel


@pytest.mark.parametrize(("norm", "keeps"), [("batch", True), ("instance", False)])
def test_batch_norm_keeps_the_noise_of_air_small_and_instance_norm_does_not(norm, keeps):
    torch.manual_seed(0)
    stem = ConvStem(1, 8, (4, 6), norm=norm)
    tissue = torch.rand(8, 1, 32, 32)
    for _ in range(40):  # batch norm learns the scale of tissue
        stem(tissue)
    _, maps = stem.eval()(torch.cat([tissue[:1], 0.001 * tissue[:1]]))  # the second has 1/1000 of the contrast
    contrast = maps[-1][..., 4:-4, 4:-4].std(dim=(2, 3)).mean(dim=1)  # (2,)
    assert (contrast[1] < 0.02 * contrast[0]) == keeps


def test_the_network_keeps_sizes_images_and_calls_apart_and_uses_every_parameter():
    check_segmentation_network(conv_swin, full_size=(64, 64), max_side=40)


def test_it_overfits_one_batch():
    check_overfits_one_batch(conv_swin(embed_dim=16), lr=1e-2, steps=150)


def test_a_single_token_cannot_be_normalised_in_training():
    network = conv_swin()
    with pytest.raises(ValueError, match="single pixel at stride 4"):
        network(torch.randn(1, 1, 4, 3))
    assert network.eval()(torch.randn(1, 1, 4, 3)).shape == (1, 1, 4, 3)
    assert conv_swin(conv_norm="instance")(torch.randn(1, 1, 4, 3)).shape == (1, 1, 4, 3)


def test_channels_that_lead_to_another_patch_size_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"conv_channels=\(16, 32\).* patch_size is 8. Give patch_size=4"):
        SwinUNet(stem="conv", patch_size=8)


def test_the_published_blocks_are_those_of_the_published_network():
    """All that is not stem or decoder has the names and shapes of stem="patch", so that its weights fit."""
    shapes = [{k: v.shape for k, v in conv_swin(stem=stem).state_dict().items()} for stem in ("patch", "conv")]
    changed = {name.split(".")[0] for name, _ in shapes[0].items() ^ shapes[1].items()}
    assert changed == {"patch_embed", "final_expanding", "conv_stem", "conv_decoder", "head"}
