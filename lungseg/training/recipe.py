"""What every training decides, whatever its network; and the optimizer and the schedules made from that.

Each script adds the sizes of its network, and names its recipes: `Recipe(lr=0.1, ...)`.
"""

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lungseg.flags import option
from lungseg.losses import bce_loss, dice_bce_loss, dice_loss
from lungseg.training.early_stopping import mode_of
from lungseg.training.optim import reduce_on_plateau
from lungseg.training.step import warmup_cosine, weight_decay_groups
from lungseg.typed import short

LOSSES = {"bce": bce_loss, "dice": dice_loss, "dice_bce": dice_bce_loss}
AUTOCAST = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
POSITIVE = ("lr", "grad_clip")
NOT_NEGATIVE = (
    "weight_decay", "warmup_epochs", "min_epochs", "min_lr", "momentum", "patience", "plateau_patience", "foreground",
    "freeze_encoder", "threads",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that decides what is learned, but for the network."""

    # data
    img_size: int = option(
        64, "slices: side in pixels to which they are resized; twice the side costs four times as much"
    )
    augment: Literal["none", "flips", "full"] = option(
        "full",
        "variations of training slices; full: rotation, flips, elastic, brightness, contrast; volumes: flips only",
    )
    phantom_view: Literal["chest", "nodule"] = option(
        "nodule", "slices, if no --data is given: whole phantoms, or windows round a nodule, which are learned sooner"
    )
    phantom_patients: int = option(
        600, "slices: phantom patients to draw; many patients teach more than many slices of a few"
    )
    phantom_slices: int = option(2, "slices: how many of each phantom patient")

    # the start
    weights: str | None = option(
        None, "file of weights to start from: best.pt of another run, or a published one (docs/weights.md)"
    )
    freeze_encoder: int = option(
        0, "epochs for which the encoder stays as it was loaded, batch norms too, while the rest learns to read it"
    )
    prior_bias: bool = option(
        True, "start a fresh head at the lesions' share of the pixels, not at 1/2: saves the steps that only learn it"
    )

    # optimization
    loss: Literal["bce", "dice", "dice_bce"] = option(
        "dice_bce", "bce alone is nearly content with all background when lesions are tiny; Dice is not"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = option(
        "adamw", "adamw keeps weight decay apart from the gradient's scale; sgd takes every gradient as large as it is"
    )
    lr: float = option(5e-4, "peak learning rate, Swin's; at 2e-3 the outcome is a matter of luck (docs/training.md)")
    momentum: float = option(0.9, "of sgd: share of the last step that is kept; 0 is Keras' default")
    weight_decay: float = option(0.05, "pull of weight matrices towards 0; 0.05 is Swin's")
    warmup_epochs: float = option(2.0, "epochs of rising learning rate: Adam's averages are unreliable at first")
    schedule: Literal["constant", "cosine", "plateau"] = option(
        "cosine", "cosine ends with small, settling steps; plateau lowers the rate when the score stops improving"
    )
    plateau_patience: int = option(10, "of plateau: epochs without a better score before the rate is divided by ten")
    min_lr: float = option(1e-7, "of plateau: the rate is never set lower")
    grad_clip: float | None = option(1.0, "largest norm of the gradient; one odd batch must not undo an epoch")
    batch_size: int = option(8, "samples per optimizer step, over all processes together; fewer samples, more steps")
    accumulate: int = option(1, "parts in which a batch is computed, to save memory; the step stays the same")
    epochs: int = option(35, "most passes over the training slices")
    patience: int | None = option(None, "stop after so many epochs without a better score; none: the cosine is the end")
    min_epochs: int = option(0, "never stop before so many epochs are done")
    monitor: Literal["dice", "iou", "loss"] = option("dice", "validation score that decides which epoch is the best")
    amp: Literal["auto", "none", "bf16", "fp16"] = option(
        "auto", "number type of the forward pass; auto: bf16 on a CUDA GPU, float32 (none) elsewhere; bf16 is faster "
        "on CPUs that have it; fp16 is for CUDA GPUs before Ampere"
    )  # fmt: skip
    threads: int = option(
        0, "of the CPU; 0: as many as torch chooses. On small tensors they only wait for each other, so 1 is as fast"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if value == "":
                raise ValueError(f"{f.name} is empty, as of a variable that is not set")
            if isinstance(value, str | bool) or value is None:
                continue
            if not numbers:
                raise ValueError(f"{f.name} must name at least one number")
            if any(isinstance(n, int) and n >= 2**31 for n in numbers):
                raise ValueError(f"{f.name}={short(value)} must be below 2^31 = 2,147,483,648")
            if f.name in POSITIVE and not value > 0:
                raise ValueError(f"{f.name}={value} must be positive")
            if f.name in NOT_NEGATIVE and not value >= 0:
                raise ValueError(f"{f.name}={value} must not be negative")
            if all(isinstance(n, int) for n in numbers) and f.name not in NOT_NEGATIVE and min(numbers) < 1:
                raise ValueError(f"{f.name}={value} must be at least 1")
            if not all(math.isfinite(n) for n in numbers):
                raise ValueError(f"{f.name}={value} must be a finite number")
        if self.schedule == "plateau" and self.warmup_epochs > 0:
            raise ValueError(
                f"--schedule plateau sets the rate itself, so it must have --warmup-epochs 0, not {self.warmup_epochs}"
            )


@dataclass(frozen=True)
class VolumeRecipe(TrainingRecipe):
    """For the networks that also take volumes: what is learned from them. Slices have no use for these fields."""

    spatial_dims: Literal[2, 3] = option(2, "2 trains on slices, 3 on volumes (docs/data/volumes.md)")
    crop_size: tuple[int, ...] = option((16, 32, 32), "volumes: slices, rows and columns of a training crop")
    crops_per_volume: int = option(2, "volumes: crops drawn from each volume in an epoch")
    foreground: float = option(0.5, "volumes: share of crops that must hold a lesion; most would hold none")
    phantom_volumes: int = option(240, "volumes: phantom patients to draw")
    phantom_shape: tuple[int, ...] = option((16, 40, 40), "volumes: slices, rows and columns of a phantom")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("crop_size", "phantom_shape"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}={getattr(self, name)} must name three sides: slices, rows and columns")
        if self.foreground > 1:
            raise ValueError(f"foreground={self.foreground} must be a share from 0 to 1")


def from_older_version(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run as this version would have written them, so that it goes on with the same numbers."""
    added = {"weights": None, "freeze_encoder": 0, "threads": 0}
    if settings.get("amp") == "bf16" and "freeze_encoder" not in settings:
        settings = settings | {"amp": "auto"}  # then bf16 was the default, and on a CPU it meant float32
    return added | settings


def autocast_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The number type of the forward pass; None is float32. float16 is for CUDA GPUs only: elsewhere it is float32."""
    if amp == "auto":
        amp = "bf16" if device.type == "cuda" else "none"
    if amp == "fp16" and device.type != "cuda":
        amp = "none"
    return AUTOCAST[amp]


def about_precision(amp: str, device: torch.device) -> str:
    """What somebody should know who asked for a number type on a device that is not made for it; usually nothing."""
    if amp == "fp16" and device.type != "cuda":
        return "--amp fp16 is for CUDA GPUs: this run computes in float32."
    if amp == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "This processor has no bfloat16 arithmetic: --amp bf16 will be slower than --amp none."
    return ""


def make_optimizer(recipe: TrainingRecipe, model: nn.Module) -> Optimizer:
    """Adam, AdamW or SGD over all parameters; weight decay only where it regularises."""
    groups = weight_decay_groups(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    # Fused: one call for all parameters. On a CPU torch else loops over them, a tenth of each step of a small network.
    optimizer = kind(groups, lr=recipe.lr, fused=True)
    optimizer.register_load_state_dict_post_hook(_as_it_was_saved)
    return optimizer


def _as_it_was_saved(optimizer: Optimizer) -> None:
    """Of a run begun without `fused`, load_state_dict also switches that off, and so the run keeps its digits.

    It forgets to tell the GradScaler (of --amp fp16), which would go on handing over what only the fused step takes.
    """
    optimizer._step_supports_amp_scaling = all(group["fused"] for group in optimizer.param_groups)


def make_schedules(
    recipe: TrainingRecipe, optimizer: Optimizer, steps_per_epoch: int
) -> tuple[LambdaLR | None, ReduceLROnPlateau | None]:
    """What is stepped after every optimizer step, and what after every epoch: one of them, the other is None."""
    if recipe.schedule == "plateau":
        mode = mode_of(recipe.monitor)
        return None, reduce_on_plateau(optimizer, mode, patience=recipe.plateau_patience, min_lr=recipe.min_lr)
    curve = partial(  # warm-up, then a cosine down to 1 % of the peak, or (floor 1) the peak for ever
        warmup_cosine,
        warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
        total_steps=recipe.epochs * steps_per_epoch,
        floor=0.01 if recipe.schedule == "cosine" else 1.0,
    )
    return LambdaLR(optimizer, curve), None
