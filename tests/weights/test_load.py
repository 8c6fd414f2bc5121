"""Published checkpoints into our networks: every layout, every adaptation, and no silence."""

import functools
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from lungseg.checkpoint import save_checkpoint
from lungseg.nn.resnet_unet import ResNet50Encoder, ResNet50UNet
from lungseg.nn.rrc_unet import RRCUNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.nn.unetr import UNETR
from lungseg.weights.load import load_published, resize_bias_table

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/swin_unet"


def state_dict_of(keys_file, scale=0.02):
    """Random weights in the layout that a keys file lists (key, shape, dtype, Parameter or Buffer)."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for line in (FIXTURES / keys_file).read_text().splitlines()[1:]:
        key, shape, dtype, _ = line.split("\t")
        shape = tuple(int(n) for n in re.findall(r"\d+", shape))
        state[key] = (
            torch.zeros(shape, dtype=torch.int64)
            if dtype == "int64"
            else scale * torch.randn(shape, generator=generator)
        )
    return state


@pytest.fixture
def tiny():
    return torch.load(FIXTURES / "tiny_swin_unet_w4.pt", weights_only=True)


def tiny_network(in_channels=3, num_classes=2, window_size=4, **options):
    options = {"embed_dim": 8, "num_heads": (1, 2, 4, 8), "mlp_ratio": 2.0} | options
    return SwinUNet(in_channels, num_classes, window_size=window_size, **options).eval()


@pytest.mark.parametrize(
    ("keys", "channels"), [("swin_unet_c1_k1.keys.txt", (1, 1)), ("swin_unet_c3_k9.keys.txt", (3, 9))]
)
def test_a_full_size_swin_unet_checkpoint_fills_every_tensor_unchanged(keys, channels):
    model, published = SwinUNet(*channels), state_dict_of(keys)
    report = load_published(model, published)
    assert report.layout == "Swin-Unet"
    assert not (report.adapted or report.skipped or report.fresh)
    assert len(report.loaded) == 218  # the parameters that the keys file counts
    for name, key in report.loaded.items():
        assert torch.equal(model.state_dict()[name], published[key])


def test_imagenet_swin_fills_encoder_and_decoder():
    model, published = SwinUNet(3, 1), state_dict_of("timm_swin_tiny_224.keys.txt")
    report = load_published(model, {"model": published})
    assert report.layout == "Swin (timm)"
    ours = model.state_dict()
    for ours_name, key in [
        ("encoder.0.1.attn.qkv.weight", "layers.0.blocks.1.attn.qkv.weight"),
        ("decoder.2.1.attn.qkv.weight", "layers.0.blocks.1.attn.qkv.weight"),
        ("decoder.0.0.mlp.fc1.bias", "layers.2.blocks.0.mlp.fc1.bias"),
        ("bottleneck.0.norm1.weight", "layers.3.blocks.0.norm1.weight"),
        ("merging.0.reduction.weight", "layers.1.downsample.reduction.weight"),
        ("patch_embed.proj.weight", "patch_embed.proj.weight"),
        ("norm.bias", "norm.bias"),
    ]:
        assert torch.equal(ours[ours_name], published[key]), ours_name
    assert set(report.fresh) == {
        n for n in ours if n.startswith(("expanding", "fuse", "final_expanding", "norm_up", "head"))
    }
    assert "head.fc.weight" in report.skipped
    assert "layers.2.blocks.5.norm1.weight" in report.skipped  # Swin-T has six blocks where Swin-Unet has two
    assert report.skipped["head.fc.weight"] == "not part of this network"
    assert "  fresh expanding (9), fuse (6), norm_up (2), final_expanding (3), head (1)" in str(report).splitlines()
    assert len(str(report).splitlines()) < 12  # 54 tensors were skipped, and 21 are fresh: a line for each reason


def test_a_convolutional_stem_takes_the_blocks_and_the_report_says_what_is_fresh():
    model = SwinUNet(3, 1, stem="conv", conv_channels=(32, 64))
    report = load_published(model, state_dict_of("timm_swin_tiny_224.keys.txt"))
    assert torch.equal(model.encoder[0][1].attn.qkv.weight, model.decoder[2][1].attn.qkv.weight)
    assert report.skipped["patch_embed.proj.weight"] == "this network has convolutions there (stem='conv')"
    fresh = ("conv_stem", "expanding", "fuse", "conv_decoder", "norm_up", "head")
    assert set(report.fresh) == {name for name in model.state_dict() if name.startswith(fresh)}
    report = load_published(model, state_dict_of("swin_unet_c3_k9.keys.txt"))
    assert report.skipped["up.expand.weight"] == "this network has convolutions there (stem='conv')"
    assert {name.split(".")[0] for name in report.fresh} == {"conv_stem", "conv_decoder", "head"}


@pytest.mark.parametrize("classes", [1, 3])
def test_a_checkpoint_with_a_convolutional_stem_is_loaded_whole(tmp_path, classes):
    conv = {"stem": "conv", "conv_channels": (4, 6)}
    theirs = saved_run(tmp_path / "best.pt", SwinUNet, in_channels=3, **conv)
    ours = SwinUNet(1, classes, **SIZES[SwinUNet], **conv)
    report = load_published(ours, tmp_path / "best.pt", arguments=SIZES[SwinUNet] | conv)
    assert set(report.adapted) == {"conv_stem.stages.0.0.0.weight"}
    assert all(name.startswith("head.") for name in report.fresh) and bool(report.fresh) == (classes > 1)
    assert torch.equal(ours.conv_decoder.stages[0][0][0].weight, theirs.conv_decoder.stages[0][0][0].weight)


def test_microsofts_swin_keeps_each_merging_at_the_end_of_its_stage():
    published = {}
    for key, value in state_dict_of("timm_swin_tiny_224.keys.txt").items():
        published[re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)] = value
    model = SwinUNet(3, 1)
    report = load_published(model, published)
    assert report.layout == "Swin (microsoft)"
    assert torch.equal(model.state_dict()["merging.2.norm.bias"], published["layers.2.downsample.norm.bias"])


def test_a_grey_image_gives_what_three_equal_channels_gave(tiny):
    colour, grey = tiny_network(), tiny_network(in_channels=1)
    load_published(colour, tiny["state_dict"])
    report = load_published(grey, tiny["state_dict"])
    assert "3 input channels -> 1" in report.adapted["patch_embed.proj.weight"]
    image = torch.randn(2, 1, 64, 64, dtype=torch.double)
    torch.testing.assert_close(grey.double()(image), colour.double()(image.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5)


def test_another_window_size_keeps_the_learned_map_and_stretches_it(tiny):
    model = tiny_network(window_size=5)
    report = load_published(model, tiny["state_dict"])
    name = "encoder.0.0.attn.relative_position_bias_table"
    assert "(49, 1) -> (81, 1), bicubic" in report.adapted[name]
    theirs = tiny["state_dict"]["layers.0.blocks.0.attn.relative_position_bias_table"].view(7, 7)
    ours = model.state_dict()[name].view(9, 9)
    torch.testing.assert_close(ours[[0, 0, -1, -1, 4], [0, -1, 0, -1, 4]], theirs[[0, 0, -1, -1, 3], [0, -1, 0, -1, 3]])


def test_resizing_a_bias_table_reproduces_a_linear_map():
    """Bicubic interpolation is exact for a plane (away from the border rows, where it has no neighbours)."""
    plane = torch.linspace(-1, 1, 27)[:, None] + 2 * torch.linspace(-1, 1, 27)[None, :]
    bigger = resize_bias_table(plane.reshape(-1, 1), torch.Size((53 * 53, 1))).view(53, 53)
    expected = torch.linspace(-1, 1, 53)[:, None] + 2 * torch.linspace(-1, 1, 53)[None, :]
    torch.testing.assert_close(bigger[4:-4, 4:-4], expected[4:-4, 4:-4], rtol=0, atol=1e-5)


def test_another_number_of_heads_takes_the_bias_of_the_nearest():
    table = torch.arange(9.0)[:, None] + torch.tensor([[0.0, 100.0]])  # (9, 2)
    doubled = resize_bias_table(table, torch.Size((9, 4)))
    torch.testing.assert_close(doubled, table[:, [0, 0, 1, 1]])


def test_a_head_for_other_classes_is_skipped_and_said(tiny):
    report = load_published(tiny_network(num_classes=1), tiny["state_dict"])
    assert "does not fit head.weight" in report.skipped["output.weight"]
    assert report.fresh == ["head.weight"]


def test_wrappers_and_prefixes_are_taken_off(tiny, tmp_path, in_both_precisions, assert_published):
    path = tmp_path / "epoch_149.pth"
    wrapped = {"module.swin_unet." + k: v for k, v in tiny["state_dict"].items()}
    torch.save({"state_dict": wrapped, "epoch": 149}, path)
    model = tiny_network()
    load_published(model, path)
    assert_published(*in_both_precisions(model, tiny["input"]), tiny["output"])


def test_less_than_half_of_the_encoder_is_an_error_and_changes_nothing(tiny):
    model = tiny_network(embed_dim=16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="numbers were found in this Swin-Unet checkpoint, less than half"):
        load_published(model, tiny["state_dict"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_unknown_layout_or_network_is_an_error(tiny):
    with pytest.raises(ValueError, match=r"the keys \(conv1.weight \(1\)\) belong to no layout known for SwinUNet"):
        load_published(tiny_network(), {"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no layout known for Linear. Known: none"):
        load_published(nn.Linear(1, 1), tiny["state_dict"])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: None, "cannot be read"),
        (lambda p: p.write_bytes(b"no checkpoint"), "is not a checkpoint of tensors only"),
        (lambda p: torch.save({"epoch": 3}, p), "holds no tensors by name"),
        (lambda p: torch.save({"model": nn.Linear(1, 1)}, p), "is not a checkpoint of tensors only"),
    ],
    ids=["missing", "text", "no tensors", "a pickled module"],
)
def test_a_file_that_is_no_state_dict_is_refused_in_words(tmp_path, write, message):
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(ValueError, match=message):
        load_published(tiny_network(), path)


@pytest.mark.parametrize("source", [{}, {"epoch": 3, "model": {}}, [torch.zeros(1)], nn.Linear(1, 1)])
def test_what_holds_no_tensors_by_name_is_refused_in_words(tmp_path, source):
    with pytest.raises(ValueError, match="load_published: holds no tensors by name"):
        load_published(tiny_network(), source)
    if not isinstance(source, nn.Module):
        torch.save(source, tmp_path / "x.pth")
        with pytest.raises(ValueError, match=r"x\.pth: holds no tensors by name"):
            load_published(tiny_network(), tmp_path / "x.pth")


def test_the_grey_kernel_is_the_sum_over_colours(tiny):
    model = tiny_network(in_channels=2)
    load_published(model, tiny["state_dict"])
    kernel = model.patch_embed.proj.weight
    image = torch.ones(1, 1, 4, 4)
    theirs = F.conv2d(image.expand(1, 3, 4, 4), tiny["state_dict"]["patch_embed.proj.weight"])
    torch.testing.assert_close(F.conv2d(image.expand(1, 2, 4, 4), kernel), theirs)


# ResNet50-U-Net and ResNet-50


def test_a_full_size_resnet50_unet_checkpoint_fills_every_tensor_unchanged():
    model, published = ResNet50UNet(3, 1), state_dict_of("../resnet_unet/smp_unet_resnet50_c3_k1.keys.txt")
    report = load_published(model, published)
    assert report.layout == "ResNet50-U-Net (smp)"
    assert not (report.adapted or report.skipped or report.fresh)
    assert len(report.loaded) == 380  # parameters and buffers, as the keys file counts
    for name, key in report.loaded.items():
        assert torch.equal(model.state_dict()[name], published[key]), name


def test_imagenet_resnet50_fills_the_encoder_and_its_names_are_ours():
    published = state_dict_of("../resnet_unet/torchvision_resnet50.keys.txt")
    model = ResNet50Encoder()
    report = load_published(model, published)
    assert report.layout == "ResNet-50 (torchvision)"
    assert report.skipped == {"fc.weight": "the head of a classifier", "fc.bias": "the head of a classifier"}
    assert not (report.adapted or report.fresh)
    assert all(name == key for name, key in report.loaded.items())
    for name, value in model.state_dict().items():
        assert torch.equal(value, published[name]), name


def test_imagenet_resnet50_leaves_the_decoder_of_the_unet_fresh():
    published = state_dict_of("../resnet_unet/torchvision_resnet50.keys.txt")
    model = ResNet50UNet(1, 1)
    report = load_published(model, published)
    ours = model.state_dict()
    assert set(report.fresh) == {name for name in ours if name.startswith(("decoder.", "head."))}
    assert list(report.adapted) == ["encoder.conv1.weight"]
    torch.testing.assert_close(ours["encoder.conv1.weight"], published["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(ours["encoder.layer3.5.bn2.running_var"], published["layer3.5.bn2.running_var"])


def test_a_grey_image_gives_the_resnet_what_three_equal_channels_gave(in_both_precisions, assert_published):
    saved = torch.load(FIXTURES.parent / "resnet_unet/tiny_smp_unet_resnet.pt", weights_only=True)
    config = saved["config"]
    sizes = {"stem": config["stem"], "widths": config["planes"], "depths": config["layers"]}
    sizes["decoder_channels"] = config["decoder_channels"]
    colour, grey = (ResNet50UNet(channels, config["classes"], **sizes).eval() for channels in (3, 1))
    load_published(colour, saved["state_dict"])
    load_published(grey, saved["state_dict"])
    assert_published(*in_both_precisions(colour, saved["input"]), saved["output"])
    image = torch.randn(2, 1, 64, 40, dtype=torch.double)
    torch.testing.assert_close(grey.double()(image), colour.double()(image.expand(-1, 3, -1, -1)))


def test_a_smaller_resnet_is_refused():
    published = state_dict_of("../resnet_unet/torchvision_resnet50.keys.txt")
    with pytest.raises(ValueError, match=r"in this ResNet-50 \(torchvision\) checkpoint, less than half"):
        load_published(ResNet50UNet(widths=(8, 16, 32, 64)), published)


# One's own checkpoints

SIZES = {
    SwinUNet: {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
    UNETR: {"img_size": 32, "embed_dim": 24, "num_heads": 3, "depth": 4, "feature_size": 2},
    ResNet50UNet: {"stem": 8, "widths": (4,) * 4, "depths": (1,) * 4, "decoder_channels": (4,) * 5, "in_channels": 1},
    UNet: {"channels": (4, 8)},
    RRCUNet: {"channels": (4, 8)},
}
OTHER = {  # sizes that the checkpoint of SIZES does not fit, and the flags that give a script the right ones
    SwinUNet: [({"embed_dim": 16}, "--embed-dim 8"), ({"depths": (2, 1)}, "--depths 1 1"),
               ({"num_heads": (2, 2)}, "--num-heads 1 2"), ({"patch_size": 2}, "--patch-size 4"),
               ({"stem": "conv"}, "--stem patch")],
    UNETR: [({"num_heads": 2}, "--num-heads 3"), ({"depth": 5}, "--depth 4"), ({"feature_size": 4}, "--feature-size 2"),
            ({"skip_layers": (2, 3, 4)}, "--skip-layers"), ({"spatial_dims": 3}, "--spatial-dims 2")],
    ResNet50UNet: [({"stem": 4}, "--stem 8"), ({"depths": (1, 2, 1, 1)}, "--depths 1 1 1 1")],
    UNet: [({"channels": (4, 8, 16)}, "--channels 4 8"), ({"channels": (6, 8)}, "--channels 4 8"),
           ({"norm": "instance"}, "--norm batch")],
    RRCUNet: [({"steps": 3}, "--steps 2"), ({"spatial_dims": 2}, "--spatial-dims 3")],
}  # fmt: skip
KINDS = list(SIZES)


def saved_run(path, network, **changes):
    """As much of best.pt as matters; its arguments are incomplete, as those of a version with fewer of them."""
    torch.manual_seed(1)
    arguments = {**SIZES[network], **changes}
    model = network(**arguments)
    extra = {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3}
    save_checkpoint(
        path,
        {"model": model.state_dict(), "network": {"name": network.__name__, "arguments": arguments}, **extra},
    )
    return model


@pytest.mark.parametrize("network", KINDS)
@pytest.mark.parametrize("bare", [False, True], ids=["best.pt", "a bare state dict"])
def test_every_tensor_of_ones_own_checkpoint_is_loaded(tmp_path, network, bare):
    theirs = saved_run(tmp_path / "best.pt", network)
    torch.manual_seed(2)
    ours = network(**SIZES[network])
    report = load_published(ours, theirs.state_dict() if bare else tmp_path / "best.pt", arguments=SIZES[network])
    assert report.layout == "lungseg"
    assert not (report.adapted or report.skipped or report.fresh)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name


@pytest.mark.parametrize("network", KINDS)
def test_a_head_of_other_classes_and_other_channels_are_adapted_and_reported(tmp_path, network):
    theirs = saved_run(tmp_path / "best.pt", network, in_channels=3, num_classes=2).eval()
    torch.manual_seed(2)
    arguments = {**SIZES[network], "in_channels": 1, "num_classes": 3}
    ours = network(**arguments).eval()
    head = {name: tensor.clone() for name, tensor in ours.head.state_dict().items()}
    report = load_published(ours, tmp_path / "best.pt", arguments=arguments)
    assert {name.split(".")[0] for name in report.fresh} == {"head"} == {key.split(".")[0] for key in report.skipped}
    assert all(torch.equal(head[name], tensor) for name, tensor in ours.head.state_dict().items())
    assert report.adapted and set(report.adapted.values()) == {"3 input channels -> 1, summed and shared out"}
    spatial = (16,) * getattr(ours, "spatial_dims", 2)
    image, before = torch.randn(1, 1, *spatial), []
    for model in (ours, theirs):  # what enters the head of each
        model.head.register_forward_pre_hook(lambda _, given: before.append(given[0].detach()))
        model(image.expand(-1, model.in_channels, *spatial))
    torch.testing.assert_close(*before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("network", "changes", "flags"), [(n, *case) for n in KINDS for case in OTHER[n]])
def test_other_sizes_are_refused_with_both_and_the_flags_to_give(tmp_path, network, changes, flags):
    saved_run(tmp_path / "best.pt", network)
    arguments = {**SIZES[network], **changes}
    (name, wrong), *_ = changes.items()
    ours = network(**arguments)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(f"this one has {name} {wrong}")) as error:
        load_published(ours, tmp_path / "best.pt", arguments=arguments)
    assert flags in str(error.value) and str(tmp_path / "best.pt") in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize(
    ("network", "changes"),
    [(n, c) for n in KINDS for c, _ in OTHER[n] if not set(c) & {"skip_layers", "num_heads", "norm"}]
    + [(SwinUNet, {"num_heads": (2, 2)}), (UNet, {"norm": "instance"})],
)
def test_without_its_arguments_other_sizes_show_in_the_tensors(tmp_path, network, changes):
    """(Two UNETR with other heads or skips have the same tensors: there only the arguments can tell.)"""
    theirs = saved_run(tmp_path / "best.pt", network)
    with pytest.raises(ValueError, match="holds this network in other sizes"):
        load_published(network(**{**SIZES[network], **changes}), theirs.state_dict())


@pytest.mark.parametrize("network", KINDS)
def test_a_checkpoint_of_another_network_is_called_that(tmp_path, network):
    other = KINDS[KINDS.index(network) - 1]
    saved_run(tmp_path / "best.pt", other)
    with pytest.raises(ValueError, match=f"best.pt: holds a {other.__name__}, and this is a {network.__name__}"):
        load_published(network(**SIZES[network]), tmp_path / "best.pt")


def test_another_image_and_window_size_are_stretched(tmp_path):
    saved_run(tmp_path / "swin.pt", SwinUNet)
    report = load_published(SwinUNet(**{**SIZES[SwinUNet], "window_size": 8}), tmp_path / "swin.pt")
    assert all(name.endswith("relative_position_bias_table") for name in report.adapted) and not report.fresh
    saved_run(tmp_path / "unetr.pt", UNETR)
    report = load_published(UNETR(**{**SIZES[UNETR], "img_size": 64}), tmp_path / "unetr.pt")
    assert list(report.adapted) == ["position_embedding"] and not report.fresh


def test_a_damaged_checkpoint_of_ours_is_refused(tmp_path):
    saved_run(tmp_path / "best.pt", UNet)
    data = bytearray((tmp_path / "best.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "best.pt").write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        load_published(UNet(**SIZES[UNet]), tmp_path / "best.pt")


@pytest.mark.parametrize(
    "network",
    [{"name": "UNet", "arguments": {"width": 3}}, {"name": "UNet", "arguments": {3: 4}},
     {"name": "UNet", "arguments": {"channels": torch.zeros(2)}}, {"name": "UNet", "arguments": {"norm": [3]}}],
)  # fmt: skip
def test_arguments_that_are_none_are_refused_in_words(tmp_path, network):
    save_checkpoint(tmp_path / "best.pt", {"model": UNet(channels=(4, 8)).state_dict(), "network": network})
    with pytest.raises(ValueError, match=r"best\.pt: (its arguments are not those|holds a UNet with)") as error:
        load_published(UNet(channels=(4, 8)), tmp_path / "best.pt", arguments={"channels": (4, 8)})
    assert "\n" not in str(error.value)


def test_an_entry_that_is_no_network_is_no_obstacle(tmp_path):
    for odd in (None, 3, {}, {"name": 3}, {"name": "UNet", "arguments": None}):
        save_checkpoint(tmp_path / "best.pt", {"model": UNet(channels=(4, 8)).state_dict(), "network": odd})
        arguments = {"channels": (4, 8)}
        assert not load_published(UNet(**arguments), tmp_path / "best.pt", arguments=arguments).fresh


# The head, as a whole


def test_a_last_layer_without_a_bias_computes_the_same_with_one():
    torch.manual_seed(1)
    theirs, ours = (SwinUNet(**SIZES[SwinUNet], head_bias=bias).eval() for bias in (False, True))
    report = load_published(ours, theirs.state_dict())
    assert report.adapted == {"head.bias": "the checkpoint's last layer has none, which is 0"} and not report.fresh
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(ours(image), theirs(image))


def test_a_bias_whose_weight_does_not_fit_is_not_taken():
    theirs = ResNet50UNet(**SIZES[ResNet50UNet]).state_dict()
    theirs["head.weight"] = torch.zeros(1, 4, 1, 1)  # as many classes, another kernel
    theirs["head.bias"] = torch.tensor([5.0])
    ours = ResNet50UNet(**SIZES[ResNet50UNet])
    report = load_published(ours, theirs)
    assert report.fresh == ["head.weight", "head.bias"] and ours.head.bias.item() == 0


# Files as others write them


def imagenet_swin(in_channels=3):
    """A Swin in timm's names, that fills the encoder of the small network."""
    torch.manual_seed(1)
    state = {}
    for name, tensor in SwinUNet(in_channels, **SIZES[SwinUNet]).state_dict().items():
        for ours, theirs in (("encoder.0.", "layers.0.blocks."), ("bottleneck.", "layers.1.blocks."),
                             ("merging.0.", "layers.1.downsample."), ("patch_embed.", "patch_embed."),
                             ("norm.", "norm.")):  # fmt: skip
            if name.startswith(ours):
                state[theirs + name.removeprefix(ours)] = tensor
    return state


