"""When to stop a training, and which epoch was the best."""

import math
from typing import Any, Literal

KNOWN_MODES = {"dice": "max", "iou": "max", "precision": "max", "recall": "max", "loss": "min", "rmse": "min"}

STATE = ("best", "best_epoch", "epochs", "stop")


class EarlyStopping:
    """Remember the best epoch, and say when there has been no better one for long enough.

    Epochs are counted as Keras does: training stops at the end of the `patience`-th epoch in a row that did not
    improve. Differently from Keras, the best epoch is tracked from the first on, also during the first
    `min_epochs` (Keras's start_from_epoch ignores them), and NaN is never the best (Keras keeps a NaN that comes
    first for ever). On a tie the earlier epoch stays the best.

    Args:
        patience: epochs without improvement; None never stops.
        mode: "max" if larger is better, "min" if smaller is; `mode_of("dice")` knows the usual names.
        min_delta: an improvement is a change of more than this, in the units of the value (not relative).
        min_epochs: never stop before this many epochs are done.
    """

    def __init__(
        self, patience: int | None, mode: Literal["max", "min"], *, min_delta: float = 0.0, min_epochs: int = 0
    ):
        if mode not in ("max", "min"):
            raise ValueError(f'EarlyStopping: mode={mode!r} must be "max" (larger is better) or "min".')
        self.patience, self.mode, self.min_delta, self.min_epochs = patience, mode, min_delta, min_epochs
        self.best, self.best_epoch, self.epochs, self.stop = None, None, 0, False

    def update(self, value: float) -> bool:
        """Take the value of the epoch that has just ended; return whether it is the best so far."""
        gain = math.inf if self.best is None else (value - self.best) * (1 if self.mode == "max" else -1)
        is_best = math.isfinite(value) and gain > self.min_delta
        self.epochs += 1
        if is_best:
            self.best, self.best_epoch = value, self.epochs
        waited = self.epochs - (self.best_epoch or 0)
        self.stop = self.patience is not None and waited >= max(self.patience, 1) and self.epochs >= self.min_epochs
        return is_best

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in STATE:
            setattr(self, name, state[name])


def mode_of(name: str) -> Literal["max", "min"]:
    """Is a larger or a smaller value better? Known names only: a guess would keep the worst network."""
    if name not in KNOWN_MODES:
        known = ", ".join(KNOWN_MODES)
        raise ValueError(f"mode_of: is a larger {name!r} better? Say mode='max' or 'min'; known are {known}.")
    return KNOWN_MODES[name]
