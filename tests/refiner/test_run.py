"""The folder of a run: begun, resumed, refused."""

import json
import os
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from lungseg.checkpoint import save_checkpoint
from lungseg.data.manifest import ImageRecord
from lungseg.data.slices import SliceDataset, SliceWriter
from lungseg.nn.biomedclip import BiomedCLIP
from lungseg.refiner import run
from lungseg.refiner.checkpoint import RefinerSpec
from lungseg.refiner.recipe import RefinerOptions, RefinerRecipe
from lungseg.refiner.run import absolute_files, how_to_continue, open_refiner_run

CPU = torch.device("cpu")
RECIPE = RefinerRecipe(phantom_patients=6, phantom_slices=1, phantom_size=16, most=3)


def test_a_run_is_resumed_with_its_own_settings(squares, tmp_path):
    options = RefinerOptions(data=squares, out=tmp_path, seed=5)
    first = open_refiner_run(RECIPE, options, {}, CPU)
    assert first.folder == squares and first.stages.seed == 5
    (tmp_path / ".best.pt.partial-1").write_text("half")
    again = open_refiner_run(RefinerRecipe(), RefinerOptions(out=tmp_path, resume=True), {}, CPU)
    assert again.recipe == RECIPE and again.folder == squares.absolute() and again.stages.seed == 5
    assert not list(tmp_path.glob(".best*"))
    with pytest.raises(ValueError, match="was started with most 3, and now it would be 4"):
        open_refiner_run(replace(RECIPE, most=4), RefinerOptions(out=tmp_path, resume=True), {"most": 4}, CPU)
    with pytest.raises(ValueError, match="is not empty. Add --resume"):
        open_refiner_run(RECIPE, options, {}, CPU)


def test_phantoms_are_drawn_as_the_flags_say(tmp_path):
    begun = open_refiner_run(RECIPE, RefinerOptions(out=tmp_path), {}, CPU)
    data = SliceDataset(begun.folder)
    assert len(data) == 6 and data[0][0].shape == (1, 16, 16)


def test_data_that_have_changed_are_refused(tmp_path):
    begun = open_refiner_run(RECIPE, RefinerOptions(out=tmp_path), {}, CPU)
    image = next((begun.folder / "images").iterdir())
    image.write_bytes(image.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"has changed since the run in .* began: images/.* \(changed\)"):
        open_refiner_run(RECIPE, RefinerOptions(out=tmp_path, resume=True), {}, CPU)


def test_a_damaged_recipe_is_refused(squares, tmp_path):
    open_refiner_run(RECIPE, RefinerOptions(data=squares, out=tmp_path), {}, CPU)
    file = tmp_path / "recipe.json"
    settings = json.loads(file.read_text())
    settings["recipe"]["most"] = "many"
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="recipe.json: most is damaged"):
        open_refiner_run(RECIPE, RefinerOptions(out=tmp_path, resume=True), {}, CPU)


def test_folders_that_a_refiner_cannot_learn_from_are_refused(squares, tmp_path):
    (tmp_path / "volumes").mkdir()
    with pytest.raises(ValueError, match="volumes"):
        open_refiner_run(RECIPE, RefinerOptions(data=tmp_path / "volumes", out=tmp_path / "a"), {}, CPU)


