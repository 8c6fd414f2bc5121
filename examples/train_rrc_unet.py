"""Train an RRC-U-Net to outline lung lesions in CT volumes, or in slices: our reading of RRc-UNet 3D.

    python examples/train_rrc_unet.py                                  phantom volumes, minutes on one CPU core
    python examples/train_rrc_unet.py --data DIR --recipe recommended --out runs/mine
    python examples/train_rrc_unet.py --out runs/mine --resume         continue after Ctrl-C, a crash or a power cut
    torchrun --nproc_per_node=2 examples/train_rrc_unet.py ...         several GPUs, or several CPU processes

DIR is a folder of volumes (docs/data/volumes.md), or of slices with --spatial-dims 2 (docs/data/folder.md).
"""

import sys
from dataclasses import dataclass
from typing import Any, Literal

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (later lungseg.exits does this)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.exits import leave
from lungseg.flags import option
from lungseg.inference import SlidingWindow
from lungseg.nn.rrc_unet import RRCUNet
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
    """Every setting that decides what is learned."""

    channels: tuple[int, ...] = option((8, 16, 32), "channels of each stage; each halves the sides")
    steps: int = option(2, "how often each recurrent convolution is applied; 2 in R2U-Net")
    norm: Literal["batch", "instance"] = option("instance", "instance suits batches of few volumes, batch many slices")


RECIPES = {
    "demo": Recipe(spatial_dims=3, augment="flips", lr=2e-3, epochs=10, threads=1),
    # What we would use on a GPU. The paper's own settings are not stated in anything we could read.
    "recommended": Recipe(
        spatial_dims=3, augment="flips", phantom_volumes=200, phantom_shape=(64, 128, 128),
        crop_size=(64, 96, 96),  # 6 to 10 cm: a large tumour and its surroundings
        channels=(16, 32, 64, 128, 256), lr=1e-3, weight_decay=0.01, warmup_epochs=5.0, batch_size=4, epochs=200,
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the best epoch, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    return run_script(train, RECIPES, argv, script=__file__, out="runs/rrc_unet", description=__doc__)


def train(run: Run) -> float:
    """Network, data, loss, optimizer, schedule; then the epochs; then the test."""
    recipe = run.recipe
    model = run.build(RRCUNet, network_arguments(recipe), weights=recipe.weights)
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
    """The arguments of `RRCUNet`; each checkpoint keeps them, so that it needs no script to be rebuilt."""
    return {name: getattr(recipe, name) for name in ("spatial_dims", "channels", "steps", "norm")}


if __name__ == "__main__":
    leave(main())
