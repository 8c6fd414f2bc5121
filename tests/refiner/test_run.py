"""The folder of a run: begun, resumed, refused."""

import json
from dataclasses import replace

import pytest
import torch

from lungseg.data.slices import SliceDataset
from lungseg.refiner.recipe import RefinerOptions, RefinerRecipe
from lungseg.refiner.run import absolute_files, open_refiner_run

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
    run = open_refiner_run(RECIPE, RefinerOptions(out=tmp_path), {}, CPU)
    data = SliceDataset(run.folder)
    assert len(data) == 6 and data[0][0].shape == (1, 16, 16)


def test_data_that_have_changed_are_refused(tmp_path):
    run = open_refiner_run(RECIPE, RefinerOptions(out=tmp_path), {}, CPU)
    image = next((run.folder / "images").iterdir())
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


def test_files_keep_their_place_when_the_current_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe, given = absolute_files(replace(RECIPE, sam="a.pth"), {"sam": "a.pth", "most": 3})
    assert recipe.sam == given["sam"] == str(tmp_path / "a.pth") and given["most"] == 3 and recipe.clip is None
