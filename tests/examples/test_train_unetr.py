"""The training of a UNETR, with tiny sizes, on slices and on volumes; and the report's recipe."""

import pytest
import torch

from lungseg.checkpoint import load_checkpoint
from lungseg.nn.unetr import UNETR

SIZES = ["--patch-size", "4", "--embed-dim", "8", "--depth", "2", "--num-heads", "2", "--feature-size", "2"]
TINY = ["--img-size", "16", *SIZES, "--skip-layers", "1", "--batch-size", "4", "--epochs", "2", "--lr", "0.01"]
SOLID = [
    "--recipe", "volumes", *SIZES, "--skip-layers", "1", "--phantom-volumes", "4", "--phantom-shape", "6", "20", "24",
    "--crop-size", "4", "16", "16", "--crops-per-volume", "2", "--batch-size", "2", "--epochs", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def train_unetr(example):
    return example("train_unetr")


@pytest.fixture(scope="module")
def reference(train_unetr, discs, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "reference"
    return out, train_unetr.main(["--data", str(discs), "--out", str(out), *TINY])


def test_the_best_network_can_be_built_from_its_file_alone(reference, train_unetr):
    out, dice = reference
    assert 0 <= dice <= 1
    best = load_checkpoint(out / "best.pt")
    UNETR(**best["network"]["arguments"]).load_state_dict(best["model"])
    assert train_unetr.main(["--out", str(out), "--resume"]) == dice


def test_with_three_dimensions_it_trains_on_volumes(train_unetr, tmp_path):
    out = tmp_path / "run"
    dice = train_unetr.main(["--out", str(out), *SOLID])
    assert isinstance(dice, float)
    best = load_checkpoint(out / "best.pt")
    assert best["network"]["arguments"]["spatial_dims"] == 3 and best["input"]["size"] == [4, 16, 16]
    assert train_unetr.main(["--out", str(out), "--resume"]) == dice


KNOBS = {
    "patch_size": ["8", "--skip-layers", "1", "2"], "embed_dim": ["16"], "depth": ["3"], "num_heads": ["1"],
    "feature_size": ["4"], "skip_layers": ["2"], "attn_scale": ["head_dim"], "drop_rate": ["0.5"],
}  # fmt: skip


@pytest.mark.parametrize("field", KNOBS)
def test_no_knob_is_dead(reference, train_unetr, discs, tmp_path, field, log_of, epochs_of):
    argv = ["--data", str(discs), *TINY, "--" + field.replace("_", "-"), *KNOBS[field]]
    assert epochs_of(train_unetr.main, *argv, out=tmp_path / "run") != log_of(reference[0])[1:-1]


def test_published_weights_are_a_start(train_unetr, discs, tmp_path, capsys, vit_like):
    flags = ["--data", str(discs), *TINY, "--weights", str(vit_like)]
    assert isinstance(train_unetr.main([*flags, "--out", str(tmp_path / "run")]), float)
    assert "ViT" in capsys.readouterr().out


@pytest.fixture
def vit_like(tmp_path):
    """A ViT of the tiny network's sizes, named as timm names it."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"cls_token": (1, 1, 8), "pos_embed": (1, 17, 8), "norm.weight": (8,), "norm.bias": (8,)}
    shapes |= {"patch_embed.proj.weight": (8, 3, 4, 4), "patch_embed.proj.bias": (8,)}
    for i in range(2):
        for name, shape in {
            "norm1.weight": (8,), "norm1.bias": (8,), "attn.qkv.weight": (24, 8), "attn.qkv.bias": (24,),
            "attn.proj.weight": (8, 8), "attn.proj.bias": (8,), "norm2.weight": (8,), "norm2.bias": (8,),
            "mlp.fc1.weight": (32, 8), "mlp.fc1.bias": (32,), "mlp.fc2.weight": (8, 32), "mlp.fc2.bias": (8,),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{name}"] = shape
    torch.save({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, tmp_path / "vit.pth")
    return tmp_path / "vit.pth"


def test_the_reports_recipe_is_the_reports(train_unetr):
    recipe = train_unetr.RECIPES["report"]
    assert (recipe.optimizer, recipe.lr, recipe.batch_size, recipe.epochs) == ("sgd", 0.1, 8, 100)
    assert (recipe.schedule, recipe.min_lr, recipe.patience) == ("plateau", 1e-7, 20)
    assert recipe.skip_layers == (3, 6, 9) and recipe.patch_size == 16
    with torch.device("meta"):
        network = UNETR(**train_unetr.network_arguments(recipe))
    assert sum(p.numel() for p in network.parameters()) == 87_315_377


def test_the_reports_recipe_runs(train_unetr, discs, tmp_path, log_of):
    flags = ["--recipe", "report", *TINY[:-4], "--epochs", "2"]
    assert isinstance(train_unetr.main(["--data", str(discs), *flags, "--out", str(tmp_path / "run")]), float)
    assert [line["lr"] for line in log_of(tmp_path / "run") if "epoch" in line] == [0.1, 0.1]


def test_every_recipe_describes_a_network_that_can_be_built(train_unetr):
    for recipe in train_unetr.RECIPES.values():
        with torch.device("meta"):
            UNETR(**train_unetr.network_arguments(recipe))


def test_the_data_decide_how_many_classes_the_network_has(train_unetr, learns_two_classes):
    learns_two_classes(train_unetr.main, *TINY)


def test_ones_own_weights_are_a_start(reference, train_unetr, discs, tmp_path, starts_from, capsys):
    argv = ["--data", str(discs), *TINY]
    starts_from(train_unetr.main, argv, reference[0] / "best.pt", tmp_path / "run")
    assert "lungseg: " in capsys.readouterr().out  # not a ViT, whose names its blocks have too
    larger = [*argv, "--img-size", "32", "--epochs", "1", "--weights", str(reference[0] / "best.pt")]
    assert isinstance(train_unetr.main([*larger, "--out", str(tmp_path / "larger")]), float)
    assert "position table (4, 4, 8) -> (8, 8, 8), interpolated" in capsys.readouterr().out
