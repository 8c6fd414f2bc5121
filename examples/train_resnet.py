"""Train a ResNet50-U-Net to outline lung lesions in CT slices.

    python examples/train_resnet.py                                    phantoms, minutes on one CPU core
    python examples/train_resnet.py --data DIR --recipe recommended --weights resnet50-0676ba61.pth --out runs/mine
    python examples/train_resnet.py --out runs/mine --resume           continue after Ctrl-C, a crash or a power cut
    torchrun --nproc_per_node=2 examples/train_resnet.py ...           several GPUs, or several CPU processes

DIR is a folder of slices (docs/data/folder.md), or of volumes, whose slices are trained on (docs/data/volumes.md).
Without one, phantoms are drawn into the run's folder.
"""

import sys
from dataclasses import dataclass
from typing import Any

if __name__ == "__main__":  # Ctrl-C while torch is imported: no traceback (later lungseg.exits does this)
    sys.excepthook = lambda kind, *rest: kind is KeyboardInterrupt or sys.__excepthook__(kind, *rest)

from lungseg.exits import leave
from lungseg.flags import option
from lungseg.inference import SlidingWindow
from lungseg.nn.resnet_unet import ResNet50UNet
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
    """Every setting that decides what is learned. The defaults are the demo: narrow, for phantoms and a laptop."""

    in_channels: int = option(
        1, "colours into which a grey slice is copied, normalised as in ImageNet; the published weights have 3"
    )
    stem: int = option(16, "channels of the first convolution; 64 are published")
    widths: tuple[int, ...] = option((16, 32, 64, 128), "inner channels of the four stages; 64 128 256 512 published")
    depths: tuple[int, ...] = option((3, 4, 6, 3), "bottlenecks of the four stages; these make it a ResNet-50")
    decoder_channels: tuple[int, ...] = option((64, 32, 32, 16, 16), "of the five steps up; 256 128 64 32 16 published")
    pretrained: str | None = option(None, "another name for --weights, usual for ImageNet weights of the encoder")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.pretrained:
            raise ValueError("--weights and --pretrained must not both be given: they are two names of one option")


NO_IMAGENET = (
    "The encoder starts from random numbers. The report starts from ImageNet weights, which needs far fewer slices: "
    "--weights resnet50-0676ba61.pth (docs/weights.md says where to get it)."
)
PUBLISHED = {"stem": 64, "widths": (64, 128, 256, 512), "decoder_channels": (256, 128, 64, 32, 16)}
RECIPES = {
    "demo": Recipe(lr=1e-3, epochs=25, threads=1),
    # The training of the original report: an encoder from ImageNet, which --weights names, 3 channels in, one logit
    # out, BCE, Adam 1e-4, 100 epochs. It states neither the batch size nor a schedule.
    "report": Recipe(
        img_size=256, phantom_view="chest", phantom_slices=6, in_channels=3, **PUBLISHED,
        loss="bce", prior_bias=False, optimizer="adam", lr=1e-4, weight_decay=0.0, warmup_epochs=0.0,
        schedule="constant", grad_clip=None, batch_size=8, epochs=100,
    ),
    # What we would use for whole slices on a GPU; the help text of each field says why.
    "recommended": Recipe(
        img_size=256, phantom_view="chest", phantom_slices=6,
        in_channels=3, **PUBLISHED,  # as published, so that ImageNet weights fit: they save many slices
        lr=3e-4, weight_decay=0.01, warmup_epochs=2.0, batch_size=16, epochs=100,
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the best epoch, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    return run_script(train, RECIPES, argv, script=__file__, out="runs/resnet", description=__doc__)


def train(run: Run) -> float:
    """Network, data, loss, optimizer, schedule; then the epochs; then the test."""
    recipe = run.recipe
    weights, reminder = recipe.weights or recipe.pretrained, NO_IMAGENET if recipe.in_channels == 3 else ""
    model = run.build(ResNet50UNet, network_arguments(recipe), weights=weights, reminder=reminder)
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
    """The arguments of `ResNet50UNet`; each checkpoint keeps them, so that it needs no script to be rebuilt."""
    names = ("in_channels", "stem", "widths", "depths", "decoder_channels")
    return {name: getattr(recipe, name) for name in names} | {"grey_input": True}


if __name__ == "__main__":
    leave(main())