COMMON = ["module", "model", "net", "backbone", "encoder", "_orig_mod", "teacher"]
SOME_PREFIXES = st.lists(st.sampled_from(COMMON), max_size=3)
WRAPPERS = ["state_dict", "model", "model_state_dict", "network_weights", "net", "ema", "whatever"]
SOME_WRAPPERS = st.lists(st.sampled_from(WRAPPERS), max_size=3)


@settings(max_examples=40)
@given(SOME_PREFIXES, SOME_WRAPPERS, st.booleans())
def test_any_prefixes_in_any_wrappers_are_taken_off(prefixes, wrappers, beside):
    published = imagenet_swin()
    content = {".".join([*prefixes, key]): tensor for key, tensor in published.items()}
    if beside:
        content |= {"decode_head.conv_seg.weight": torch.zeros(2, 2), "n": torch.tensor(3)}
    for wrapper in wrappers:
        content = {"epoch": 3, wrapper: content, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    ours = SwinUNet(**SIZES[SwinUNet])
    report = load_published(ours, content)
    assert report.layout == "Swin (timm)" and len(report.loaded) + len(report.adapted) > 40
    assert torch.equal(ours.encoder[0][0].attn.qkv.weight, published["layers.0.blocks.0.attn.qkv.weight"])
    assert ("decode_head.conv_seg.weight" in report.skipped) == beside


@settings(max_examples=40)
@given(SOME_PREFIXES, st.sampled_from(KINDS))
def test_prefixes_before_our_own_names_too(prefixes, network):
    """`encoder.` is a prefix of others, and a name of ours."""
    torch.manual_seed(1)
    theirs = network(**SIZES[network]).state_dict()
    ours = network(**SIZES[network])
    report = load_published(ours, {".".join([*prefixes, key]): tensor for key, tensor in theirs.items()})
    assert report.layout == "lungseg" and not report.fresh
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())


