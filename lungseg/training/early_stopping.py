"""When to stop training, and which epoch was the best."""

import math
from typing import Any, Literal

Mode = Literal["max", "min"]
KNOWN_MODES: dict[str, Mode] = {
    "dice": "max",
    "iou": "max",
    "precision": "max",
    "recall": "max",
    "loss": "min",
    "rmse": "min",
}

STATE = ("best", "best_epoch", "epochs", "stop")


class EarlyStopping:
    """Remember the best epoch, and say when there has been no better one for long enough.

    Epochs are counted as in Keras: training stops at the end of the `patience`-th epoch in a row that did not improve.
    Unlike Keras, the best epoch is tracked from the start, also during the first `min_epochs` (Keras' start_from_epoch
    ignores them), and NaN is never the best (Keras keeps a NaN that comes first). On a tie the earlier epoch stays the
    best.

    Args:
        patience: epochs without improvement; None never stops.
        mode: "max" if larger is better, "min" if smaller is; `monitor_mode("dice")` knows the usual names.
        min_delta: an improvement is a change of more than this, in the units of the value (not relative).
        min_epochs: never stop before this many epochs are done.
    """

    def __init__(self, patience: int | None, mode: Mode, *, min_delta: float = 0.0, min_epochs: int = 0):
        if mode not in ("max", "min"):
            raise ValueError(f'EarlyStopping: mode={mode!r} must be "max" (larger is better) or "min".')
        self.patience, self.mode, self.min_delta, self.min_epochs = patience, mode, min_delta, min_epochs
        self.best: float | None = None
        self.best_epoch: int | None = None  # counted from 1
        self.epochs, self.stop = 0, False

    def update(self, value: float) -> bool:
        """Record the value of the epoch that has just ended; return whether it is the best so far."""
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


def monitor_mode(name: str) -> Mode:
    """Whether a larger or a smaller value of a score is better: known names only, a guess may keep the worst epoch."""
    if name not in KNOWN_MODES:
        known = ", ".join(KNOWN_MODES)
        raise ValueError(
            f"monitor_mode: expected one of {known}, got {name!r}. For other scores, pass mode='max' or 'min'."
        )
    return KNOWN_MODES[name]
