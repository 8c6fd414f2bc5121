"""How a run begins, continues and ends: what the whole training runs in tests/examples cannot show."""

import ast
import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceWriter
from lungseg.nn.swin_unet import SwinUNet
from lungseg.nn.unet import UNet
from lungseg.training.distributed import ALONE
from lungseg.training.early_stopping import EarlyStopping
from lungseg.training.recipe import RunOptions, TrainingRecipe
from lungseg.training.run import Run

RECIPE = TrainingRecipe(img_size=16, phantom_patients=4, phantom_slices=1, epochs=2)


def begun(out, recipe=RECIPE, **options):
    return Run(recipe, RunOptions(out=out, **options), {}, ALONE)


@pytest.mark.parametrize(("recipe", "expected"), [(0, 2), (1, 1), (3, 3)])
def test_the_recipe_says_how_many_threads_or_leaves_it_to_torch(tmp_path, recipe, expected):
    torch.set_num_threads(2)  # the fixture of all tests undoes it
    run = begun(tmp_path / "run", replace(RECIPE, threads=recipe))
    assert torch.get_num_threads() == expected
    run.open_data()
    run.begin(model=nn.Conv2d(1, 1, 1), stopping=stopping())
    assert run.log.lines()[0]["device"] == f"CPU, {expected} threads"
    torch.set_num_threads(2)
    begun(tmp_path / "run", resume=True)  # with the number it was started with
    assert torch.get_num_threads() == expected


def test_on_a_gpu_the_threads_of_the_cpu_are_left_alone(tmp_path):
    torch.set_num_threads(2)
    gpu = replace(ALONE, device=torch.device("cuda"))
    Run(replace(RECIPE, threads=1), RunOptions(out=tmp_path / "run"), {}, gpu)
    assert torch.get_num_threads() == 2


def test_a_network_is_the_same_whatever_was_drawn_before_it(tmp_path):
    torch.rand(10)
    one = begun(tmp_path / "a", seed=5).build(UNet, {"channels": (4, 8)})
    torch.rand(100)
    two = begun(tmp_path / "b", seed=5).build(UNet, {"channels": (4, 8)})
    other = begun(tmp_path / "c", seed=6).build(UNet, {"channels": (4, 8)})
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_the_prior_is_the_share_of_lesion_pixels(tmp_path):
    run = begun(tmp_path)
    model = run.build(UNet, {"channels": (4, 8)})
    data = run.open_data()
    run.prepare(model)
    share = torch.cat([target.flatten() for _, target, _ in data.train_set]).mean()
    assert model.head.bias.sigmoid().item() == pytest.approx(share.item(), rel=1e-4)


@pytest.mark.parametrize("bias", [None, 1.25], ids=["a head without a bias", "a head with one"])
def test_the_prior_leaves_a_loaded_head_alone(tmp_path, bias):
    theirs = UNet(channels=(4, 8)).state_dict()
    theirs["head.bias"] = torch.tensor([bias or 0.0])
    if bias is None:
        del theirs["head.bias"]
    torch.save(theirs, tmp_path / "weights.pt")
    run = begun(tmp_path / "run")
    model = run.build(UNet, {"channels": (4, 8)}, weights=str(tmp_path / "weights.pt"))
    run.open_data()
    run.prepare(model)
    assert model.head.bias.item() == (bias or 0.0) and torch.equal(model.head.weight, theirs["head.weight"])


def test_the_prior_is_given_to_a_head_of_other_classes(tmp_path):
    torch.save(UNet(num_classes=3, channels=(4, 8)).state_dict(), tmp_path / "weights.pt")
    run = begun(tmp_path / "run")
    model = run.build(UNet, {"channels": (4, 8)}, weights=str(tmp_path / "weights.pt"))
    data = run.open_data()
    run.prepare(model)
    share = torch.cat([target.flatten() for _, target, _ in data.train_set]).mean()
    assert model.head.bias.sigmoid().item() == pytest.approx(share.item(), rel=1e-4)


def stopping():
    return EarlyStopping(None, "max")


def one_epoch(out):
    """Everything up to the first checkpoint, without any learning."""
    run = begun(out)
    model = run.build(UNet, {"channels": (4, 8)})
    run.open_data()
    run.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters())
    run.begin(model=model, optimizer=optimizer, nothing=None, stopping=stopping())
    epoch = next(iter(run.epochs()))
    run.stopping.update(0.5)
    run.end_epoch(epoch, 0.5, {"loss": 0.5, "dice": 0.5, "iou": 0.4}, lr=0.1, is_best=True)
    return run


