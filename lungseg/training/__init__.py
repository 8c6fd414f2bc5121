"""Training: the step, the optimizer and its schedules, recipes, and runs that can be resumed."""

from typing import TYPE_CHECKING

from lungseg._lazy import lazy_exports

if TYPE_CHECKING:  # for editors and type checkers; at run time each name is imported when it is first used
    from lungseg.training.cli import run_script as run_script
    from lungseg.training.contrastive import train_clip_epoch as train_clip_epoch
    from lungseg.training.distributed import Processes as Processes, start_processes as start_processes
    from lungseg.training.early_stopping import EarlyStopping as EarlyStopping, monitor_mode as monitor_mode
    from lungseg.training.loss import make_loss as make_loss
    from lungseg.training.optim import (
        make_optimizer as make_optimizer,
        make_schedules as make_schedules,
        reduce_on_plateau as reduce_on_plateau,
        warmup_cosine as warmup_cosine,
        weight_decay_groups as weight_decay_groups,
    )
    from lungseg.training.recipe import (
        RunOptions as RunOptions,
        TrainingRecipe as TrainingRecipe,
        VolumeRecipe as VolumeRecipe,
    )
    from lungseg.training.run import Run as Run
    from lungseg.training.step import (
        Evaluation as Evaluation,
        evaluate as evaluate,
        freeze as freeze,
        train_one_epoch as train_one_epoch,
    )

_EXPORTS = {
    "cli": ("run_script",),
    "contrastive": ("train_clip_epoch",),
    "distributed": ("Processes", "start_processes"),
    "early_stopping": ("EarlyStopping", "monitor_mode"),
    "loss": ("make_loss",),
    "optim": ("make_optimizer", "make_schedules", "reduce_on_plateau", "warmup_cosine", "weight_decay_groups"),
    "recipe": ("RunOptions", "TrainingRecipe", "VolumeRecipe"),
    "run": ("Run",),
    "step": ("Evaluation", "evaluate", "freeze", "train_one_epoch"),
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, _EXPORTS)
