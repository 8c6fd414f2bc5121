"""The training of an RRC-U-Net, with tiny sizes."""

import pytest
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.nn.rrc_unet import RRCUNet

TINY = [
    "--channels", "4", "8", "--phantom-volumes", "4", "--phantom-shape", "6", "20", "24", "--crop-size",
    "4", "16", "16",
    "--crops-per-volume", "2", "--batch-size", "2", "--epochs", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def train_rrc_unet(example):
    return example("train_rrc_unet")


@pytest.fixture(scope="module")
def reference(train_rrc_unet, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "reference"
    dice = train_rrc_unet.main(["--out", str(out), *TINY])
    assert isinstance(dice, float)
    return out, dice


def test_it_trains_on_phantom_volumes_by_default(reference, train_rrc_unet):
    out, dice = reference
    assert 0 <= dice <= 1
    best = load_checkpoint(out / "best.pt")
    network = RRCUNet(**best["network"]["arguments"])
    network.load_state_dict(best["model"])
    assert network.spatial_dims == 3 and best["input"]["size"] == [4, 16, 16]
    assert train_rrc_unet.main(["--out", str(out), "--resume"]) == dice


@pytest.mark.parametrize("flags", [["--steps", "1"], ["--channels", "4", "4"], ["--norm", "batch"]])
def test_no_knob_is_dead(reference, train_rrc_unet, tmp_path, flags, log_of, epochs_of):
    assert epochs_of(train_rrc_unet.main, *TINY, *flags, out=tmp_path / "run") != log_of(reference[0])[1:-1]


def test_it_also_trains_on_slices(train_rrc_unet, discs, tmp_path):
    argv = ["--data", str(discs), "--spatial-dims", "2", "--img-size", "16", *TINY, "--out", str(tmp_path / "run")]
    assert isinstance(train_rrc_unet.main(argv), float)


def test_a_run_of_another_network_is_not_gone_on_with(reference, example, capsys):
    """The recipes of U-Net and RRC-U-Net differ in a field; a U-Net's checkpoint that had it would still be refused."""
    assert example("train_unet").main(["--out", str(reference[0]), "--resume"]) == 2
    assert "another script or version" in capsys.readouterr().err


def test_every_recipe_describes_a_network_that_can_be_built(train_rrc_unet):
    for recipe in train_rrc_unet.RECIPES.values():
        with torch.device("meta"):
            RRCUNet(**train_rrc_unet.network_arguments(recipe))


def test_the_data_decide_how_many_classes_the_network_has(train_rrc_unet, learns_two_classes):
    learns_two_classes(train_rrc_unet.main, "--spatial-dims", "2", "--img-size", "16", *TINY)


def test_ones_own_weights_are_a_start(reference, train_rrc_unet, tmp_path, starts_from):
    starts_from(train_rrc_unet.main, TINY, reference[0] / "best.pt", tmp_path / "run")
