"""May a run begin in a folder, or go on there? And whatever was edited there is one sentence with file and field."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LambdaLR

from lungseg.checkpoint import PARTS, Checkpoint, NetworkSpec, save_checkpoint
from lungseg.training import lock
from lungseg.training.distributed import ALONE
from lungseg.training.early_stopping import EarlyStopping
from lungseg.training.optim import make_optimizer
from lungseg.training.recipe import RunOptions, TrainingRecipe
from lungseg.training.resume import (
    check_same_run,
    held,
    how_to_resume,
    load_best,
    load_parts,
    open_run,
    read_start,
)

RECIPE = TrainingRecipe(epochs=3)
INPUT = {
    "size": [16, 16], "scale": [0.5, 0.5], "hu_window": [-1000.0, 400.0], "spacing_mm": 0.7, "source_scale": None,
    "stretched": False,
}  # fmt: skip
WHOLE = {
    "model": {}, "optimizer": {}, "recipe": asdict(RECIPE), "network": {"name": "UNet", "arguments": {"a": (4,)}},
    "run": asdict(RECIPE) | {"seed": 5, "processes": 1}, "input": INPUT, "log_position": 0, "rng": [], "data": None,
    "stopping": {"best": 0.5, "best_epoch": 2, "epochs": 2, "stop": False},
}  # fmt: skip


def changed(**parts):
    return {**copy.deepcopy(WHOLE), **parts}


def read(entries):
    return Checkpoint.from_dict(entries, Path("last.pt"))


NETWORK = NetworkSpec("UNet", {"a": (4,)})  # that of WHOLE


# ---- the folder -------------------------------------------------------------------------------------------------


def test_a_new_run_begins_in_a_new_or_empty_folder(tmp_path):
    options = RunOptions(out=tmp_path / "run")
    assert open_run(options, ALONE) is None
    options.out.mkdir()
    assert open_run(options, ALONE) is None
    (options.out / "notes.txt").touch()
    with pytest.raises(ValueError, match="run is not empty, and holds no run. Choose another --out"):
        open_run(options, ALONE)
    (options.out / "recipe.json").touch()
    with pytest.raises(ValueError, match="run is not empty. Add --resume to continue that run, or choose another"):
        open_run(options, ALONE)
    with pytest.raises(ValueError, match="is a file"):
        open_run(RunOptions(out=options.out / "notes.txt"), ALONE)


def test_what_a_start_leaves_that_was_killed_is_no_run(tmp_path):
    """The name of phantoms says how they were drawn, so they are found again; half of them are removed."""
    (tmp_path / "phantoms_nodule_4x1_16px_seed0").mkdir()
    (tmp_path / ".phantoms_nodule_4x1_16px_seed0.partial-123").mkdir()
    (tmp_path / ".recipe.json.partial-123").touch()
    (tmp_path / ".lock").touch()
    assert open_run(RunOptions(out=tmp_path), ALONE) is None
    assert sorted(os.listdir(tmp_path)) == [".lock", "phantoms_nodule_4x1_16px_seed0"]


def test_what_another_script_is_writing_into_the_folder_is_left_alone(tmp_path):
    """predict.py --out runs/mine/predictions takes no lock: it is no run."""
    save_checkpoint(tmp_path / "last.pt", WHOLE)
    (tmp_path / ".predictions.partial-123").mkdir()
    (tmp_path / ".last.pt.partial-123").touch()
    open_run(RunOptions(out=tmp_path, resume=True), ALONE)
    assert sorted(os.listdir(tmp_path)) == [".predictions.partial-123", "last.pt"]


def test_resuming_takes_the_last_checkpoint_or_begins_what_was_begun(tmp_path):
    options = RunOptions(out=tmp_path, resume=True)
    (tmp_path / "recipe.json").touch()
    assert open_run(options, ALONE) is None
    save_checkpoint(tmp_path / "last.pt", WHOLE)
    assert open_run(options, ALONE).to_dict() == WHOLE | {"lungseg": ""}


def test_nothing_to_resume_is_said_with_what_may_be_meant(tmp_path):
    for name in ("mine", "unet", "x0", "other"):
        (tmp_path / name).mkdir()
    for name in ("mine", "unet", "x0"):
        (tmp_path / name / "recipe.json").touch()
    with pytest.raises(ValueError, match="mien holds no run to resume. Did you mean .*/mine. To start a new run") as e:
        open_run(RunOptions(out=tmp_path / "mien", resume=True), ALONE)
    assert "unet" not in str(e.value) and not (tmp_path / "mien").exists()
    for out in (tmp_path / "other", tmp_path / "x", tmp_path / "no/such/folder"):  # an empty folder; nothing like it
        with pytest.raises(ValueError, match="holds no run to resume. To start a new run, leave out --resume"):
            open_run(RunOptions(out=out, resume=True), ALONE)


def test_another_process_in_the_folder_is_noticed_before_anything_is_read(tmp_path):
    code = "import sys; from lock import locked\nwith locked(sys.argv[1]): print('mine', flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", code, str(tmp_path / "run")]
    env = os.environ | {"PYTHONPATH": str(Path(lock.__file__).parent)}  # this one file does not need torch
    pipe = subprocess.PIPE
    with held(tmp_path / "run", ALONE):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 1 and f"in use by process {os.getpid()} on" in done.stderr
    assert not (tmp_path / "run").exists()
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env) as other:  # leaves at the end of its input
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ValueError, match=f"in use by process {other.pid} on"), held(tmp_path / "run", ALONE):
            pass
        other.stdin.close()
    assert other.returncode == 0 and not (tmp_path / "run").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"), held(tmp_path / "file", ALONE):
        pass


def test_what_to_do_after_ctrl_c_depends_on_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["examples/train x.py"])
    assert how_to_resume(tmp_path) == "Nothing was trained yet; begin again with the same command."
    (tmp_path / "recipe.json").touch()
    assert "begin again with: python 'examples/train x.py' --out" in how_to_resume(tmp_path)
    (tmp_path / "last.prev.pt").touch()  # stopped between two renames
    assert "All finished epochs are saved" in how_to_resume(tmp_path)
    os.rename(tmp_path / "last.prev.pt", tmp_path / "last.pt")
    assert "All finished epochs are saved" in how_to_resume(tmp_path)
    assert how_to_resume(tmp_path).endswith(f"--out {tmp_path} --resume")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun --nproc_per_node=2 'examples/train x.py'" in how_to_resume(tmp_path)


# ---- as it was started ------------------------------------------------------------------------------------------


def write_recipe(folder, **fields):
    started = {"recipe": {**asdict(RECIPE), **fields}, "seed": 5, "processes": 1, "data": "data/lungs"}
    (folder / "recipe.json").write_text(json.dumps(started))
    return started


def test_a_run_is_read_as_it_was_started(tmp_path):
    write_recipe(tmp_path)
    of_json, of_checkpoint = (
        read_start(None, tmp_path, TrainingRecipe),
        read_start(read(WHOLE), tmp_path, TrainingRecipe),
    )
    for start in (of_json, of_checkpoint):
        assert start.recipe == RECIPE and start.settings["seed"] == 5 and start.settings["epochs"] == 3
    assert of_json.data == Path("data/lungs") and of_checkpoint.data is None
    older = {k: v for k, v in asdict(RECIPE).items() if k not in ("weights", "freeze_encoder")}
    started = {"recipe": older, "seed": 5, "processes": 1, "data": None}
    (tmp_path / "recipe.json").write_text(json.dumps(started))
    assert read_start(None, tmp_path, TrainingRecipe).recipe == RECIPE


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda r: [], "expected named values"),
        (lambda r: None, "expected named values"),
        (lambda r: {**r, "recipe": [1]}, "recipe is .1."),
        (lambda r: {k: v for k, v in r.items() if k != "recipe"}, "recipe is missing"),
        (lambda r: {**r, "seed": "5"}, "seed is '5'"),
        (lambda r: {**r, "seed": -1}, "seed is -1"),
        (lambda r: {**r, "data": 7}, "data is 7"),
        (lambda r: {**r, "processes": None}, "processes is None"),
        (lambda r: {**r, "recipe": {**r["recipe"], "lr": 10**400}}, "recipe.json: lr=10+ .* must be below 2"),
        (lambda r: {**r, "recipe": {**r["recipe"], "lr": "fast"}}, "recipe.json: lr is damaged: it is 'fast'"),
        (lambda r: {**r, "recipe": {**r["recipe"], "lr": True}}, "recipe.json: lr is damaged"),
        (lambda r: {**r, "recipe": {**r["recipe"], "lr": float("inf")}}, "recipe.json: lr is damaged"),
        (lambda r: {**r, "recipe": {**r["recipe"], "lr": -1}}, "recipe.json: lr=-1 must be positive"),
        (lambda r: {**r, "recipe": {**r["recipe"], "epochs": 2.5}}, "recipe.json: epochs is damaged: it is 2.5"),
        (lambda r: {**r, "recipe": {**r["recipe"], "loss": "hinge"}}, "recipe.json: loss is damaged"),
        (lambda r: {**r, "recipe": {**r["recipe"], "patience": "never"}}, "recipe.json: patience is damaged"),
        (lambda r: {**r, "recipe": {**r["recipe"], "optimizer": None}}, "recipe.json: optimizer is damaged"),
        (lambda r: {**r, "recipe": {**r["recipe"], "hue": 1}}, "another script or version"),
        (lambda r: {**r, "recipe": {k: v for k, v in r["recipe"].items() if k != "lr"}}, "another script or version"),
    ],
)
def test_an_edited_recipe_is_one_sentence_with_file_and_field(tmp_path, edit, words):
    (tmp_path / "recipe.json").write_text(json.dumps(edit(write_recipe(tmp_path))))
    with pytest.raises(ValueError, match=words) as error:
        read_start(None, tmp_path, TrainingRecipe)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("field", sorted(asdict(RECIPE)))
@pytest.mark.parametrize("value", [[], {}, "odd", None, -1.5, [[1]]], ids=str)
def test_any_value_of_any_field_is_read_or_refused_in_a_sentence(tmp_path, field, value):
    write_recipe(tmp_path, **{field: value})
    saved = read(changed(recipe={**asdict(RECIPE), field: value}))
    for checkpoint, name in ((None, "recipe.json"), (saved, "last.pt")):
        try:
            start = read_start(checkpoint, tmp_path, TrainingRecipe)
        except ValueError as error:
            assert f"{name}: {field}" in str(error) and "\n" not in str(error)
        else:
            read_value = getattr(start.recipe, field)  # JSON has lists where a recipe has tuples
            assert (list(read_value) if isinstance(read_value, tuple) else read_value) == value


def test_a_flag_that_contradicts_the_run_is_refused():
    saved = {"lr": 0.1, "depths": (2, 2), "seed": 0}
    check_same_run(saved, {"lr": 0.1, "depths": (2, 2), "device": "cuda"}, Path("run"))
    with pytest.raises(ValueError, match="The run in run was started with lr 0.1, and now it would be 0.2"):
        check_same_run(saved, {"lr": 0.2}, Path("run"))


# ---- checkpoints ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_checkpoint_of_another_shape_is_named(tmp_path, name):
    for state in ({k: v for k, v in WHOLE.items() if k != name}, changed(**{name: 1.5})):
        save_checkpoint(tmp_path / "last.pt", state)  # rightly sealed
        with pytest.raises(ValueError, match=f"last.pt is damaged: {name} is ") as error:
            open_run(RunOptions(out=tmp_path, resume=True), ALONE)
        assert "\n" not in str(error.value)


def learner():
    """A network after one step, with all that a checkpoint keeps of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = make_optimizer(RECIPE, model)
    schedule = LambdaLR(optimizer, lambda step: 0.5**step)
    model(torch.rand(2, 1, 8, 8)).mean().backward()
    optimizer.step()
    schedule.step()
    stopping = EarlyStopping(3, "max")
    stopping.update(0.5)
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "stopping": stopping}


