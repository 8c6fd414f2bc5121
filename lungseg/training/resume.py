"""May a run begin in its folder, or be resumed there?

    nothing, or only phantoms    a run begins; there is nothing to resume
    recipe.json                  a run was stopped in its first epoch: --resume starts it again, with its own settings
    last.pt                      --resume continues after its last epoch

What is found there is checked as if somebody had edited it.
"""

import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from lungseg.checkpoint import Checkpoint, NetworkSpec, load_checkpoint, load_latest
from lungseg.training.distributed import Processes
from lungseg.training.lock import NAME, locked
from lungseg.training.longer import command_from_best, with_more_epochs
from lungseg.training.recipe import RunOptions, TrainingRecipe, from_older_version
from lungseg.typed import RESTORE, expect, form, read_json, short, typed

R = TypeVar("R", bound=TrainingRecipe)
WRITTEN_BY_RUNS = ("phantoms_*", "recipe.json", "data.json", "last.pt", "best.pt")
HALF_WRITTEN = tuple(f".{name}.partial-*" for name in WRITTEN_BY_RUNS)  # not those of predict.py, which may be running
LEFT_BY_A_START = (NAME, "phantoms_*", *HALF_WRITTEN)
UNFIT = (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError)  # torch's errors for a wrong state


# ---- the folder -------------------------------------------------------------------------------------------------


@contextmanager
def held(out: Path, processes: Processes) -> Iterator[None]:
    """Keep other runs out of `out`: the main process holds its lock, and all processes learn whether it got it."""
    with ExitStack() as stack:
        problem: Exception | None = None
        if processes.is_main:
            try:
                stack.enter_context(locked(out))
            except (ValueError, OSError) as error:
                problem = error
        if problem := processes.gather(problem)[0]:
            raise problem
        yield


def open_run(options: RunOptions, processes: Processes) -> Checkpoint | None:
    """Check that --out may be used; return the checkpoint to resume from, or None for a run that begins (again).

    Raises:
        ValueError: if the folder is not empty and we do not resume, if there is nothing to resume, or if none of its
            checkpoints can be read.
    """
    out = options.out
    problem = next((p for p in processes.gather(folder_problem(options)) if p), None)
    if problem:
        raise ValueError(problem)
    if processes.is_main:
        for left in [path for pattern in HALF_WRITTEN for path in out.glob(pattern)]:  # by a killed run
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not options.resume:
        return None
    with processes.main_first():  # the main process reports damaged files and renames them
        entries = load_latest(out / "last.pt")
    return None if entries is None else Checkpoint.from_dict(entries, out / "last.pt")


def folder_problem(options: RunOptions) -> str | None:
    """Why --out cannot be used, in a sentence; None if it can."""
    out = options.out
    if out.exists() and not out.is_dir():
        return f"{out} is a file. Choose another folder with --out."
    found = list(out.iterdir()) if out.exists() else []
    begun = [path for path in found if path.name == "recipe.json" or path.match("last*.pt")]
    if options.resume and not begun:
        others = [path.parent.name for path in out.parent.glob("*/recipe.json")] if out.parent.is_dir() else []
        similar = [str(out.with_name(name)) for name in difflib.get_close_matches(out.name, others, cutoff=0.7)]
        guess = f" Did you mean {' or '.join(similar)}?" if similar else ""
        return f"{out} holds no run to resume.{guess} To start a new run, leave out --resume."
    if not options.resume and begun:
        return f"{out} is not empty. Add --resume to continue that run, or choose another --out."
    if not options.resume and any(not any(map(path.match, LEFT_BY_A_START)) for path in found):
        return f"{out} is not empty, and holds no run. Choose another --out."
    return None


# ---- how it was started -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """How a run was started: its recipe; all that must stay the same (the recipe's fields, seed, ...); its data."""

    recipe: TrainingRecipe
    settings: dict[str, Any]
    data: Path | None


