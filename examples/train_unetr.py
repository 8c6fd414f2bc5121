"""Train a UNETR to outline lung lesions in CT slices, or in volumes.

    python examples/train_unetr.py                                     phantom slices, minutes on one CPU core
    python examples/train_unetr.py --recipe volumes                    phantom volumes, likewise
    python examples/train_unetr.py --data DIR --recipe recommended --out runs/mine
    python examples/train_unetr.py --out runs/mine --resume            continue after Ctrl-C, a crash or a power cut
    torchrun --nproc_per_node=2 examples/train_unetr.py ...            several GPUs, or several CPU processes

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
from lungseg.nn.unetr import UNETR
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

    patch_size: int = option(
        8, "side of a patch in pixels, a power of two; 16 is published, but holds a whole nodule in one token"
    )
    embed_dim: int = option(96, "channels of a token; 768 is published")
    depth: int = option(6, "transformer blocks; 12 are published")
    num_heads: int = option(3, "attention heads; 32 to 64 channels each are usual")
    feature_size: int = option(8, "channels of the decoder at full resolution; 16 are published")
    skip_layers: tuple[int, ...] = option(
        (2, 4), "blocks, counted from 1, whose tokens the decoder reads: one fewer than halvings in a patch"
    )
    attn_scale: Literal["sqrt", "head_dim"] = option(
        "sqrt", "divisor of q k^T; head_dim is what the report prints, and makes attention nearly uniform"
    )
    drop_rate: float = option(0.0, "dropout in the transformer")
    norm: Literal["instance", "batch"] = option(
        "instance", "of the convolutions; instance is published, batch keeps absolute grey values", before="instance"
    )


RECIPES = {
    "demo": Recipe(epochs=22, threads=1),
    # Volumes in minutes: a third axis multiplies the patches, so everything is smaller.
    "volumes": Recipe(
        spatial_dims=3, augment="flips",
        embed_dim=96, depth=4, num_heads=3, skip_layers=(1, 2), epochs=18, batch_size=8, lr=1e-3, threads=1,
    ),
    # The training of the original report: SGD 0.1, batches of 8, 100 epochs, the best kept, the rate lowered when the
    # score stops improving but never below 1e-7, and a stop after 20 epochs without improvement. It states neither the
    # momentum (0 is Keras' default), nor what was monitored (Keras: the validation loss), nor patience and factor of
    # the plateau (Keras: 10 and 0.1), nor the loss (BCE is what it used for the others). It prints a softmax scale of
    # K_h; add --attn-scale head_dim to see what that does (docs/nn/unetr.md).
    "report": Recipe(
        img_size=256, phantom_view="chest", phantom_slices=6,
        patch_size=16, embed_dim=768, depth=12, num_heads=12, feature_size=16, skip_layers=(3, 6, 9),
        loss="bce", prior_bias=False, optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, warmup_epochs=0.0,
        schedule="plateau", plateau_patience=10, min_lr=1e-7, grad_clip=None, batch_size=8, epochs=100, patience=20,
        monitor="loss",
    ),
    # What we would use for whole slices on a GPU; the help text of each field says why.
    "recommended": Recipe(
        img_size=256, phantom_view="chest", phantom_slices=6,
        patch_size=8,  # a nodule of 6 mm is 4 pixels wide: half a patch, not a quarter
        embed_dim=384, depth=12, num_heads=6, feature_size=16, skip_layers=(4, 8),  # ViT-S
        drop_rate=0.1,
        lr=3e-4, warmup_epochs=10.0,  # low and slow, for a transformer without pre-training
        batch_size=16, epochs=150,
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the best epoch, or an exit code: 2 for what the user can fix, 130 for Ctrl-C."""
    return run_script(train, RECIPES, argv, script=__file__, out="runs/unetr", description=__doc__)


def train(run: Run) -> float:
    """Network, data, loss, optimizer, schedule; then the epochs; then the test."""
    recipe = run.recipe
    model = run.build(UNETR, network_arguments(recipe), weights=recipe.weights)
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
    """The arguments of `UNETR`; each checkpoint keeps them, so that it needs no script to be rebuilt."""
    names = ["patch_size", "embed_dim", "depth", "num_heads", "feature_size", "skip_layers", "attn_scale", "drop_rate"]
    names += ["norm"] if recipe.norm != "instance" else []  # as in checkpoints of before there was a choice
    img_size = recipe.crop_size if recipe.spatial_dims == 3 else recipe.crop_side or recipe.img_size
    sizes = {"spatial_dims": recipe.spatial_dims, "img_size": img_size}
    return sizes | {name: getattr(recipe, name) for name in names}


if __name__ == "__main__":
    leave(main())