def states(parts):
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}


def test_the_parts_get_their_states():
    saved, parts = states(learner()), learner()
    nn.init.zeros_(parts["model"][0].weight)
    parts["stopping"].update(0.7)
    load_parts(parts, saved, Path("last.pt"))
    assert torch.equal(parts["model"][0].weight, saved["model"]["0.weight"])
    assert parts["stopping"].state_dict() == saved["stopping"]


def first_group(state):
    return state["optimizer"]["param_groups"][0]


EDITS = {
    "model lacks 0.weight": lambda s: s["model"].pop("0.weight"),
    r"model.0.weight is \(3, 3\)": lambda s: s["model"].update({"0.weight": torch.zeros(3, 3)}),
    "model is 'x'": lambda s: s.update(model="x"),
    "optimizer is None": lambda s: s.pop("optimizer"),
    r"optimizer is \[\]": lambda s: s.update(optimizer=[]),
    "optimizer lacks param_groups": lambda s: s.update(optimizer={"state": {}}),
    "optimizer": lambda s: s["optimizer"]["param_groups"].pop(),
    r"optimizer.param_groups\[0\].lr is 'fast'": lambda s: first_group(s).update(lr="fast"),
    r"optimizer.param_groups\[0\] lacks lr": lambda s: first_group(s).pop("lr"),
    r"optimizer.param_groups\[0\].params is": lambda s: first_group(s).update(params=[0, 1, 2, 3, 4]),
    r"optimizer: exp_avg is \(7,\), expected \(2, 1, 3, 3\)": lambda s: s["optimizer"]["state"][0].update(
        exp_avg=torch.zeros(7)
    ),
    "schedule.last_epoch is 'two'": lambda s: s["schedule"].update(last_epoch="two"),
    "schedule lacks base_lrs": lambda s: s["schedule"].pop("base_lrs"),
    "stopping lacks epochs": lambda s: s["stopping"].pop("epochs"),
}


