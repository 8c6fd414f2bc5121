"""May a run begin in its folder, or go on there? What is found there is read as if somebody had edited it.

nothing, or only phantoms    a run begins; --resume has nothing to go on with
recipe.json                  a run was stopped in its first epoch: --resume begins it again, as it was started
last.pt                      --resume goes on after its last epoch
"""

import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from torch.optim import Optimizer

from lungseg.checkpoint import load_checkpoint, load_latest
from lungseg.training.distributed import Processes
from lungseg.training.lock import NAME, locked
from lungseg.training.log import RunOptions
from lungseg.training.recipe import TrainingRecipe, from_older_version
from lungseg.typed import RESTORE, expect, form, read_json, short, typed

R = TypeVar("R", bound=TrainingRecipe)
WRITTEN_BY_RUNS = ("phantoms_*", "recipe.json", "data.json", "last.pt", "best.pt")
HALF_WRITTEN = tuple(f".{name}.partial-*" for name in WRITTEN_BY_RUNS)  # not those of predict.py, which may be at work
LEFT_BY_A_START = (NAME, "phantoms_*", *HALF_WRITTEN)
PARTS = {  # of a checkpoint, and their types
    "model": dict, "optimizer": dict, "stopping": dict, "recipe": dict, "run": dict, "network": dict, "input": dict,
    "log_position": int, "rng": list, "data": str | None,
}  # fmt: skip
STOPPING = {"best": float | int | None, "best_epoch": int | None, "epochs": int, "stop": bool}
UNFIT = (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError)  # what a wrong state makes of torch


# ---- the folder -------------------------------------------------------------------------------------------------


@contextmanager
def held(out: Path, processes: Processes) -> Iterator[None]:
    """Keep other runs out of `out`: the main process holds its lock, and all processes learn whether it could."""
    with ExitStack() as stack:
        problem = None
        if processes.is_main:
            try:
                stack.enter_context(locked(out))
            except (ValueError, OSError) as error:
                problem = error
        if problem := processes.gather(problem)[0]:
            raise problem
        yield


def open_run(options: RunOptions, processes: Processes) -> dict[str, Any] | None:
    """Check that --out may be used; return the checkpoint to go on from, or None for a run that begins (again).

    Raises:
        ValueError: if the folder holds anything and we do not resume, if there is nothing to resume, or if none of its
            checkpoints is good.
    """
    out = options.out
    problem = next((p for p in processes.gather(problem_with(options)) if p), None)
    if problem:
        raise ValueError(problem)
    if processes.is_main:
        for left in [path for pattern in HALF_WRITTEN for path in out.glob(pattern)]:  # by a killed run (`held`)
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    if not options.resume:
        return None
    with processes.main_first():  # it reports and sets aside what is damaged
        saved = load_latest(out / "last.pt")
    if saved is not None:
        check_parts(saved, out / "last.pt")
        for part in ("recipe", "run"):
            saved[part] = from_older_version(saved[part])
    return saved


def problem_with(options: RunOptions) -> str | None:
    """Why --out cannot be used, in a sentence."""
    out = options.out
    if out.exists() and not out.is_dir():
        return f"{out} is a file. Choose another folder with --out."
    found = list(out.iterdir()) if out.exists() else []
    begun = [path for path in found if path.name == "recipe.json" or path.match("last*.pt")]
    if options.resume and not begun:
        beside = [path.parent.name for path in out.parent.glob("*/recipe.json")] if out.parent.is_dir() else []
        meant = [str(out.with_name(name)) for name in difflib.get_close_matches(out.name, beside, cutoff=0.7)]
        guess = f" Did you mean {' or '.join(meant)}?" if meant else ""
        return f"{out} holds no run to go on with.{guess} To start a new run, leave out --resume."
    if not options.resume and begun:
        return f"{out} is not empty. Add --resume to go on with that run, or choose another --out."
    if not options.resume and any(not any(map(path.match, LEFT_BY_A_START)) for path in found):
        return f"{out} is not empty, and holds no run. Choose another --out."
    return None


# ---- as it was started ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """How a run was started: its recipe; all that must stay the same (the recipe's fields, seed, ...); its data."""

    recipe: TrainingRecipe
    settings: dict[str, Any]
    data: Path | None