def folder_of(path, *slices):
    """A folder of slices, each (patient, split, whether it holds a lesion)."""
    with SliceWriter(path) as out:
        for i, (patient, split, lesion) in enumerate(slices):
            target = np.zeros((16, 16), np.uint8)
            target[4:8, 5:9] = lesion
            noise = np.random.default_rng(i).integers(0, 60, (16, 16))
            out.add(ImageRecord(f"s{i}", patient, split), (noise + 150 * target).astype(np.uint8), target)
    return path


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([("a", "train", 1), ("a", "train", 1), ("v", "val", 1)], "has one training patient, and the cross-fitting"),
        ([("a", "train", 0), ("b", "train", 0), ("v", "val", 1)], "No training image of .* holds a lesion"),
        ([("a", "train", 1), ("b", "train", 1), ("v", "val", 0)], "No validation image of .* holds a lesion"),
        ([("a", "train", 1), ("b", "train", 0), ("v", "val", 1)], "with a lesion are in one half of the cross-fitting"),
    ],
)
def test_slices_that_a_stage_could_not_learn_from_are_refused(tmp_path, slices, message):
    options = RefinerOptions(data=folder_of(tmp_path / "data", *slices), out=tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        open_refiner_run(RECIPE, options, {}, CPU)
    assert not (tmp_path / "run" / "recipe.json").exists()
    if message.startswith(("has one", "with a lesion")):
        (tmp_path / "run").mkdir()
        assert open_refiner_run(replace(RECIPE, cross_fit=False), options, {}, CPU).folder == options.data


@pytest.fixture(scope="module")
def files(spec, tmp_path_factory):
    """name -> path of a file that --proposer, --clip, --vocabulary or --sam could be given."""
    folder = tmp_path_factory.mktemp("files")
    medsam, clip = RefinerSpec(spec.sam), spec.clip
    contents = {
        "medsam": {"stage": "medsam", "spec": asdict(medsam), "model": medsam.build().state_dict()},
        "refiner": {"stage": "refiner", "spec": asdict(medsam), "model": medsam.build().state_dict()},
        "unfit": {"stage": "medsam", "spec": asdict(medsam), "model": {}},
        "clip": {"stage": "clip", "clip": clip, "model": BiomedCLIP(**clip).state_dict()},
        "other": {"model": {}},
    }
    for name, entries in contents.items():
        save_checkpoint(folder / f"{name}.pt", entries)
    (folder / "five.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "lung"]))
    (folder / "no_pad.txt").write_text("lung")
    os.mkfifo(folder / "pipe.txt")
    return {path.name: str(path) for path in folder.iterdir()} | {"missing": str(folder / "missing")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rank": 4}, "without --sam it is drawn at random"),
        ({"proposer": "missing"}, "No such file"),
        ({"proposer": "clip.pt"}, "clip.pt: it does not say what images it was trained on"),
        ({"clip": "missing"}, "No such file"),
        ({"clip": "medsam.pt"}, "medsam.pt: expected clip.pt of a run .* got medsam.pt"),
        ({"clip": "other.pt"}, "other.pt: expected clip.pt of a run .* got another checkpoint"),
        ({"clip": "clip.pt", "vocabulary": "missing"}, "missing: cannot be read"),
        ({"clip": "clip.pt", "vocabulary": "pipe.txt"}, "pipe.txt: cannot be read .it is a pipe"),
        ({"clip": "clip.pt", "vocabulary": "no_pad.txt"}, "has no token .PAD."),
        ({"clip": "clip.pt", "vocabulary": "five.txt"}, "a vocabulary of 101 tokens, and .*five.txt has 5"),
        ({"sam": "missing"}, "No such file"),
        ({"sam": "clip.pt"}, "clip.pt: expected medsam.pt of a run .* got clip.pt"),
        ({"sam": "refiner.pt"}, "refiner.pt: expected medsam.pt of a run .* got refiner.pt"),
        ({"sam": "unfit.pt"}, "unfit.pt does not fit this run: model lacks"),
    ],
)
def test_files_that_a_stage_could_not_use_are_refused_before_the_run_begins(squares, files, tmp_path, flags, message):
    recipe = replace(RECIPE, **{name: files.get(value, value) for name, value in flags.items()})
    with pytest.raises((ValueError, OSError), match=message):
        open_refiner_run(recipe, RefinerOptions(data=squares, out=tmp_path), {}, CPU)
    assert not list(tmp_path.iterdir())


def test_files_of_finished_stages_may_have_gone(squares, files, tmp_path):
    for name in ("clip.pt", "medsam.pt"):
        shutil.copy(files[name], tmp_path / name)
    recipe = replace(RECIPE, clip=str(tmp_path / "clip.pt"), sam=str(tmp_path / "medsam.pt"))
    out = tmp_path / "run"
    out.mkdir()
    open_refiner_run(recipe, RefinerOptions(data=squares, out=out), {}, CPU)
    for name in ("clip.pt", "medsam.pt"):
        (tmp_path / name).rename(out / name)
    assert open_refiner_run(recipe, RefinerOptions(out=out, resume=True), {}, CPU).recipe == recipe
    (out / "medsam.pt").unlink()
    with pytest.raises(OSError, match="No such file"):
        open_refiner_run(recipe, RefinerOptions(out=out, resume=True), {}, CPU)


def test_a_run_that_was_killed_while_it_began_can_be_resumed(squares, tmp_path, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    assert "Nothing was trained yet; begin again" in how_to_continue(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_contents", kill)
        with pytest.raises(KeyboardInterrupt):
            open_refiner_run(RECIPE, RefinerOptions(data=squares, out=tmp_path), {}, CPU)
    assert f"--out {tmp_path} --resume" in how_to_continue(tmp_path)
    torch.use_deterministic_algorithms(False)
    open_refiner_run(RECIPE, RefinerOptions(out=tmp_path, resume=True), {}, CPU)
    assert torch.are_deterministic_algorithms_enabled()  # even if no stage is left to be trained
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.json", "data.json"}


def test_files_keep_their_place_when_the_current_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe, given = absolute_files(replace(RECIPE, sam="a.pth"), {"sam": "a.pth", "most": 3})
    assert recipe.sam == given["sam"] == str(tmp_path / "a.pth") and given["most"] == 3 and recipe.clip is None
