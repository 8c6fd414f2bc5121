"""The command line of a training script: flags in, a sentence and an exit code out.

    def train(run: Run) -> float: ...
    def main(argv=None): return run_script(train, RECIPES, argv, ...)

`train` is the story of the script: network, data, optimizer, epochs, test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lungseg.exits import exit_code
from lungseg.flags import parse_recipe
from lungseg.training.distributed import start_processes
from lungseg.training.recipe import RunOptions, TrainingRecipe
from lungseg.training.resume import held, how_to_resume
from lungseg.training.run import Run

PATHS = ("weights", "pretrained", "network", "negatives")  # fields of recipes that name files or folders


def run_script(
    train: Callable[[Run], float],
    recipes: Mapping[str, TrainingRecipe],
    argv: Sequence[str] | None,
    *,
    script: str,
    out: str,
    description: str | None,
) -> float | int:
    """Read the flags, open the run, train.

    Args:
        train: the story of the script; returns the mean test Dice.
        recipes, argv, description: as in `parse_recipe`.
        script: its file, for messages.
        out: default of --out.

    Returns:
        What `train` returned, or an exit code (`lungseg.exits`): 2 for what the user can fix, 130 for Ctrl-C.
    """
    recipe, options, given = parse_recipe(recipes, replace(RunOptions(), out=Path(out)), argv, description=description)
    recipe, given = replace(recipe, **absolute_paths(asdict(recipe))), absolute_paths(given)
    remedy = "Make the network or --img-size smaller, halve --batch-size, or set --accumulate 2."
    with (
        exit_code(Path(script).name, stopped=lambda: how_to_resume(options.out), too_little_memory=remedy) as outcome,
        start_processes(options.device) as processes,
        held(options.out, processes),
    ):
        outcome.result = train(Run(recipe, options, given, processes, recipes))
    return outcome.result


def absolute_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings with absolute paths: a run may be resumed from another current folder."""

    def absolute(value: Any) -> Any:
        return tuple(map(absolute, value)) if isinstance(value, tuple) else str(Path(value).absolute())

    return {k: absolute(v) if k in PATHS and v else v for k, v in settings.items()}
