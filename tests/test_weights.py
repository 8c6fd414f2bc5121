"""Published checkpoints into our networks: every layout, every adaptation, and no silence."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lungseg.nn.resnet_unet import ResNet50Encoder, ResNet50UNet
from lungseg.nn.swin_unet import SwinUNet
from lungseg.weights import load_published, resize_bias_table

FIXTURES = Path(__file__).resolve().parent / "fixtures/swin_unet"


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
    assert "skipped head.fc.weight: not part of this network" in str(report)


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
    with pytest.raises(ValueError, match=r"keys \(conv1.weight, \.\.\.\) belong to no layout known for SwinUNet"):
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
