"""The optimizer and its learning rate: weight-decay groups, warm-up and cosine, or a plateau counted as Keras does."""

import math
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lungseg.training.early_stopping import monitor_mode
from lungseg.training.recipe import TrainingRecipe

# ---- the optimizer ----------------------------------------------------------------------------------------------


def make_optimizer(recipe: TrainingRecipe, model: nn.Module) -> Optimizer:
    """Adam, AdamW or SGD over all parameters, with weight decay only where it regularises."""
    groups = weight_decay_groups(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    # Fused: one call for all parameters. Otherwise torch loops over them on a CPU: a tenth of a small network's step.
    optimizer = kind(groups, lr=recipe.lr, fused=True)
    optimizer.register_load_state_dict_post_hook(_keep_saved_kind)
    return optimizer


def _keep_saved_kind(optimizer: Optimizer) -> None:
    """A run that began without `fused` resumes without it, and so keeps its digits: load_state_dict sees to that.

    But it does not change the attribute that the GradScaler (of --amp fp16) looks at, which would continue to pass
    arguments that only the fused step accepts.
    """
    optimizer._step_supports_amp_scaling = all(g["fused"] for g in optimizer.param_groups)  # type: ignore[attr-defined]


def weight_decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: decay for weight matrices and kernels; none for biases, norms and bias tables.

    The gain of a norm belongs near 1 and a bias may be anything, so pulling them towards 0 does not regularise. The
    relative position bias is excluded too, as in Swin (Liu et al. 2021).
    """
    decay: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        plain = p.ndim < 2 or name.endswith("relative_position_bias_table")
        (rest if plain else decay).append(p)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


# ---- its learning rate ------------------------------------------------------------------------------------------


def make_schedules(
    recipe: TrainingRecipe, optimizer: Optimizer, steps_per_epoch: int
) -> tuple[LambdaLR | None, ReduceLROnPlateau | None]:
    """(schedule, plateau): stepped after every optimizer step and after every epoch; one of them is None."""
    if recipe.schedule == "plateau":
        mode = monitor_mode(recipe.monitor)
        return None, reduce_on_plateau(optimizer, mode, patience=recipe.plateau_patience, min_lr=recipe.min_lr)
    curve = partial(  # warm-up, then a cosine down to 1 % of the peak, or (floor 1) a constant
        warmup_cosine,
        warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
        total_steps=recipe.epochs * steps_per_epoch,
        floor=0.01 if recipe.schedule == "cosine" else 1.0,
    )
    return LambdaLR(optimizer, curve), None


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, floor: float = 0.01) -> float:
    """The learning rate of a step as a fraction of its peak, for `torch.optim.lr_scheduler.LambdaLR`.

    It rises linearly over the first warmup_steps, then follows half a cosine (Loshchilov and Hutter 2017, equation 5,
    without restarts) down to `floor` times the peak.

    Args:
        step: optimizer steps done so far, from 0.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps  # never 0: the first step would be wasted
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2


def reduce_on_plateau(
    optimizer: Optimizer,
    mode: Literal["max", "min"],
    *,
    patience: int = 10,
    factor: float = 0.1,
    min_delta: float = 1e-4,
    cooldown: int = 0,
    min_lr: float = 0.0,
) -> ReduceLROnPlateau:
    """torch's scheduler with the meaning and the defaults of Keras' `ReduceLROnPlateau`.

    torch has the scheduler, but counts differently; this translates. Call `.step(value)` once after every epoch.

    Args:
        mode: "max" if larger is better, "min" if smaller is.
        patience: the rate is lowered at the end of the patience-th epoch in a row without improvement (torch: one
            epoch later). 0 means what 1 means.
        factor: the new rate is this multiple of the old one.
        min_delta: an improvement is a change of more than this in the units of the value (torch's default is
            relative: after -0.5, a slightly worse -0.49996 counts as better).
        cooldown: after the rate was lowered, counting starts again with the cooldown-th epoch (torch: after it).
        min_lr: lower bound of the rate. (torch also ignores changes below 1e-8; here none is ignored.)

    Raises:
        ValueError: for another mode, a negative patience, cooldown or min_lr, or a factor outside (0, 1).
    """
    if mode not in ("max", "min") or not 0 < factor < 1 or min(patience, cooldown, min_lr) < 0:
        raise ValueError(
            f'reduce_on_plateau: mode={mode!r} must be "max" or "min", factor={factor} between 0 and 1, and '
            f"patience={patience}, cooldown={cooldown} and min_lr={min_lr} must not be negative."
        )
    return ReduceLROnPlateau(
        optimizer,
        mode,
        factor=factor,
        patience=max(patience, 1) - 1,
        threshold=min_delta,
        threshold_mode="abs",
        cooldown=max(cooldown, 1) - 1,
        min_lr=min_lr,
        eps=0.0,
    )
