"""Train a Swin-UNet to outline lung lesions in CT slices.

    python examples/train_swin.py                                      phantoms, minutes on one CPU core
    python examples/train_swin.py --data DIR --recipe recommended --out runs/mine
    python examples/train_swin.py --out runs/mine --resume             continue after Ctrl-C, a crash or a power cut
    python examples/train_swin.py --network my_swin.py                 the class SwinUNet of your own file
    torchrun --nproc_per_node=2 examples/train_swin.py ...             several GPUs, or several CPU processes

DIR is a folder of slices (docs/data/folder.md), or of volumes, whose slices are trained on (docs/data/volumes.md).
Without one, phantoms are drawn into the run's folder.
"""

import sys
from dataclasses import dataclass
from typing import Any, Literal

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (later lungseg.exits does this)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from torch import nn

from lungseg.exits import leave
from lungseg.flags import option
from lungseg.inference import SlidingWindow
from lungseg.nn.swin_unet import SwinUNet
from lungseg.python_file import load_network_class
from lungseg.training.cli import run_script
from lungseg.training.early_stopping import EarlyStopping, monitor_mode
from lungseg.training.ema import averaged_weights
from lungseg.training.loss import make_loss
from lungseg.training.optim import make_optimizer, make_schedules
from lungseg.training.recipe import TrainingRecipe
from lungseg.training.run import Run
from lungseg.training.step import evaluate, train_one_epoch


@dataclass(frozen=True)
class Recipe(TrainingRecipe):
    """Every setting that decides what is learned. The defaults are the demo: small, for phantoms and a laptop."""

    network: str | None = option(
        None, "Python file with a class SwinUNet of your own to train, such as the one of the course; its code runs"
    )
    patch_size: int = option(
        4, "side of a patch in pixels, as published; 2 follows outlines more closely at 4 times the cost"
    )
    embed_dim: int = option(32, "channels after the patch embedding; 96 is published, fewer suffice for phantoms")
    depths: tuple[int, ...] = option(
        (2, 2), "blocks per stage, in pairs of a regular and a shifted one; four stages are published"
    )
    num_heads: tuple[int, ...] = option((2, 4), "attention heads per stage; 16 to 32 channels each are usual")
    window_size: int = option(8, "side of an attention window in tokens; best if it divides every stage's map")
    drop_path_rate: float = option(
        0.0, "stochastic depth of the deepest block; regularises large networks, slows small ones"
    )
    stem: Literal["patch", "conv"] = option(
        "patch",
        "patch is published; conv turns pixels into tokens, and tokens into pixels, by convolutions with skips at full "
        "and half resolution: better outlines, above all of small lesions",
        before="patch",
    )
    conv_channels: tuple[int, ...] = option(
        (16, 32),
        "stem conv: channels at full resolution, at half, ...; each number doubles patch_size",
        before=(16, 32),
    )


RECIPES = {
    # Two and a half minutes on one CPU core. Hence two stages (a third takes half as long again and gains nothing at
    # 64 pixels), small batches for many steps, and only flips, which are learned faster than the full augmentation.
    "demo": Recipe(augment="flips", batch_size=4, lr=7e-4, warmup_epochs=1.0, epochs=15, threads=1),
    # The training of the original report: 224 px, Adam, 0.005, BCE, and a stop after 10 epochs without improvement
    # once 100 are done. It states neither the batch size (8 is what it used for UNETR), nor the largest number of
    # epochs, nor what it monitored. Its learning rate is ten times that of Swin: do not expect good results from it.
    "report": Recipe(
        img_size=224, phantom_view="chest", phantom_slices=6,
        embed_dim=96, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24), window_size=7, drop_path_rate=0.1,
        loss="bce", prior_bias=False, optimizer="adam", lr=0.005, weight_decay=0.0, warmup_epochs=0.0,
        schedule="constant", grad_clip=None, batch_size=8, epochs=200, patience=10, min_epochs=100,
    ),
    # What we would use for whole slices on a GPU; the help text of each field says why.
    "recommended": Recipe(
        img_size=256,  # 224 costs nearly as much and shows less; a nodule of 6 mm is 4 pixels wide
        phantom_view="chest", phantom_slices=6,
        stem="conv", patch_size=8, conv_channels=(32, 64, 128),  # as good as a U-Net on real nodules (docs/results.md)
        embed_dim=96, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24),  # the published tiny size, so that its blocks fit
        window_size=8,  # divides the maps of 32, 16 and 8 tokens, where 7 would pad each of them
        drop_path_rate=0.2,  # that of Swin at this size
        lr=1e-3,  # convolutions before the blocks allow twice the rate of Swin
        warmup_epochs=5.0,  # Swin uses 20 in a longer training
        batch_size=16,  # fits a GPU of 16 GB
        epochs=100,  # long enough for the cosine; the best epoch is kept anyway
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the best epoch, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    return run_script(train, RECIPES, argv, script=__file__, out="runs/swin", description=__doc__)


def train(run: Run) -> float:
    """Network, data, loss, optimizer, schedule; then the epochs; then the test."""
    recipe = run.recipe
    model = run.build(choose_network(recipe), network_arguments(recipe), weights=recipe.weights)
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


def choose_network(recipe: Recipe) -> type[nn.Module]:
    """Ours, or the class of that name in the file of --network."""
    return load_network_class(recipe.network, "SwinUNet") if recipe.network else SwinUNet


def network_arguments(recipe: Recipe) -> dict[str, Any]:
    """The arguments of `SwinUNet`; each checkpoint keeps them, so that it needs no script to be rebuilt."""
    names = ["patch_size", "embed_dim", "depths", "num_heads", "window_size", "drop_path_rate"]
    names += ["stem", "conv_channels"] if recipe.stem == "conv" else []  # a network of your own need not know them
    return {name: getattr(recipe, name) for name in names} | {"head_bias": recipe.prior_bias}


if __name__ == "__main__":
    leave(main())
