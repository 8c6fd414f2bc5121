"""Train a plain U-Net to outline lung lesions in CT slices, or in volumes: the baseline that other networks must beat.

    python examples/train_unet.py                                      phantom slices, minutes on one CPU core
    python examples/train_unet.py --recipe volumes                     phantom volumes, likewise
    python examples/train_unet.py --data DIR --recipe recommended --out runs/mine
    python examples/train_unet.py --out runs/mine --resume             continue after Ctrl-C, a crash or a power cut
    torchrun --nproc_per_node=2 examples/train_unet.py ...             several GPUs, or several CPU processes

DIR is a folder of slices (docs/data/folder.md), or of volumes with --spatial-dims 3 (docs/data/volumes.md).
"""

import sys
from dataclasses import dataclass
from typing import Any, Literal

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (later lungseg.exits does this)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.exits import leave
from lungseg.flags import option
from lungseg.inference import SlidingWindow
from lungseg.nn.unet import UNet
from lungseg.training.cli import run_script
from lungseg.training.early_stopping import EarlyStopping, monitor_mode
from lungseg.training.ema import averaged_weights
from lungseg.training.loss import make_loss
from lungseg.training.optim import make_optimizer, make_schedules
from lungseg.training.recipe import VolumeRecipe
from lungseg.training.run import Run
from lungseg.training.step import evaluate, train_one_epoch


@dataclass(frozen=True)
class Recipe(VolumeRecipe):
    """Every setting that decides what is learned. The defaults are the demo: small, for phantoms and a laptop."""

    channels: tuple[int, ...] = option((16, 32, 64, 128), "channels of each stage; each halves the sides")
    norm: Literal["batch", "instance"] = option("batch", "instance for batches of one or two, as volumes often need")


RECIPES = {
    "demo": Recipe(lr=1e-3, epochs=25, threads=1),
    "volumes": Recipe(
        spatial_dims=3, channels=(8, 16, 32), norm="instance", augment="flips",
        lr=2e-3, epochs=15, threads=1,
    ),
    # The report trained no U-Net; these are its settings for the ResNet50-U-Net, applied to a plain U-Net.
    "report": Recipe(
        img_size=256, phantom_view="chest", phantom_slices=6, channels=(32, 64, 128, 256, 512),
        loss="bce", prior_bias=False, optimizer="adam", lr=1e-4, weight_decay=0.0, warmup_epochs=0.0,
        schedule="constant", grad_clip=None, batch_size=8, epochs=100,
    ),
    # What we would use for whole slices on a GPU; the help text of each field says why.
    "recommended": Recipe(
        img_size=256, phantom_view="chest", phantom_slices=6,
        channels=(32, 64, 128, 256, 512), lr=1e-3, weight_decay=0.01, batch_size=16, epochs=100,
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the best epoch, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    return run_script(train, RECIPES, argv, script=__file__, out="runs/unet", description=__doc__)


def train(run: Run) -> float:
    """Network, data, loss, optimizer, schedule; then the epochs; then the test."""
    recipe = run.recipe
    model = run.build(UNet, network_arguments(recipe), weights=recipe.weights)
    data = run.open_data()
    run.prepare(model)
    ddp_model = run.wrap(model)
    # What is larger than the images it is trained on is evaluated with a sliding window.
    eval_model = SlidingWindow(model, data.input.size, neighbours=data.input.neighbours)
    loss_fn = make_loss(recipe)
    optimizer = make_optimizer(recipe, model)
    schedule, plateau = make_schedules(recipe, optimizer, steps_per_epoch=len(data.train))
    stopping = EarlyStopping(recipe.patience, monitor_mode(recipe.monitor), min_epochs=recipe.min_epochs)
    scaler, ema = run.scaler(), run.ema(model)
    run.begin(
        model=model, optimizer=optimizer, schedule=schedule, plateau=plateau, stopping=stopping, scaler=scaler, ema=ema
    )

    for epoch in run.epochs():
        frozen = run.freeze_encoder(model, epoch)
        train_loss = train_one_epoch(
            ddp_model, data.train, loss_fn, optimizer, schedule=schedule, grad_clip=recipe.grad_clip,
            accumulate=recipe.accumulate, scaler=scaler, frozen=frozen, ema=ema, title=run.title(epoch), **run.compute,
        )  # fmt: skip
        with averaged_weights(ema):  # with --ema, what is validated and tested is their running average
            val = evaluate(eval_model, data.val, loss_fn, classes=data.classes, **run.compute).scores
        lr = optimizer.param_groups[0]["lr"]
        is_best = stopping.update(val[recipe.monitor])
        if plateau is not None:
            plateau.step(val[recipe.monitor])
        run.end_epoch(epoch, train_loss, val, lr=lr, is_best=is_best)

    model.load_state_dict(run.best())
    test = evaluate(eval_model, data.test, loss_fn, classes=data.classes, title="test", **run.compute)
    return run.end(test, eval_model)


def network_arguments(recipe: Recipe) -> dict[str, Any]:
    """The arguments of `UNet`; each checkpoint keeps them, so that it needs no script to be rebuilt."""
    return {name: getattr(recipe, name) for name in ("spatial_dims", "channels", "norm")}


if __name__ == "__main__":
    leave(main())
