"""The check of early stopping accepts ours and one written another way."""

import math

import pytest

from lungseg.checks.lessons import Wrong
from lungseg.checks.training.stopping import check_early_stopping
from lungseg.training.early_stopping import EarlyStopping


class FromTheHistory:
    """Sound: everything is computed from all values so far."""

    def __init__(self, patience, mode="max", min_delta=0.0, min_epochs=0):
        self.patience, self.min_delta, self.min_epochs = patience, min_delta, min_epochs
        self.sign, self.values = (1 if mode == "max" else -1), []
        self.best, self.best_epoch = -self.sign * math.inf, 0

    def update(self, value):
        self.values.append(value)
        better = self.sign * (value - self.best) > self.min_delta
        if better:
            self.best, self.best_epoch = value, len(self.values)
        return better

    @property
    def stop(self):
        return len(self.values) >= max(self.best_epoch + self.patience, self.min_epochs)


@pytest.mark.parametrize("sound", [EarlyStopping, FromTheHistory])
def test_the_check_accepts(sound):
    check_early_stopping(sound)


class WithoutStop(EarlyStopping):
    stop = property(lambda self: [], lambda self, value: None)


def test_stop_must_be_a_truth_value():
    with pytest.raises(Wrong, match="stop is a list"):
        check_early_stopping(WithoutStop)
