"""Early stopping as tables: the values of the epochs -> the epoch it stops after, and the best one."""

import math

import pytest
from hypothesis import given, strategies as st

from lungseg.training.early_stopping import EarlyStopping, monitor_mode

nan = math.nan


def run(stopping, values):
    """(epoch after which it stopped or None, best epoch), epochs counted from 1."""
    for epoch, value in enumerate(values, start=1):
        stopping.update(value)
        if stopping.stop:
            return epoch, stopping.best_epoch
    return None, stopping.best_epoch


TABLE = [
    # patience, mode, min_delta, min_epochs, values -> stopped after, best epoch
    (3, "min", 0.0, 0, [5, 4, 4, 4, 4, 4], 5, 2),  # three epochs in a row without improvement: Keras' rule
    (3, "min", 0.0, 0, [1, 1, 1, 1], 4, 1),  # the example in Keras' documentation: 4 epochs
    (1, "max", 0.0, 0, [1, 2, 1.5, 3], 3, 2),
    (0, "max", 0.0, 0, [1, 2, 2, 3], 3, 2),  # as patience 1, as in Keras
    (2, "max", 0.0, 0, [1, 1, 2, 2, 2], 5, 3),  # a tie is no improvement: the earlier epoch stays
    (2, "max", 0.0, 0, [1, 0.5, 2, 1, 3, 2], None, 5),  # the count starts again at each improvement
    (2, "max", 0.5, 0, [1, 1.25, 1.5, 2], 3, 1),  # less than min_delta at a time
    (3, "max", 0.5, 0, [1, 1.25, 1.75, 2], None, 3),  # measured from the best, not from the last
    (2, "min", 0.1, 0, [-0.5, -0.49996, -0.4], 3, 1),  # absolute: for a negative score, worse is worse
    (2, "max", 0.0, 0, [nan, 1, nan, 2, nan, nan], 6, 4),  # NaN is never the best, not even the first
    (2, "max", 0.0, 0, [math.inf, 1, 2, 3], None, 4),  # nor is infinity: nothing could follow it
    (2, "min", 0.0, 0, [nan, nan, 1], 2, None),
    (None, "max", 0.0, 0, [3, 2, 1, 0] * 50, None, 1),
    (2, "max", 0.0, 5, [9, 1, 1, 1, 1, 1], 5, 1),  # the best is tracked from the start; stopping waits
    (2, "max", 0.0, 5, [1, 1, 1, 1, 2, 1, 1], 7, 5),
    (10, "max", 0.0, 100, [1] + [0] * 150, 100, 1),  # the report's rule, with a best long past
    (10, "max", 0.0, 100, [*range(98), *[0] * 50], 108, 98),  # and with a late one
]


@pytest.mark.parametrize(("patience", "mode", "min_delta", "min_epochs", "values", "stopped", "best"), TABLE)
def test_table(patience, mode, min_delta, min_epochs, values, stopped, best):
    stopping = EarlyStopping(patience, mode, min_delta=min_delta, min_epochs=min_epochs)
    assert run(stopping, values) == (stopped, best)


scores = st.lists(st.sampled_from([nan, -1.0, 0.0, 0.1, 0.2, 1.0]), max_size=30)


@given(scores, st.integers(0, 5), st.integers(0, 10))
def test_max_and_min_mirror_each_other(values, patience, min_epochs):
    up = EarlyStopping(patience, "max", min_epochs=min_epochs)
    down = EarlyStopping(patience, "min", min_epochs=min_epochs)
    assert run(up, values) == run(down, [-v for v in values])


@given(scores, st.integers(0, 30), st.integers(1, 5))
def test_saved_and_restored_at_any_epoch_nothing_changes(values, cut, patience):
    whole, first = EarlyStopping(patience, "max"), EarlyStopping(patience, "max")
    for value in values[:cut]:
        whole.update(value)
        first.update(value)
    second = EarlyStopping(patience, "max")
    second.load_state_dict(first.state_dict())
    for value in values[cut:]:
        assert whole.update(value) == second.update(value)
        assert whole.state_dict() == second.state_dict()


def test_the_epoch_called_best_is_the_first_of_the_highest():
    stopping = EarlyStopping(None, "max")
    assert [stopping.update(v) for v in (nan, 0.3, 0.5, 0.5, 0.4, 0.6)] == [False, True, True, False, False, True]
    assert (stopping.best, stopping.best_epoch) == (0.6, 6)


def test_the_direction_is_known_or_asked_for_never_guessed():
    assert (monitor_mode("dice"), monitor_mode("loss")) == ("max", "min")
    with pytest.raises(ValueError, match="val_dice"):
        monitor_mode("val_dice")
    with pytest.raises(ValueError, match="auto"):
        EarlyStopping(3, "auto")
