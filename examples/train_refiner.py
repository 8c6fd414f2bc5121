"""Train a refiner: a network proposes lesions, MedSAM looks again at a magnified crop of each, a judge weighs both.

    python examples/train_refiner.py                                    phantoms, minutes on one CPU core
    python examples/train_refiner.py --data DIR --proposer runs/unet/best.pt --out runs/mine
    python examples/train_refiner.py --data DIR --recipe published --sam medsam_vit_b.pth --no-use-clip
    python examples/train_refiner.py --out runs/mine --resume           continue after Ctrl-C, a crash or a power cut
    python examples/predict.py runs/mine/best.pt slice.png --out predictions

DIR is a folder of slices (docs/data/folder.md). No box comes from a person, nor from the truth: those of the test are
the proposer's. Each stage ends with one line; docs/refiner_training.md explains them.
"""

import sys
from dataclasses import replace

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (later lungseg.exits does this)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.exits import exit_code, leave
from lungseg.flags import parse_recipe
from lungseg.refiner.clip_stage import train_clip
from lungseg.refiner.context import Context
from lungseg.refiner.proposer_stage import cross_fitted, train_fold, train_proposer
from lungseg.refiner.recipe import RefinerOptions, RefinerRecipe
from lungseg.refiner.refiner_stages import finish, train_medsam, train_refiner
from lungseg.refiner.run import absolute_files, how_to_continue, open_refiner_run
from lungseg.training.distributed import start_processes
from lungseg.training.machine import keep_freed_memory
from lungseg.training.resume import held

RECIPES = {
    "demo": RefinerRecipe(),
    # For published weights (give them with --sam) on a GPU; the help text of each field says why. The first flag to
    # lower is --batch-size.
    "published": replace(
        RefinerRecipe(), crop_size=1024, rank=4, sam_lr=1e-4, refiner_lr=1e-4, batch_size=4, sam_steps=5000,
        refiner_steps=10000, channels=(32, 64, 128, 256), proposer_steps=5000, save_every=500, threads=0,
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the refined maps, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    recipe, options, given = parse_recipe(RECIPES, RefinerOptions(), argv, description=__doc__)
    recipe, given = absolute_files(recipe, given)
    remedy = "Lower --batch-size, --crop-size or --sam-dim."
    with (
        exit_code(
            "train_refiner.py", stopped=lambda: how_to_continue(options.out), too_little_memory=remedy
        ) as outcome,
        start_processes(options.device) as processes,
        held(options.out, processes),
    ):
        if processes.size > 1:
            raise ValueError("a refiner is trained by one process. Start this script without torchrun.")
        if processes.device.type == "cpu":
            keep_freed_memory()
        outcome.result = train(open_refiner_run(recipe, options, given, processes.device))
    return outcome.result


def train(run: Context) -> float:
    """The stages; each reads what is finished, and continues what is not."""
    proposer = train_proposer(run)
    folds = [train_fold(run, proposer, fold) for fold in (0, 1)] if run.recipe.cross_fit else []
    if run.recipe.use_clip:
        train_clip(run)
    train_medsam(run)
    spec = train_refiner(run, lambda: cross_fitted(run, proposer, folds))
    return finish(run, proposer, spec)


if __name__ == "__main__":
    leave(main())