def test_averaged_weights_are_taken_before_others_and_it_is_said():
    other, averaged = imagenet_swin(), {key: 2 * tensor for key, tensor in imagenet_swin().items()}
    ours = SwinUNet(**SIZES[SwinUNet])
    for content, where in (
        ({"model": other, "model_ema": averaged}, "model_ema"),
        ({"student": other, "teacher": averaged}, "teacher"),
        ({f"{who}.{key}": t for who, s in (("student", other), ("teacher", averaged)) for key, t in s.items()},
         "under teacher."),
    ):  # fmt: skip
        report = load_published(ours, content)
        assert torch.equal(ours.norm.weight, averaged["norm.weight"])
        assert f"\n  found in {where}\n" in str(report) and "the file also holds this network as: " in report.note


def test_what_is_there_is_listed_if_nothing_fits():
    content = {"state_dict": {"backbone.a.w": torch.zeros(1), "backbone.a.b": torch.zeros(1), "x": torch.zeros(1)}}
    with pytest.raises(ValueError, match=r"the keys \(state_dict: backbone\.a \(2\), x \(1\)\) belong to no layout"):
        load_published(SwinUNet(**SIZES[SwinUNet]), content)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_by_name(bad):
    published = imagenet_swin()
    published["layers.1.blocks.0.mlp.fc1.bias"] = published["layers.1.blocks.0.mlp.fc1.bias"].clone()
    published["layers.1.blocks.0.mlp.fc1.bias"][3] = bad
    ours = SwinUNet(**SIZES[SwinUNet])
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(ValueError, match=r"bottleneck\.0\.mlp\.fc1\.bias holds numbers that are NaN or infinite"):
        load_published(ours, published)
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    published["head.weight"] = torch.tensor(bad)  # not taken, so it does not matter
    published["layers.1.blocks.0.mlp.fc1.bias"] = torch.zeros(64)
    load_published(ours, published)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8])