def read_start(saved: Checkpoint | None, out: Path, kind: type[R]) -> Start:
    """From the checkpoint; or from recipe.json, if no epoch was finished.

    Args:
        kind: the class of the recipe.
        saved: of this version or an older one.

    Raises:
        ValueError: naming the file and the field that is not as it was written.
    """
    file = out / ("last.pt" if saved else "recipe.json")
    if saved:
        entries, settings, data = saved.recipe, saved.run, saved.data
    else:
        started = read_json(file)
        expect(started, {"recipe": dict, "seed": int, "processes": int, "data": str | None}, str(file))
        entries, data = started["recipe"], started["data"]
        settings = entries | {"seed": started["seed"], "processes": started["processes"]}
    expect(settings, {"seed": int}, f"{file}: run")
    if not 0 <= settings["seed"] < 2**63:
        raise ValueError(f"{file} is damaged: seed is {settings['seed']}. {RESTORE}")
    hints = get_type_hints(kind)
    entries, settings = from_older_version(entries, kind), from_older_version(settings, kind)
    if entries.keys() != {f.name for f in fields(kind)}:
        raise ValueError(f"The run in {out} is of another script or version. Resume it with that one.")
    entries = {name: typed(value, hints[name], f"{file}: {name}") for name, value in entries.items()}
    try:
        return Start(kind(**entries), settings | entries, Path(data) if data else None)
    except ValueError as error:
        raise ValueError(f"{file}: {error}. {RESTORE}") from None


def as_started(
    saved: Checkpoint | None,
    recipe: TrainingRecipe,
    options: RunOptions,
    given: Mapping[str, Any],
    recipes: Mapping[str, TrainingRecipe],
) -> tuple[TrainingRecipe, RunOptions, dict[str, Any], str]:
    """The settings of the run in --out, which is resumed: recipe, options, all that must not change, and a remark.

    Args:
        saved: its checkpoint, if an epoch was finished.
        recipe, options: as asked for now.
        given: name -> value of the flags that the user gave.
        recipes: the named recipes of the script.

    Raises:
        ValueError: if a flag contradicts the run, except for more --epochs where these are possible
            (`lungseg.training.longer`), or if its data are gone.
    """
    start = read_start(saved, options.out, type(recipe))
    recipe, settings, remark = start.recipe, start.settings, ""
    check_same_run(settings, {name: value for name, value in given.items() if name != "epochs"}, options.out)
    if start.data and not options.data and not start.data.exists():
        raise ValueError(
            f"The data of the run in {options.out} are no longer in {start.data}. Give their folder with --data."
        )
    options = replace(options, seed=settings["seed"], data=options.data or start.data)
    epochs = given.get("epochs", 0)
    if epochs > recipe.epochs:
        state = saved.stopping if saved else {"epochs": 0, "stop": False}
        done = state["epochs"] if state["stop"] else recipe.epochs  # when the run ends as it was started
        new_run = command_from_best(
            this_script(), recipe, recipes, epochs - done, options.out, data=options.data, seed=options.seed
        )
        recipe = with_more_epochs(
            recipe, epochs, options.out, done=state["epochs"], stopped=bool(state["stop"]), new_run=new_run
        )
        settings = settings | {"epochs": epochs}
        remark = f"The run continues to epoch {epochs}, as if it had been started so (schedule {recipe.schedule})."
    check_same_run(settings, given, options.out)
    return recipe, options, settings, remark


def check_same_run(saved: Mapping[str, Any], given: Mapping[str, Any], out: Path) -> None:
    """Refuse flags that contradict the run in `out`: the result would be of neither the old nor the new settings.

    Args:
        saved: name -> value when the run was started (recipe fields, seed, number of processes, ...).
        given: name -> value asked for now; names that are not in `saved` are not compared.
    """
    for name, value in given.items():
        if name in saved and saved[name] != value:
            raise ValueError(
                f"The run in {out} was started with {name} {saved[name]}, and now it would be {value}. "
                f"Resume it as it was started, or start a new run in another --out."
            )