@pytest.mark.parametrize("words", EDITS)
def test_a_state_that_does_not_fit_is_named(words):
    saved = states(learner())
    EDITS[words](saved)
    with pytest.raises(ValueError, match=f"^last.pt does not fit this run: {words}") as error:
        load_parts(learner(), saved, Path("last.pt"))
    assert "\n" not in str(error.value)


def test_a_run_from_a_device_without_float16_begins_with_torchs_own_scale():
    scaler = GradScaler("cpu")
    for saved in ({}, {"scaler": {}}, {"scaler": GradScaler("cpu", enabled=False).state_dict()}):
        load_parts({"scaler": scaler}, saved, Path("last.pt"))
    assert scaler.get_scale() == 2**16
    load_parts({"scaler": scaler}, {"scaler": GradScaler("cpu", init_scale=8.0).state_dict()}, Path("last.pt"))
    assert scaler.get_scale() == 8
    load_parts({"scaler": GradScaler("cpu", enabled=False)}, {"scaler": scaler.state_dict()}, Path("last.pt"))


def test_what_another_version_of_torch_writes_is_no_difference():
    saved = states(learner())
    del first_group(saved)["maximize"], saved["schedule"]["_step_count"]
    load_parts(learner(), saved, Path("last.pt"))


# ---- best.pt ----------------------------------------------------------------------------------------------------


