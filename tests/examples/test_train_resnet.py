"""The training of a ResNet50-U-Net, with tiny sizes; the report's recipe; ImageNet weights."""

import re

import pytest
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.nn.resnet_unet import ResNet50Encoder, ResNet50UNet

TINY = [
    "--img-size", "16", "--stem", "4", "--widths", "2", "2", "4", "4", "--depths", "1", "1", "1", "1",
    "--decoder-channels", "8", "8", "4", "4", "4", "--batch-size", "4", "--epochs", "2", "--lr", "0.01",
]  # fmt: skip


@pytest.fixture(scope="module")
def train_resnet(example):
    return example("train_resnet")


@pytest.fixture(scope="module")
def reference(train_resnet, discs, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "reference"
    return out, train_resnet.main(["--data", str(discs), "--out", str(out), *TINY])


def test_the_best_network_can_be_built_from_its_file_alone_and_takes_grey_images(reference, train_resnet):
    out, dice = reference
    best = load_checkpoint(out / "best.pt")
    network = ResNet50UNet(**best["network"]["arguments"]).eval()
    network.load_state_dict(best["model"])
    assert network(torch.rand(1, 1, 20, 24)).shape == (1, 1, 20, 24)
    assert train_resnet.main(["--out", str(out), "--resume"]) == dice


KNOBS = {
    "in_channels": ["3"], "stem": ["8"], "widths": ["2", "2", "4", "8"], "depths": ["2", "1", "1", "1"],
    "decoder_channels": ["8", "8", "8", "4", "4"],
}  # fmt: skip


@pytest.mark.parametrize("field", KNOBS)
def test_no_knob_is_dead(reference, train_resnet, discs, tmp_path, field, log_of, epochs_of):
    argv = ["--data", str(discs), *TINY, "--" + field.replace("_", "-"), *KNOBS[field]]
    assert epochs_of(train_resnet.main, *argv, out=tmp_path / "run") != log_of(reference[0])[1:-1]


@pytest.mark.parametrize("in_channels", ["1", "3"])
def test_imagenet_weights_are_a_start(reference, train_resnet, discs, tmp_path, capsys, in_channels):
    """As torchvision's file, classifier and all. The first epoch begins with them, so nothing is left of our own."""
    torch.manual_seed(7)
    encoder = ResNet50Encoder(3, stem=4, widths=(2, 2, 4, 4), depths=(1, 1, 1, 1))
    published = encoder.state_dict() | {"fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}
    torch.save(published, tmp_path / "resnet50.pth")
    argv = ["--data", str(discs), *TINY, "--in-channels", in_channels, "--pretrained", str(tmp_path / "resnet50.pth")]
    still = [*argv, "--epochs", "1", "--lr", "1e-12", "--weight-decay", "0", "--out", str(tmp_path / "run")]
    assert isinstance(train_resnet.main(still), float)
    assert "ResNet-50 (torchvision)" in capsys.readouterr().out
    saved = load_checkpoint(tmp_path / "run/last.pt")["model"]
    assert torch.allclose(saved["encoder.layer1.0.conv2.weight"], published["layer1.0.conv2.weight"], atol=1e-6)
    first = saved["encoder.conv1.weight"]  # with one channel, the sum over the colours
    wanted = published["conv1.weight"] if in_channels == "3" else published["conv1.weight"].sum(1, keepdim=True)
    assert torch.allclose(first, wanted, atol=1e-6)


def test_a_file_of_other_weights_is_refused_and_leaves_nothing(train_resnet, discs, tmp_path, capsys):
    (tmp_path / "x.pth").write_bytes(b"no weights")
    argv = ["--data", str(discs), *TINY, "--pretrained", str(tmp_path / "x.pth"), "--out", str(tmp_path / "run")]
    assert train_resnet.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("train_resnet.py: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_reports_recipe_is_the_reports(train_resnet):
    recipe = train_resnet.RECIPES["report"]
    assert (recipe.in_channels, recipe.optimizer, recipe.lr, recipe.loss, recipe.epochs) == (
        3,
        "adam",
        1e-4,
        "bce",
        100,
    )
    with torch.device("meta"):
        network = ResNet50UNet(**train_resnet.network_arguments(recipe))
    assert sum(p.numel() for p in network.parameters()) == 32_521_105


def test_every_recipe_describes_a_network_that_can_be_built(train_resnet):
    for recipe in train_resnet.RECIPES.values():
        with torch.device("meta"):
            ResNet50UNet(**train_resnet.network_arguments(recipe))


def test_the_data_decide_how_many_classes_the_network_has(train_resnet, learns_two_classes):
    learns_two_classes(train_resnet.main, *TINY)


def test_ones_own_weights_are_a_start(reference, train_resnet, discs, tmp_path, starts_from, capsys):
    argv = ["--data", str(discs), *TINY]
    starts_from(train_resnet.main, argv, reference[0] / "best.pt", tmp_path / "run")
    assert "lungseg: " in capsys.readouterr().out  # not smp's, whose names its encoder has too


def test_two_files_to_start_from_are_one_too_many(train_resnet, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train_resnet.main(["--weights", "a.pth", "--pretrained", "b.pth", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2 and "two names of one option" in capsys.readouterr().err


def test_the_head_of_a_published_unet_is_not_overwritten_by_the_prior(train_resnet, discs, tmp_path):
    torch.manual_seed(7)
    sizes = {"stem": 4, "widths": (2, 2, 4, 4), "depths": (1,) * 4, "decoder_channels": (8, 8, 4, 4, 4)}
    theirs = {}  # in the names of segmentation_models_pytorch
    for name, tensor in ResNet50UNet(1, 1, **sizes).state_dict().items():
        name = re.sub(r"^decoder\.(\d)\.(\d)\.", lambda m: f"decoder.blocks.{m[1]}.conv{int(m[2]) + 1}.", name)
        theirs[name.replace("head.", "segmentation_head.0.")] = tensor
    theirs["segmentation_head.0.bias"] = torch.tensor([1.25])
    torch.save(theirs, tmp_path / "unet.pth")
    still = ["--epochs", "1", "--lr", "1e-12", "--weight-decay", "0", "--prior-bias", "--data", str(discs)]
    train_resnet.main([*TINY, *still, "--pretrained", str(tmp_path / "unet.pth"), "--out", str(tmp_path / "run")])
    saved = load_checkpoint(tmp_path / "run/last.pt")["model"]
    assert saved["head.bias"].item() == pytest.approx(1.25)


@pytest.mark.parametrize(("flags", "said"), [([], False), (["--in-channels", "3"], True)])
def test_a_start_without_imagenet_says_so_where_the_report_has_it(train_resnet, discs, tmp_path, capsys, flags, said):
    out = ["--out", str(tmp_path / "run")]
    train_resnet.main([*TINY, "--epochs", "1", "--data", str(discs), *flags, *out])
    assert ("resnet50-0676ba61.pth" in capsys.readouterr().out) == said
    train_resnet.main([*out, "--resume"])
    assert "resnet50-0676ba61.pth" not in capsys.readouterr().out