def test_a_resumed_run_begins_after_its_last_epoch_with_its_own_settings(tmp_path):
    first = one_epoch(tmp_path)
    again = begun(tmp_path, recipe=TrainingRecipe(lr=0.7), resume=True)
    assert again.recipe == RECIPE and again.saved is not None
    model = again.build(UNet, {"channels": (4, 8)})
    again.open_data()
    nn.init.zeros_(model.head.weight)
    again.prepare(model)
    again.begin(model=model, optimizer=torch.optim.AdamW(model.parameters()), stopping=stopping())
    assert torch.equal(model.head.weight, first.learned["model"].head.weight)
    assert list(again.epochs()) == [1]
    assert torch.equal(again.best()["head.weight"], model.head.weight)


def test_a_validation_dice_that_stays_0_is_remarked_on_once_and_logged_as_always(tmp_path, capsys):
    run = one_epoch(tmp_path)
    for epoch in range(1, 13):
        run.end_epoch(epoch, 0.5, {"loss": 0.5, "dice": 0.0, "iou": 0.0}, lr=0.1, is_best=False)
    remarks = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("epoch")]
    assert [line for line in remarks if "examples/diagnose.py" in line] == remarks[-1:]
    assert f"--checkpoint {tmp_path}/last.pt" in remarks[-1]
    assert len(run.log.lines()) == 1 + 13


def test_another_network_is_refused(tmp_path):
    one_epoch(tmp_path)
    with pytest.raises(ValueError, match="another script or version"):
        begun(tmp_path, resume=True).build(SwinUNet, {})


@pytest.mark.parametrize(("side", "hint"), [(16, False), (64, True)])
def test_lesions_that_vanish_by_shrinking_are_told_so(tmp_path, side, hint):
    """A pixel of lesion in each slice, at an --img-size of 16; or none at all."""
    data = tmp_path / "data"
    with SliceWriter(data) as folder:
        for i, name in enumerate(("train", "train", "val", "test")):
            target = np.zeros((side, side), np.uint8)
            target[5, 5] = hint or name != "val"
            image = np.arange(side * side, dtype=np.uint16).reshape(side, side).astype(np.uint8) + i
            folder.add(ImageRecord(f"s{i}", f"p{i}", name), image.astype(np.uint8), target)
    run = begun(tmp_path / "run", data=data)
    run.build(UNet, {"channels": (4, 8)})
    with pytest.raises(ValueError, match="image of .* holds a lesion. Put some into that split") as error:
        run.open_data()
    assert ("raise --img-size: at 16 pixels small lesions vanish" in str(error.value)) == hint


@pytest.mark.parametrize(("split", "monitor"), [("train", "loss"), ("val", "dice")])
def test_a_split_without_any_lesion_is_refused_before_the_first_epoch(tmp_path, split, monitor):
    data = tmp_path / "data"
    with SliceWriter(data) as folder:
        for i, name in enumerate(("train", "train", "val", "test")):
            image, target = np.arange(64, dtype=np.uint8).reshape(8, 8) + i, np.eye(8, dtype=np.uint8)
            folder.add(ImageRecord(f"s{i}", f"p{i}", name), image, target * (name != split))
    run = begun(tmp_path / "run", replace(RECIPE, monitor=monitor), data=data)
    run.build(UNet, {"channels": (4, 8)})
    with pytest.raises(ValueError, match=f"No {'training' if split == 'train' else 'validation'} image"):
        run.open_data()
    assert not (tmp_path / "run").exists()


def test_nothing_of_a_run_is_born_outside_its_constructor():
    """So a reader finds every attribute in one place, with its type."""
    tree = ast.parse(inspect.getsource(Run))
    methods = {f.name: f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}

    def assigned(method):
        targets = [n for n in ast.walk(method) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)]
        return {n.attr for n in targets if isinstance(n.value, ast.Name) and n.value.id == "self"}

    born = assigned(methods.pop("__init__"))
    later = {name: assigned(method) - born for name, method in methods.items()}
    assert "recipe" in born and not any(later.values()), later
