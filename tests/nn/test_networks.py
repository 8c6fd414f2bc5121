"""What all networks owe their user alike: the same numbers however they were built, filled, copied or cast."""

import copy
from functools import partial

import pytest
import torch

from lungseg.nn import UNETR, ResNet50UNet, RRCUNet, SwinUNet, UNet
from lungseg.nn.attention import WindowAttention

NETWORKS = {
    "SwinUNet": partial(SwinUNet, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4),
    "UNETR": partial(UNETR, embed_dim=12, depth=4, num_heads=3, feature_size=2, img_size=32),
    "UNet": partial(UNet, channels=(4, 8)),
    "RRCUNet": partial(RRCUNet, channels=(4, 8), spatial_dims=2),
    "ResNet50UNet": partial(
        ResNet50UNet, 1, stem=4, widths=(2, 3, 4, 5), depths=(1, 1, 1, 1), decoder_channels=(8, 8, 6, 4, 4)
    ),
}


def on_meta(build):
    with torch.device("meta"):
        return build()


# Built without memory (the meta device), and filled afterwards


def assign(network, state):
    network.load_state_dict(state, assign=True)
    return network


def allocate(network, state):
    torch.use_deterministic_algorithms(True)  # so that memory nobody has written to holds NaN or the largest integer
    network.to_empty(device="cpu").load_state_dict(state)
    return network


WAYS = {
    "assigned": assign,
    "allocated": allocate,
    "copied, then assigned": lambda network, state: assign(copy.deepcopy(network), state),
    "assigned, then copied": lambda network, state: copy.deepcopy(assign(network, state)),
    "allocated, then copied": lambda network, state: copy.deepcopy(allocate(network, state)),
    "assigned twice": lambda network, state: assign(assign(network, state), state),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_built_on_meta_and_filled_later_gives_the_same_numbers(build, way):
    expected = build().eval()
    for parameter in expected.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    filled = way(on_meta(build).eval(), expected.state_dict())
    image = torch.randn(1, 1, 40, 33)
    with torch.no_grad():
        assert torch.equal(filled(image), expected(image))
        for dtype in (torch.bfloat16, torch.double):
            ours, theirs = filled.to(dtype), expected.to(dtype)
            assert torch.equal(ours(image.to(dtype)), theirs(image.to(dtype)))


@pytest.mark.parametrize("cast", ["half", "double", "bfloat16"])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_cast_on_meta_is_a_cast_of_what_is_filled_in(build, cast):
    expected = getattr(build().eval(), cast)()
    filled = allocate(getattr(on_meta(build).eval(), cast)(), expected.state_dict())
    image = getattr(torch.randn(1, 1, 32, 32), cast)()
    with torch.no_grad():
        assert torch.equal(filled(image), expected(image))


def test_an_index_survives_a_cast_of_all_buffers_and_single_parameters_that_are_replaced():
    attention, windows = WindowAttention(8, 4, 2).eval(), torch.randn(3, 16, 8)
    expected = attention(windows)
    assert torch.equal(attention.type(torch.float32)(windows), expected)  # casts integers, too
    empty = on_meta(lambda: WindowAttention(8, 4, 2)).eval()
    for name, parameter in attention.named_parameters():  # as loaders of large models do, one at a time
        module, _, leaf = name.rpartition(".")
        setattr(empty.get_submodule(module), leaf, parameter)
    assert torch.equal(empty(windows), expected)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_skipping_the_initialisation_is_refused_and_never_gives_a_network_of_garbage(build):
    with pytest.raises(RuntimeError, match="must support a 'device' arg"):
        torch.nn.utils.skip_init(build.func)


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_a_network_in_half_precision_takes_any_size_and_stays_close(build, dtype):
    full = build().eval()
    half = copy.deepcopy(full).to(dtype)
    for size in [(32, 32), (48, 48), (40, 33), (5, 70)]:
        image = torch.randn(2, 1, *size)
        with torch.no_grad():
            expected, got = full(image), half(image.to(dtype))
        assert got.dtype == dtype
        assert (got.float() - expected).norm() < 0.05 * expected.norm(), size  # bfloat16 keeps two to three digits


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("image", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_under_autocast_image_and_weights_may_differ_in_precision(build, image, weights):
    network = build().to(weights).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.randn(1, 1, 40, 33, dtype=image)).isfinite().all()
