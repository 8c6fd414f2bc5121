"""What all networks owe their user alike: the same numbers however they were built, filled, copied or cast."""

import ast
import copy
import inspect
import math
import re
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lungseg import nn as front_door
from lungseg.nn.attention import SelfAttention, WindowAttention
from lungseg.nn.layers import CONV, CONV_TRANSPOSE, MLP, NORM, InstanceNorm
from lungseg.nn.resnet_unet import ResNet50UNet
from lungseg.nn.rrc_unet import RecurrentConv, RRCUNet
from lungseg.nn.swin_unet import SwinBlock, SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR

NETWORKS = {
    "SwinUNet": partial(SwinUNet, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4),
    "SwinUNet, conv": partial(
        SwinUNet, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, stem="conv", conv_channels=(4, 6)
    ),
    "UNETR": partial(UNETR, embed_dim=12, depth=4, num_heads=3, feature_size=2, img_size=32),
    "UNet": partial(UNet, channels=(4, 8)),
    "RRCUNet": partial(RRCUNet, channels=(4, 8), spatial_dims=2),
    "ResNet50UNet": partial(
        ResNet50UNet, in_channels=1, stem=4, widths=(2, 3, 4, 5), depths=(1, 1, 1, 1), decoder_channels=(8, 8, 6, 4, 4)
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


# Strips


@settings(max_examples=12)
@given(length=st.integers(1, 150), width=st.integers(1, 3), upright=st.booleans())
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_an_image_one_pixel_wide_is_an_image(build, length, width, upright):
    size = (length, width) if upright else (width, length)
    with torch.no_grad():
        logits = build().eval()(torch.randn(1, 1, *size))
    assert logits.shape == (1, 1, *size) and logits.isfinite().all()


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


# Every option reaches the network, and every place in it

CHANGES = {
    "in_channels": 2, "num_classes": 3, "embed_dim": 24, "depths": (2, 3), "num_heads": (2, 4), "window_size": 3,
    "patch_size": 8, "mlp_ratio": 2.0, "qkv_bias": None, "drop_rate": 0.5, "attn_drop_rate": 0.5,
    "drop_path_rate": 0.5, "head_bias": True, "img_size": 64, "spatial_dims": 3, "depth": 5, "feature_size": 4,
    "skip_layers": (1, 2, 4), "attn_scale": "head_dim", "norm_affine": True, "channels": (4, 8, 8), "norm": None,
    "block": partial(torch.nn.Conv2d, kernel_size=1), "steps": 3, "stem": 8, "widths": (2, 3, 4, 6),
    "decoder_channels": (8, 8, 6, 4, 3), "grey_input": True, "conv_channels": (6, 4), "conv_norm": None,
}  # fmt: skip  # None: the other of two values
OTHER = {False: True, True: False, "batch": "instance", "instance": "batch"}
SPECIAL = {
    ("UNETR", "num_heads"): 4, ("ResNet50UNet", "depths"): (1, 1, 2, 1),
    ("SwinUNet", "stem"): "conv", ("SwinUNet, conv", "stem"): "patch",
}  # fmt: skip
NOT_ALONE = {  # these change nothing, or not without another option
    ("SwinUNet", "conv_channels"), ("SwinUNet", "conv_norm"), ("SwinUNet, conv", "patch_size"),
}  # fmt: skip
ALL_OPTIONS = [
    (name, option) for name, build in NETWORKS.items() for option in inspect.signature(build.func).parameters
    if (name, option) not in NOT_ALONE
]  # fmt: skip


def other_value(name, option):
    default = inspect.signature(NETWORKS[name].func).parameters[option].default
    value = SPECIAL.get((name, option), CHANGES[option])
    return OTHER[default] if value is None else value


@pytest.mark.parametrize(("name", "option"), ALL_OPTIONS, ids="-".join)
def test_every_option_changes_the_state_or_the_output(name, option):
    shapes, outputs = [], []
    for options in ({}, {option: other_value(name, option)}):
        torch.manual_seed(0)
        network = NETWORKS[name](**options)
        shapes.append({key: value.shape for key, value in network.state_dict().items()})
        size = [48] * options.get("spatial_dims", 2)
        torch.manual_seed(1)  # with equal shapes they also start from the same weights, and drop the same
        outputs.append(network(torch.randn(2, options.get("in_channels", 1), *size)))
        assert outputs[-1].shape == (2, options.get("num_classes", 1), *size)
    assert shapes[0] != shapes[1] or not torch.equal(*outputs)


def every(kind, value):
    """network -> value(module) of all its modules of a kind."""
    return lambda network: [value(m) for m in network.modules() if isinstance(m, kind)]


def families(network):
    """The number of axes of everything that is built for images or volumes."""
    kinds = [(n, t) for n in (2, 3) for t in (CONV[n], CONV_TRANSPOSE[n], NORM["batch"][n])]
    return [n for m in network.modules() for n, t in kinds if isinstance(m, t)]


def norms(network):
    return [k for m in network.modules() for k, classes in NORM.items() if isinstance(m, tuple(classes.values()))]


EVERYWHERE = [  # network, option, what is looked at, how many there are
    ("SwinUNet", {"drop_rate": 0.25}, every(torch.nn.Dropout, lambda m: m.p), 1 + 2 * 6),
    ("SwinUNet", {"attn_drop_rate": 0.25}, every(WindowAttention, lambda m: m.attn_drop), 6),
    ("SwinUNet", {"window_size": 3}, every((SwinBlock, WindowAttention), lambda m: m.window_size), 2 * 6),
    ("SwinUNet", {"qkv_bias": False}, every(WindowAttention, lambda m: m.qkv.bias is not None), 6),
    ("SwinUNet", {"mlp_ratio": 2.0}, every(MLP, lambda m: m.fc1.out_features / m.fc1.in_features), 6),
    ("SwinUNet, conv", {"conv_norm": "batch"}, norms, 2 + 2 + 1 + 2 * 2),
    ("SwinUNet, conv", {"conv_norm": "instance"}, norms, 2 + 2 + 1 + 2 * 2),
    ("UNETR", {"drop_rate": 0.25}, every(torch.nn.Dropout, lambda m: m.p), 1 + 2 * 4),
    ("UNETR", {"attn_drop_rate": 0.25}, every(SelfAttention, lambda m: m.attn_drop), 4),
    ("UNETR", {"num_heads": 4}, every(SelfAttention, lambda m: m.num_heads), 4),
    ("UNETR", {"qkv_bias": True}, every(SelfAttention, lambda m: m.qkv.bias is not None), 4),
    ("UNETR", {"mlp_ratio": 2.0}, every(MLP, lambda m: m.fc1.out_features / m.fc1.in_features), 4),
    ("UNETR", {"norm_affine": True}, every(InstanceNorm, lambda m: m.affine), 3 * 2 + 3 + 4 * 3),  # skips, image, up
    ("UNETR", {"norm": "batch"}, norms, 3 * 2 + 3 + 4 * 3),
    ("UNETR", {"spatial_dims": 3}, families, (3 * 2 + 3 + 4 * 3) + (6 + 4) + 2),  # as many, deconvolutions, ends
    ("UNet", {"norm": "instance"}, norms, 3 * 2),
    ("UNet", {"norm": "batch"}, norms, 3 * 2),
    ("UNet", {"spatial_dims": 3}, families, 3 * 4 + 2),
    ("RRCUNet", {"norm": "batch"}, norms, 3 * 2 * 2),
    ("RRCUNet", {"norm": "instance"}, norms, 3 * 2 * 2),
    ("RRCUNet", {"steps": 3}, every(RecurrentConv, lambda m: len(m.norms)), 3 * 2),
    ("RRCUNet", {"spatial_dims": 3}, families, 3 * 5 + 2),
]


@pytest.mark.parametrize(("name", "option", "look", "count"), EVERYWHERE, ids=[f"{e[0]}-{e[1]}" for e in EVERYWHERE])
def test_an_option_reaches_every_place_that_it_is_about(name, option, look, count):
    found = look(NETWORKS[name](**option))
    assert set(found) == set(option.values()) and len(found) == count, found


# What cannot be built

COUNTS = {"in_channels", "num_classes", "embed_dim", "window_size", "patch_size", "depth", "feature_size", "stem",
          "steps"}  # fmt: skip
STAGES = {
    "depths",
    "num_heads",
    "channels",
    "widths",
    "decoder_channels",
    "conv_channels",
}  # one integer for each stage
RATES = {"drop_rate", "attn_drop_rate", "drop_path_rate"}
WRONG = {
    **{option: (0, -1, 7.0, (7, 7), "7", None) for option in COUNTS},
    **{option: ((), 3, (2, 0), (2, -1), (2, 1.5), "22", None) for option in STAGES},
    **{option: (-0.1, 1.0, 1.5, math.nan, "0.1", None) for option in RATES},
    "mlp_ratio": (0, -1.0, 0.001, math.inf, math.nan, "4", None),
    "spatial_dims": (0, 1, 4, 2.0, [2], "2", None),
    "norm": ("layer", ["batch"], None),
    "conv_norm": ("layer", ["batch"], None),
    "attn_scale": ("log", ["sqrt"], None),
    "img_size": (0, 32.0, (32,), (32, 0), (32, 32.0), "32"),
    "skip_layers": (2, (), (1, 2), (1, 2, 9), (1.0, 2.0, 3.0), (3, 2, 1), "123"),
}
FREE = {"qkv_bias", "head_bias", "norm_affine", "grey_input", "block"}  # nothing to get wrong
OPTIONS = [
    (build, option) for name, build in NETWORKS.items() for option in inspect.signature(build.func).parameters
    if option not in FREE and (name, option) not in NOT_ALONE
    and (name != "SwinUNet, conv" or "conv" in option)  # the others are checked before the stem is chosen
]  # fmt: skip


@pytest.mark.parametrize(("build", "option"), OPTIONS, ids=[f"{b.func.__name__}-{o}" for b, o in OPTIONS])
def test_what_cannot_be_built_is_refused_in_a_sentence_that_names_the_option_and_its_value(build, option):
    wrong = WRONG[option]
    if option == "num_heads" and build.func is UNETR:
        wrong = WRONG["depth"]  # the same in all blocks
    if option == "stem" and build.func is SwinUNet:
        wrong = ("linear", ["conv"], 4, None)
    for value in wrong:
        with pytest.raises(ValueError) as refused:
            build(**{option: value})
        message = str(refused.value)
        owner = "ResNet50Encoder" if option in ("stem", "widths", "depths") and build.func is ResNet50UNet else ""
        assert message.startswith(f"{owner or build.func.__name__}: "), message
        assert option in message and f"{value!r}" in message, message
        assert "\n" not in message and re.search(r"must|needs?\b", message), message


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (SwinUNet, {"embed_dim": 8}, r"SwinUNet: .*num_heads=\(3, 6, 12, 24\).* 8 channels of stage 0"),
        (SwinUNet, {"num_heads": (3, 6, 12, 36)}, r"768 channels of stage 3"),
        (UNETR, {"num_heads": 5}, "UNETR: num_heads=5 does not divide embed_dim=768"),
    ],
)
def test_heads_that_do_not_divide_the_channels_are_refused_in_the_words_of_the_network(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_integers_of_numpy_and_lists_are_as_good_as_pythons_own():
    network = SwinUNet(embed_dim=np.int64(8), depths=[np.int32(1)] * 2, num_heads=[1, 2], window_size=np.int16(4))
    assert network.eval()(torch.randn(1, 1, 20, 20)).shape == (1, 1, 20, 20)


# What cannot be an image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(32, 32), r"shape \(32, 32\), .*\(B, 1, H, W\).* image\[None, None\]"),
        (torch.zeros(1, 32, 32), r"shape \(1, 32, 32\), .*\(B, 1, H, W\).* image\[None\]"),
        (torch.zeros(4, 32, 32), r"shape \(4, 32, 32\), .*\(B, 1, H, W\).* image\[:, None\]"),
        (torch.zeros(2, 32, 32, 1), r"shape \(2, 32, 32, 1\), .*\(B, 1, H, W\).* image\.movedim\(-1, 1\)"),
        (torch.zeros(2, 3, 32, 32), r"shape \(2, 3, 32, 32\), .*\(B, 1, H, W\).* in_channels=3"),
        (torch.zeros(2, 1, 9, 9, 9), r"shape \(2, 1, 9, 9, 9\), .*\(B, 1, H, W\)"),
        (torch.zeros(0, 1, 32, 32), r"shape \(0, 1, 32, 32\), .*at least 1"),
        (torch.zeros(1, 1, 0, 32), r"shape \(1, 1, 0, 32\), .*at least 1"),
        (torch.zeros(1, 0, 32, 32), r"shape \(1, 0, 32, 32\), .*at least 1"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.uint8), r"torch\.uint8, .*torch\.float32.* image\.float\(\)"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.int16), r"torch\.int16, .*torch\.float32.* image\.float\(\)"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.bool), r"torch\.bool, .*torch\.float32.* image\.float\(\)"),
        (torch.zeros(1, 1, 32, 32).double(), r"torch\.float64, .*torch\.float32.* image\.float\(\)"),
        (torch.zeros(1, 1, 32, 32).half(), r"torch\.float16, .*torch\.float32.* image\.float\(\)"),
        (np.zeros((1, 1, 32, 32), np.float32), r"ndarray, .*tensor.* torch\.from_numpy\(image\)"),
    ],
    ids=lambda value: str(tuple(value.shape)) + str(value.dtype) if hasattr(value, "shape") else "",
)
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_what_cannot_be_an_image_is_refused_in_a_sentence_that_says_what_to_do(build, image, message):
    network = build().eval()
    with pytest.raises(ValueError, match=f"{build.func.__name__}: the image .*{message}"):
        network(image)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_an_image_in_another_precision_than_the_weights_is_refused_whatever_the_weights_are(build):
    image = torch.zeros(1, 1, 32, 32)
    with pytest.raises(ValueError, match=r"torch.float32, .*torch.bfloat16.* image.to\(torch.bfloat16\)"):
        build().bfloat16().eval()(image)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="torch.float64, .*torch.float32"):
        build().eval()(image.double())  # autocast leaves double precision alone
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ValueError, match="torch.uint8, .*torch.float32"):
        build().eval()(image.byte())


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
def test_the_checks_let_autocast_be_compiled(build):
    torch.compiler.reset()
    small = {"depths": (1, 2)} if build.func is SwinUNet else {}  # each block is compiled for itself
    network, image = build(**small).bfloat16().eval(), torch.randn(1, 1, 32, 32)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(compiled(image), network(image))


# Names


def test_everything_public_can_be_imported_from_lungseg_nn():
    public = {}
    for file in sorted(Path(front_door.__file__).parent.glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert node.name not in public, f"{node.name} is defined in {public[node.name]} and in {file.stem}"
                public[node.name] = file.stem
    assert front_door.__all__ == sorted(public)
    for name, file in public.items():
        assert getattr(front_door, name) is getattr(import_module(f"lungseg.nn.{file}"), name)
