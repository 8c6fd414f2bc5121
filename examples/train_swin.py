"""Train a Swin-UNet to outline lung lesions in CT slices.

    python examples/train_swin.py                                      phantoms, minutes on two CPU cores
    python examples/train_swin.py --data DIR --recipe recommended --out runs/mine
    python examples/train_swin.py --out runs/mine --resume             go on after Ctrl-C, a crash or a power cut
    torchrun --nproc_per_node=2 examples/train_swin.py ...             several GPUs, or several CPU processes

DIR is a folder of slices (docs/data/folder.md). Without one, phantoms are drawn into the run's folder.
"""

import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LambdaLR

from lungseg import __version__
from lungseg.baselines import lesion_fraction
from lungseg.checkpoint import load_checkpoint, save_checkpoint
from lungseg.data.folder import SliceDataset
from lungseg.datasets import Phantoms, find_data, fingerprint, read_data
from lungseg.distributed import Processes, held_out_batches, start_processes, train_batches
from lungseg.early_stopping import EarlyStopping, mode_of
from lungseg.losses import bce_loss, dice_bce_loss, dice_loss
from lungseg.nn.swin_unet import SwinUNet
from lungseg.recipe import option, parse_recipe
from lungseg.run import RunLog, RunOptions, check_same_run, machine, open_run, rng_state, seed_everything, set_rng_state
from lungseg.summary import epoch_line, write_summary
from lungseg.training import (
    Evaluation,
    evaluate,
    keep_freed_memory,
    train_one_epoch,
    warmup_cosine,
    weight_decay_groups,
)
from lungseg.weights import load_published


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned. The defaults are the demo: small, for phantoms and a laptop."""

    # data
    img_size: int = option(64, "side in pixels to which slices are resized; twice the side costs four times as much")
    augment: Literal["none", "flips", "full"] = option(
        "full",
        "variations of training slices; full = rotation, flips, elastic, brightness, contrast: more to learn from",
    )
    phantom_view: Literal["chest", "nodule"] = option(
        "nodule", "phantoms, if no --data is given: whole slices, or windows round a nodule, which are learned sooner"
    )
    phantom_patients: int = option(600, "phantom patients to draw; many patients teach more than many slices of a few")
    phantom_slices: int = option(2, "slices of each phantom patient")

    # network
    patch_size: int = option(
        4, "side of a patch in pixels, as published; 2 follows outlines more closely at 4 times the cost"
    )
    embed_dim: int = option(32, "channels after the patch embedding; 96 is published, fewer suffice for phantoms")
    depths: tuple[int, ...] = option((2, 2, 2), "blocks per stage, in pairs of a regular and a shifted one")
    num_heads: tuple[int, ...] = option((2, 4, 8), "attention heads per stage; 16 to 32 channels each are usual")
    window_size: int = option(8, "side of an attention window in tokens; best if it divides every stage's map")
    drop_path_rate: float = option(
        0.0, "stochastic depth of the deepest block; regularises large networks, slows small ones"
    )
    prior_bias: bool = option(
        True, "start the head at the lesions' share of the pixels, not at 1/2: saves the steps that only learn it"
    )

    # optimization
    loss: Literal["bce", "dice", "dice_bce"] = option(
        "dice_bce", "bce alone is nearly content with all background when lesions are tiny; Dice is not"
    )
    optimizer: Literal["adam", "adamw"] = option("adamw", "adamw keeps weight decay apart from the gradient's scale")
    lr: float = option(5e-4, "peak learning rate, Swin's; at 2e-3 the outcome is a matter of luck (docs/training.md)")
    weight_decay: float = option(0.05, "pull of weight matrices towards 0; 0.05 is Swin's")
    warmup_epochs: float = option(2.0, "epochs of rising learning rate: Adam's averages are unreliable at first")
    schedule: Literal["constant", "cosine"] = option("cosine", "cosine ends with small, settling steps")
    grad_clip: float | None = option(1.0, "largest norm of the gradient; one odd batch must not undo an epoch")
    batch_size: int = option(8, "slices per optimizer step, over all processes together; fewer slices, more steps")
    accumulate: int = option(1, "parts in which a batch is computed, to save memory; the step stays the same")
    epochs: int = option(35, "most passes over the training slices")
    patience: int | None = option(None, "stop after so many epochs without a better score; none: the cosine is the end")
    min_epochs: int = option(0, "never stop before so many epochs are done")
    monitor: Literal["dice", "iou", "loss"] = option("dice", "validation score that decides which epoch is the best")
    amp: Literal["none", "bf16", "fp16"] = option(
        "bf16", "number type of the forward pass on a GPU (the CPU always uses float32); fp16 for GPUs before Ampere"
    )

    weights: str | None = option(
        None, "published checkpoint to start from (docs/weights.md): Swin-Unet's own, or Swin-T from ImageNet"
    )

    def __post_init__(self) -> None:
        sizes = ["img_size", "patch_size", "embed_dim", "window_size", "batch_size", "accumulate", "epochs"]
        for name in [*sizes, "phantom_patients", "phantom_slices", "depths", "num_heads"]:
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        for name in ("lr", "grad_clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive")
        for name in ("weight_decay", "warmup_epochs", "min_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")


RECIPES = {
    "demo": Recipe(),
    # The training of the original report: 224 px, Adam, 0.005, BCE, and a stop after 10 epochs without improvement
    # once 100 are done. It states neither the batch size (8 is what it used for UNETR), nor the largest number of
    # epochs, nor what it monitored. Its learning rate is ten times Swin's own: do not expect it to be a good one.
    "report": Recipe(
        img_size=224, phantom_view="chest", phantom_slices=6,
        embed_dim=96, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24), window_size=7, drop_path_rate=0.1,
        loss="bce", prior_bias=False, optimizer="adam", lr=0.005, weight_decay=0.0, warmup_epochs=0.0,
        schedule="constant", grad_clip=None, batch_size=8, epochs=200, patience=10, min_epochs=100,
    ),
    # What we would use for whole slices on a GPU; the help of each field says why.
    "recommended": Recipe(
        img_size=256,  # as 224 costs nearly the same and shows less; a nodule of 6 mm is 4 pixels wide
        phantom_view="chest", phantom_slices=6,
        embed_dim=96, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24),  # the published tiny size, so that its weights fit
        window_size=8,  # divides the maps of 64, 32, 16 and 8 tokens, where 7 would pad each of them
        drop_path_rate=0.2,  # Swin's for this size
        lr=5e-4,  # Swin's base rate, a tenth of the report's
        warmup_epochs=5.0,  # Swin takes 20 of a longer training
        batch_size=16,  # fits a GPU of 16 GB
        epochs=100,  # long enough for the cosine; the best epoch is kept in any case
    ),
}  # fmt: skip

LOSSES = {"bce": bce_loss, "dice": dice_loss, "dice_bce": dice_bce_loss}
AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(argv: list[str] | None = None) -> float | int:
    """Return the mean test Dice of the best epoch, or an exit code: 2 for what the user can mend, 130 for Ctrl-C."""
    options = replace(RunOptions(), out=Path("runs/swin"))
    recipe, options, given = parse_recipe(RECIPES, options, argv, description=__doc__)
    try:
        with start_processes(options.device) as processes:
            return train(recipe, options, given, processes)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"train_swin.py: {error}", file=sys.stderr)
        return 2
    except torch.OutOfMemoryError:
        print("train_swin.py: too little GPU memory. Halve --batch-size, or set --accumulate 2.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nStopped. {how_to_go_on(options.out)}", file=sys.stderr)
        return 130


def train(recipe: Recipe, options: RunOptions, given: dict[str, Any], processes: Processes) -> float:
    """Recipe, network, data, loss, optimizer, schedule; then the epochs; then the test."""
    recipe, options, saved = begin(recipe, options, given, processes)
    out, device = options.out, processes.device
    seed_everything(options.seed, device)
    model = SwinUNet(**network_arguments(recipe))  # before any file: a recipe it refuses shall leave no trace
    with processes.main_first():
        data = find_data(options.data, out, phantoms_of(recipe, options.seed))
    run = {**asdict(recipe), "seed": options.seed, "processes": processes.size, "slices": fingerprint(data)}
    check_same_run(saved["run"] if saved else run, run, out)

    train_set, val_set, test_set = read_data(data, recipe.img_size, recipe.augment, options.seed)
    if recipe.monitor != "loss" and not any(target.any() for _, target, _ in val_set):
        raise ValueError(f"No validation slice of {data} holds a lesion, so no epoch could be the best by Dice.")
    share = {"num_workers": options.num_workers, "processes": processes}
    train_loader = train_batches(train_set, recipe.batch_size, seed=options.seed, **share)
    val_loader = held_out_batches(val_set, recipe.batch_size, **share)
    test_loader = held_out_batches(test_set, recipe.batch_size, **share)

    if recipe.weights and not saved:
        print(load_published(model, recipe.weights))
    if recipe.prior_bias and not saved:
        p = lesion_fraction(train_set)
        nn.init.constant_(model.head.bias, math.log(p / (1 - p)))  # whose sigmoid is p
    model.to(device)
    if options.compile:
        model.compile()
    parallel = processes.wrap(model)
    loss_fn = LOSSES[recipe.loss]
    optimizer = make_optimizer(recipe, model)
    schedule = make_schedule(recipe, optimizer, steps_per_epoch=len(train_loader))
    stopping = EarlyStopping(recipe.patience, mode_of(recipe.monitor), min_epochs=recipe.min_epochs)
    autocast_dtype = AUTOCAST[recipe.amp] if device.type == "cuda" else None
    scaler = GradScaler(device.type, enabled=autocast_dtype is torch.float16)
    learned = {"model": model, "optimizer": optimizer, "schedule": schedule, "stopping": stopping, "scaler": scaler}

    seed_everything(options.seed + processes.rank, device)  # each process draws drop-outs of its own
    if saved:
        restore(learned, saved, processes)
    log = open_log(recipe, options, saved, processes)
    look = partial(evaluate, model, loss_fn=loss_fn, autocast_dtype=autocast_dtype, processes=processes)
    for epoch in range(recipe.epochs if stopping.stop else stopping.epochs, recipe.epochs):
        started = time.perf_counter()
        train_set.set_epoch(epoch)
        train_loader.batch_sampler.set_epoch(epoch)
        train_loss = train_one_epoch(
            parallel, train_loader, loss_fn, optimizer, schedule=schedule, grad_clip=recipe.grad_clip,
            accumulate=recipe.accumulate, autocast_dtype=autocast_dtype, scaler=scaler, processes=processes,
            title=f"epoch {epoch + 1}/{recipe.epochs}, best {recipe.monitor} {best_so_far(stopping)}",
        )  # fmt: skip
        val = look(val_loader).scores
        is_best = stopping.update(val[recipe.monitor])
        log.write(
            epoch=epoch + 1, train_loss=train_loss, val=val, lr=schedule.get_last_lr()[0], is_best=is_best,
            seconds=round(time.perf_counter() - started, 2),
        )  # fmt: skip
        state = snapshot(learned, recipe, options, run, log, processes)
        if processes.is_main:
            print(epoch_line(epoch + 1, recipe.epochs, train_loss, val, is_best), flush=True)
            if is_best:  # before last.pt: a kill in between repeats this epoch and ends with the same best.pt
                save_checkpoint(out / "best.pt", state)
            save_checkpoint(out / "last.pt", state, keep_previous=True)
        if stopping.stop:
            break

    with processes.main_first():  # it has written the file that the others wait for
        model.load_state_dict(load_best(out)["model"])
    test = look(test_loader, title="test")
    if processes.is_main:
        say_how_good(log, test, model, SliceDataset(data, "train", size=recipe.img_size), test_set)
    return test.scores["dice"]


# ---- beginning --------------------------------------------------------------------------------------------------


def begin(
    recipe: Recipe, options: RunOptions, given: dict[str, Any], processes: Processes
) -> tuple[Recipe, RunOptions, dict[str, Any] | None]:
    """A new run as asked for, or an old one as it was started, with the checkpoint to go on from."""
    if processes.device.type == "cpu":
        keep_freed_memory()
    saved = open_run(options, processes)
    if saved:
        if saved["network"]["name"] != "SwinUNet" or saved["recipe"].keys() != asdict(recipe).keys():
            raise ValueError(f"The run in {options.out} is of another script or version. Resume it with that one.")
        check_same_run(saved["run"], given, options.out)
        recipe = Recipe(**saved["recipe"])
        data = options.data or (saved["data"] and Path(saved["data"]))
        options = replace(options, seed=saved["run"]["seed"], data=data)
    elif options.resume and (options.out / "recipe.json").exists():  # it was stopped in its first epoch
        settings = json.loads((options.out / "recipe.json").read_text())
        recipe_then = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["recipe"].items()}
        check_same_run({**recipe_then, "seed": settings["seed"]}, given, options.out)
        recipe = Recipe(**recipe_then)
        data = options.data or (settings["data"] and Path(settings["data"]))
        options = replace(options, seed=settings["seed"], data=data)
    return recipe, options, saved


def how_to_go_on(out: Path) -> str:
    """What Ctrl-C leaves behind, and the command that goes on from there."""
    size = os.environ.get("WORLD_SIZE", "1")
    command = f"python {sys.argv[0]}" if size == "1" else f"torchrun --nproc_per_node={size} {sys.argv[0]}"
    if (out / "last.pt").exists():
        return f"All finished epochs are saved, the running one is repeated; go on with: {command} --out {out} --resume"
    if (out / "recipe.json").exists():
        return f"No epoch was finished; begin again with: {command} --out {out} --resume"
    return "Nothing was trained yet; begin with the same command and --resume."


def open_log(recipe: Recipe, options: RunOptions, saved: dict[str, Any] | None, processes: Processes) -> RunLog:
    """The log, where the checkpoint left it; or a new one, with recipe.json beside it."""
    out = options.out
    if saved or not processes.is_main:
        return RunLog(out / "log.jsonl", position=saved and saved["log_position"], enabled=processes.is_main)
    out.mkdir(parents=True, exist_ok=True)
    (out / "best.pt").unlink(missing_ok=True)  # of a start that did not get as far as its first last.pt
    settings = {"recipe": asdict(recipe), "seed": options.seed, "processes": processes.size, "data": options.data}
    temporary = out / ".recipe.json.partial"
    temporary.write_text(json.dumps(settings, indent=1, default=str) + "\n")
    os.replace(temporary, out / "recipe.json")  # all of it or nothing: --resume reads it
    log = RunLog(out / "log.jsonl")
    log.write(**settings, **machine(processes.device))
    return log


def network_arguments(recipe: Recipe) -> dict[str, Any]:
    """What `SwinUNet` is built from; kept in each checkpoint, so that it can be built again without this script."""
    names = ("patch_size", "embed_dim", "depths", "num_heads", "window_size", "drop_path_rate")
    return {name: getattr(recipe, name) for name in names} | {"head_bias": recipe.prior_bias}


def phantoms_of(recipe: Recipe, seed: int) -> Phantoms:
    """What to draw if there is no data."""
    r = recipe
    return Phantoms(r.phantom_view, r.phantom_patients, r.phantom_slices, size=r.img_size, seed=seed)


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(weight_decay_groups(model, recipe.weight_decay), lr=recipe.lr)


def make_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> LambdaLR:
    """Warm-up, then a cosine down to 1 % of the peak, or (floor 1) the peak for ever."""
    curve = partial(
        warmup_cosine,
        warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
        total_steps=recipe.epochs * steps_per_epoch,
        floor=0.01 if recipe.schedule == "cosine" else 1.0,
    )
    return LambdaLR(optimizer, curve)


# ---- saving and going on ----------------------------------------------------------------------------------------


def snapshot(
    learned: dict[str, Any],
    recipe: Recipe,
    options: RunOptions,
    run: dict[str, Any],
    log: RunLog,
    processes: Processes,
) -> dict[str, Any]:
    """All that decides how the run goes on, as plain types and tensors."""
    return {name: part.state_dict() for name, part in learned.items()} | {
        "recipe": asdict(recipe),
        "network": {"name": "SwinUNet", "arguments": network_arguments(recipe)},
        "data": options.data and str(options.data),
        "run": run,
        "log_position": log.position,
        "rng": processes.gather(rng_state()),
        "lungseg": __version__,
    }


def restore(learned: dict[str, Any], saved: dict[str, Any], processes: Processes) -> None:
    """Undo everything since `snapshot`."""
    for name, part in learned.items():
        part.load_state_dict(saved[name])
    set_rng_state(saved["rng"][processes.rank])


def best_so_far(stopping: EarlyStopping) -> str:
    return "none yet" if stopping.best is None else f"{stopping.best:.3f}"


def load_best(out: Path) -> dict[str, Any]:
    if not (out / "best.pt").exists():
        raise ValueError(f"No epoch of {out} had a validation score. Does any validation slice hold a lesion?")
    return load_checkpoint(out / "best.pt")


def say_how_good(log: RunLog, test: Evaluation, model: nn.Module, train: SliceDataset, held_out: SliceDataset) -> None:
    split = held_out.records[0].split
    if split != "test":
        print("There is no test split: these are the slices that chose the epoch, so their scores flatter.")
    print(write_summary(log, test, model, train, held_out, split=split))


if __name__ == "__main__":
    outcome = main()
    sys.exit(outcome if isinstance(outcome, int) else 0)