def test_other_number_types_are_converted(dtype):
    published = {key: (10 * tensor).to(dtype) for key, tensor in imagenet_swin().items()}
    ours = SwinUNet(**{**SIZES[SwinUNet], "window_size": 5})  # the tables are stretched, the first kernel is summed
    load_published(ours, published)
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.float32}
    assert torch.equal(ours.merging[0].reduction.weight, published["layers.1.downsample.reduction.weight"].float())


ODD_SHAPES = st.sampled_from([(), (0,), (3,), (7, 5), (1, 9, 24), (2, 0, 4), (8, 3, 4, 4), (1, 1, 1, 1, 1), (24, 3072)])
ODD_FILES = {
    "Swin-Unet": (FIXTURES / "tiny_swin_unet_w4.pt", lambda: tiny_network()),
    "UNETR": (
        FIXTURES.parent / "unetr/tiny_unetr3d.pt",
        lambda: UNETR(1, 2, img_size=(32, 16, 48), spatial_dims=3, embed_dim=12, mlp_ratio=2.0, num_heads=3,
                      feature_size=2),
    ),
    "ViT (timm)": (
        FIXTURES.parent / "unetr/tiny_timm_vit.pt",
        lambda: UNETR(1, 1, img_size=48, embed_dim=24, depth=3, num_heads=3, feature_size=2),
    ),
}  # fmt: skip


@functools.cache
def published_tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


@settings(max_examples=60)
@given(st.sampled_from(sorted(ODD_FILES)), st.data())
def test_tensors_of_odd_shapes_are_skipped_or_refused_in_words(kind, data):
    path, network = ODD_FILES[kind]
    published = dict(published_tensors(path))
    special = [k for k in published if re.search("bias_table|pos_embed|position_emb|patch_emb|cls_token", k)]
    for key in data.draw(st.lists(st.sampled_from(special), min_size=1, max_size=len(special), unique=True)):
        published[key] = torch.zeros(data.draw(ODD_SHAPES))
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    try:
        assert load_published(model, published).layout == kind
    except ValueError as error:
        assert "\n" not in str(error)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_tensors_that_are_no_plain_numbers_are_left_out_and_said():
    published = imagenet_swin()
    published["norm.weight"] = published["norm.weight"].to_sparse()
    published["norm.bias"] = published["norm.bias"].to(torch.complex64)
    report = load_published(SwinUNet(**SIZES[SwinUNet]), published)
    assert report.skipped["norm.weight"] == report.skipped["norm.bias"] == "not plain real numbers"