def how_to_resume(out: Path) -> str:
    """What is saved after Ctrl-C, and the command that continues from there."""
    command = f"{this_script()} --out {shlex.quote(str(out))} --resume"
    if any((out / name).exists() for name in ("last.pt", "last.prev.pt")):
        return f"All finished epochs are saved, the running one is repeated; resume with: {command}"
    if (out / "recipe.json").exists():
        return f"No epoch was finished; begin again with: {command}"
    return "Nothing was trained yet; begin again with the same command."


def this_script() -> str:
    """The command that started it, without its flags."""
    size, script = os.environ.get("WORLD_SIZE", "1"), shlex.quote(sys.argv[0])
    return f"python {script}" if size == "1" else f"torchrun --nproc_per_node={size} {script}"


# ---- states -----------------------------------------------------------------------------------------------------


def load_parts(learned: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """Load the saved state of each part.

    Args:
        learned: name -> model, optimizer, schedule, ...: anything with a state_dict.
        saved: name -> state.

    Raises:
        ValueError: naming file and entry, if a state does not have the form of the part's own.
    """
    for name, part in learned.items():
        if isinstance(part, GradScaler) and saved.get(name) in ({}, None):
            continue  # the run was on a device without float16; here it begins with torch's own scale
        try:
            different = form(saved.get(name), fresh_state(part, saved.get(name)), name)
            if not different:
                part.load_state_dict(saved[name])
                different = wrong_moment(part) if isinstance(part, Optimizer) else None
        except UNFIT as error:
            different = f"{name} ({short(str(error).splitlines()[0]) if str(error) else type(error).__name__})"
        if different:
            raise ValueError(f"{path} does not fit this run: {different}. {RESTORE}")


def fresh_state(part: Any, saved: Any) -> Any:
    """The state of a part before training. For an optimizer, without entries that newer versions of torch added."""
    state = part.state_dict()
    if isinstance(part, Optimizer) and isinstance(saved, dict) and isinstance(saved.get("param_groups"), list):
        pairs = zip(state["param_groups"], saved["param_groups"], strict=True)
        groups = [{k: v for k, v in fresh.items() if k in then or k in ("params", "lr")} for fresh, then in pairs]
        return {"param_groups": groups, "state": {}}
    return state


def wrong_moment(optimizer: Optimizer) -> str | None:
    """The running average whose shape is not its parameter's: torch loads it, and fails at the next step."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                return f"optimizer: {name} is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    return None


def load_best(
    out: Path, run: Mapping[str, Any], network: NetworkSpec, epochs: set[int], kind: type[TrainingRecipe]
) -> Checkpoint:
    """best.pt, if it belongs to this run and to one of these epochs, counted from 1.

    Args:
        run, network: as in a checkpoint of the run.
        kind: the class of its recipe.

    Raises:
        ValueError: if it is missing, damaged, or of another run, network or epoch.
    """
    path = out / "best.pt"
    if not path.exists():
        raise ValueError(f"{path}, the best epoch of this run, is missing. {RESTORE}")
    best = Checkpoint.from_dict(load_checkpoint(path), path)
    then = from_older_version(best.run, kind)
    shared = (then.keys() & run.keys()) - {"epochs"}  # a run may be given more epochs
    other = next((name for name in sorted(shared) if then[name] != run[name]), None)
    if best.network != network or other:
        why = f"{other} is {short(then[other])}, not {short(run[other])}" if other else "it has another network"
        raise ValueError(f"{path} is of another run: {why}. {RESTORE}")
    if best.stopping["epochs"] not in epochs:
        which = " or ".join(map(str, sorted(epochs)))
        raise ValueError(f"{path} is of epoch {best.stopping['epochs']}, expected epoch {which}. {RESTORE}")
    return best