def test_the_best_epoch_of_this_run_is_taken(tmp_path):
    save_checkpoint(tmp_path / "best.pt", WHOLE)
    more_epochs = {**WHOLE["run"], "epochs": 60}
    for run, epochs in ((WHOLE["run"], {2}), (more_epochs, {1, 2})):
        assert load_best(tmp_path, run, NETWORK, epochs, TrainingRecipe).to_dict() == WHOLE | {"lungseg": ""}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"stopping": {**WHOLE["stopping"], "epochs": 1}}, "is of epoch 1, expected epoch 2 or 3"),
        ({"run": {**WHOLE["run"], "lr": 0.7}}, "of another run: lr is 0.7, not 0.0005"),
        ({"run": {**WHOLE["run"], "seed": 6}}, "of another run: seed is 6, not 5"),
        ({"network": {"name": "SwinUNet", "arguments": {}}}, "of another run: it has another network"),
        ({"model": None}, "is damaged: model is None"),
    ],
)
def test_the_best_of_something_else_is_refused(tmp_path, parts, words):
    save_checkpoint(tmp_path / "best.pt", changed(**parts))
    with pytest.raises(ValueError, match=words):
        load_best(tmp_path, WHOLE["run"], NETWORK, {2, 3}, TrainingRecipe)


def test_a_best_epoch_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="best.pt, the best epoch of this run, is missing. Restore it"):
        load_best(tmp_path, WHOLE["run"], NETWORK, {2}, TrainingRecipe)
    (tmp_path / "best.pt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="damaged"):
        load_best(tmp_path, WHOLE["run"], NETWORK, {2}, TrainingRecipe)


def test_older_settings_are_read_as_this_version_writes_them(tmp_path):
    run = {k: v for k, v in WHOLE["run"].items() if k not in ("weights", "freeze_encoder")} | {"amp": "bf16"}
    save_checkpoint(tmp_path / "best.pt", changed(run=run))
    load_best(tmp_path, asdict(replace(RECIPE, amp="auto")) | {"seed": 5}, NETWORK, {2}, TrainingRecipe)