def read_start(saved: dict[str, Any] | None, out: Path, kind: type[R]) -> Start:
    """From the checkpoint; or from recipe.json, if no epoch was finished.

    Raises:
        ValueError: naming the file and the field that is not as it was written.
    """
    file = out / ("last.pt" if saved else "recipe.json")
    if saved:
        recipe, settings, data = saved["recipe"], saved["run"], saved["data"]
    else:
        started = read_json(file)
        expect(started, {"recipe": dict, "seed": int, "processes": int, "data": str | None}, str(file))
        recipe, data = from_older_version(started["recipe"]), started["data"]
        settings = recipe | {"seed": started["seed"], "processes": started["processes"]}
    expect(settings, {"seed": int}, f"{file}: run")
    if not 0 <= settings["seed"] < 2**63:
        raise ValueError(f"{file} is damaged: seed is {settings['seed']}. {RESTORE}")
    hints = get_type_hints(kind)
    if recipe.keys() != {f.name for f in fields(kind)}:
        raise ValueError(f"The run in {out} is of another script or version. Resume it with that one.")
    recipe = {name: typed(value, hints[name], f"{file}: {name}") for name, value in recipe.items()}
    try:
        return Start(kind(**recipe), settings | recipe, data and Path(data))
    except ValueError as error:
        raise ValueError(f"{file}: {error}. {RESTORE}") from None


def check_same_run(saved: Mapping[str, Any], given: Mapping[str, Any], out: Path) -> None:
    """Refuse flags that contradict the run in `out`: it would end as neither the one nor the other.

    Args:
        saved: name -> value as the run was started (recipe fields, seed, number of processes, ...).
        given: name -> value as asked for now; what is not in `saved` is not compared.
    """
    for name, value in given.items():
        if name in saved and saved[name] != value:
            raise ValueError(
                f"The run in {out} was started with {name} {saved[name]}, and now it would be {value}. "
                f"Resume it as it was started, or start a new run in another --out."
            )


def how_to_go_on(out: Path) -> str:
    """What Ctrl-C leaves behind, and the command that goes on from there."""
    command = f"{this_script()} --out {shlex.quote(str(out))} --resume"
    if any((out / name).exists() for name in ("last.pt", "last.prev.pt")):
        return f"All finished epochs are saved, the running one is repeated; go on with: {command}"
    if (out / "recipe.json").exists():
        return f"No epoch was finished; begin again with: {command}"
    return "Nothing was trained yet; begin again with the same command."


def this_script() -> str:
    """The command that started it, without its flags."""
    size, script = os.environ.get("WORLD_SIZE", "1"), shlex.quote(sys.argv[0])
    return f"python {script}" if size == "1" else f"torchrun --nproc_per_node={size} {script}"


# ---- checkpoints ------------------------------------------------------------------------------------------------


def check_parts(saved: object, path: Path) -> None:
    """A ValueError, naming file and field, unless a checkpoint has what a run is resumed from."""
    expect(saved, PARTS, str(path))
    expect(saved["stopping"], STOPPING, f"{path}: stopping")
    expect(saved["network"], {"name": str, "arguments": dict}, f"{path}: network")
    for name, value in (("log_position", saved["log_position"]), ("epochs", saved["stopping"]["epochs"])):
        if value < 0:
            raise ValueError(f"{path} is damaged: {name} is {value}. {RESTORE}")


def load_parts(learned: Mapping[str, Any], saved: Mapping[str, Any], path: Path) -> None:
    """Give each part its state; a ValueError, naming file and field, if one is not of the form that the part has."""
    for name, part in learned.items():
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
    """The state that a part begins with. Of an optimizer, without what torch has added since the file was written."""
    state = part.state_dict()
    if isinstance(part, Optimizer) and isinstance(saved, dict) and isinstance(saved.get("param_groups"), list):
        pairs = zip(state["param_groups"], saved["param_groups"], strict=True)
        groups = [{k: v for k, v in fresh.items() if k in then or k in ("params", "lr")} for fresh, then in pairs]
        return {"param_groups": groups, "state": {}}
    return state


def wrong_moment(optimizer: Optimizer) -> str | None:
    """torch takes running averages of any shape, and fails at the next step."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                return f"optimizer: {name} is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
    return None


def load_best(out: Path, run: Mapping[str, Any], network: Mapping[str, Any], epochs: set[int]) -> dict[str, Any]:
    """best.pt, if it is of this run and of one of these epochs, counted from 1.

    Args:
        run, network: as they stand in a checkpoint of the run.

    Raises:
        ValueError: if it is missing, damaged, or of another run, network or epoch.
    """
    path = out / "best.pt"
    if not path.exists():
        raise ValueError(f"{path}, the best epoch of this run, is missing. {RESTORE}")
    best = load_checkpoint(path)
    check_parts(best, path)
    settings = from_older_version(best["run"])
    shared = (settings.keys() & run.keys()) - {"epochs"}  # a run may be given more epochs
    other = next((name for name in sorted(shared) if settings[name] != run[name]), None)
    if best["network"] != network or other:
        why = f"{other} is {short(settings[other])}, not {short(run[other])}" if other else "it has another network"
        raise ValueError(f"{path} is of another run: {why}. {RESTORE}")
    if best["stopping"]["epochs"] not in epochs:
        which = " or ".join(map(str, sorted(epochs)))
        raise ValueError(f"{path} is of epoch {best['stopping']['epochs']}, expected epoch {which}. {RESTORE}")
    return best
