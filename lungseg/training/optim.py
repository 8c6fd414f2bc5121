"""Lower the learning rate when a score stops improving, counting epochs as Keras does.

torch has the scheduler, but counts otherwise. This is the translation.
"""

from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


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
    """torch's scheduler with the meaning, and the defaults, of Keras' `ReduceLROnPlateau`.

    Call `.step(value)` once after every epoch, with the value it ended with.

    Args:
        mode: "max" if larger is better, "min" if smaller is.
        patience: the rate is lowered at the end of the patience-th epoch in a row without improvement (torch: one
            epoch later). 0 means what 1 means.
        factor: the new rate is this multiple of the old one.
        min_delta: an improvement is a change of more than this in the units of the value (torch: relative, so that
            of -0.5 a slightly worse -0.49996 counts as better).
        cooldown: after the rate was lowered, the count begins anew with the cooldown-th epoch (torch: after it).
        min_lr: the rate is never set lower than this. (torch also ignores changes below 1e-8; here none is.)

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
