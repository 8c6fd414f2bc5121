"""More epochs than a run was started for: `--resume --epochs 60` on a run of 35.

If nothing before the last epoch depends on the number of epochs, the run is simply continued. A cosine schedule does
depend on it: then the message gives the command of a new run that starts from the best weights.
"""

import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from lungseg.flags import as_flags
from lungseg.training.recipe import TrainingRecipe


def with_more_epochs(
    then: TrainingRecipe, epochs: int, out: Path, *, done: int, stopped: bool, new_run: str
) -> TrainingRecipe:
    """The recipe of a resumed run with more epochs, as if it had been started with them.

    Args:
        then: as it was started.
        epochs: the number now asked for, more than `then.epochs`.
        out: its folder.
        done: epochs that are finished.
        stopped: whether --patience has ended it.
        new_run: the command that trains longer otherwise (`command_from_best`).

    Raises:
        ValueError: with that command, if its learning rate falls towards the last epoch, or if it was stopped early.
    """
    if stopped:
        why = f"was started with epochs {then.epochs}, and --patience stopped it after {done}"
    elif then.schedule == "cosine":
        why = f"was started with epochs {then.epochs}, and its learning rate falls along a cosine that ends there"
    else:
        return replace(then, epochs=epochs)
    first = "" if stopped or done >= then.epochs else "let it finish (--resume alone), then "
    raise ValueError(f"The run in {out} {why}. To train longer, {first}start from its best weights: {new_run}")


def command_from_best(
    script: str,
    then: TrainingRecipe,
    recipes: Mapping[str, TrainingRecipe],
    epochs: int,
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
) -> str:
    """The command of a new run like `then`, from the best weights in `out`, with a tenth of its learning rate.

    Args:
        script: the beginning of the command: "python examples/train_swin.py".
        recipes: the named recipes of that script.
        epochs: of the new run.
    """
    start: dict[str, Any] = {"weights": str(out / "best.pt"), "epochs": epochs, "lr": float(f"{then.lr / 10:.3g}")}
    start |= {"pretrained": None, "freeze_encoder": 0}  # how `then` started
    recipe = replace(then, **{f.name: start[f.name] for f in fields(then) if f.name in start})
    flags = as_flags(recipe, recipes)
    if seed:
        flags += ["--seed", str(seed)]
    if data:
        flags += ["--data", str(data)]
    new = (out.with_name(f"{out.name}_{i}") for i in count(2))
    flags += ["--out", str(next(path for path in new if not path.exists()))]
    return f"{script} {shlex.join(flags)}"
