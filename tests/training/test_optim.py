"""When the learning rate falls: the rule of Keras as a table, and against a second way to count."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lungseg.training.optim import reduce_on_plateau


def rates(values, mode="min", lr=1.0, **options):
    """The learning rate of the epoch after each value."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = reduce_on_plateau(optimizer, mode, **options)
    found = []
    for value in values:
        schedule.step(value)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def reductions(values, **options):
    """Epochs, counted from 1, at whose end the rate fell."""
    seen = [1.0, *rates(values, **options)]
    return [epoch for epoch in range(1, len(seen)) if seen[epoch] < seen[epoch - 1]]


TABLE = [
    # values after each epoch, options -> epochs at whose end the rate falls
    ([1, 1, 1, 1, 1, 1, 1], {"patience": 3}, [4, 7]),
    ([1, 1, 1, 1], {"patience": 1}, [2, 3, 4]),
    ([1, 1, 1, 1], {"patience": 0}, [2, 3, 4]),
    ([4, 3, 2, 1], {"patience": 1}, []),
    ([5, 6, 7, 4, 6, 7, 8], {"patience": 3}, [7]),
    ([1.0, 1.0 - 1e-4, 1.0 - 1e-4, 0.5], {"patience": 2}, [3]),  # a gain of exactly min_delta is none
    ([1.0, 1.0 - 1.01e-4, 1.0, 1.0], {"patience": 2}, [4]),
    ([-0.5, -0.49996, -0.49996], {"patience": 2}, [3]),  # relative thresholds call the second better
    ([1] * 9, {"patience": 2, "cooldown": 1}, [3, 5, 7, 9]),  # the last epoch of the cooldown counts
    ([1] * 9, {"patience": 2, "cooldown": 2}, [3, 6, 9]),
    ([1] * 9, {"patience": 2, "cooldown": 3}, [3, 7]),
    ([math.nan, 2, 2, 2], {"patience": 2}, [4]),  # NaN is an epoch without improvement, and never the best
    ([1, math.nan, math.nan, 1], {"patience": 2}, [3]),
    ([0.1, 0.2, 0.3, 0.3, 0.3], {"patience": 2, "mode": "max"}, [5]),
]


@pytest.mark.parametrize(("values", "options", "epochs"), TABLE)
def test_the_rate_falls_after_the_epochs_of_the_table(values, options, epochs):
    assert reductions(values, **options) == epochs


def keras(values, *, patience, cooldown, min_delta, factor, min_lr, lr):
    """What the documentation of Keras' ReduceLROnPlateau describes, mode "min", written down anew."""
    best, wait, resting, found = math.inf, 0, 0, []
    for value in values:
        if resting > 0:
            resting, wait = resting - 1, 0
        if value < best - min_delta:
            best, wait = value, 0
        elif resting == 0:
            wait += 1
            if wait >= patience and lr > min_lr:
                lr, resting, wait = max(lr * factor, min_lr), cooldown, 0
        found.append(lr)
    return found


@given(
    st.lists(st.integers(0, 6), max_size=40),
    st.fixed_dictionaries(
        {"patience": st.integers(0, 5), "cooldown": st.integers(0, 4), "factor": st.sampled_from([0.1, 0.5])}
    ),
    st.sampled_from([0.0, 1e-7, 0.05]),
)
def test_any_values_are_counted_as_keras_counts_them(values, options, min_lr):
    options |= {"min_lr": min_lr, "min_delta": 0.5}
    assert rates(values, **options) == pytest.approx(keras(values, lr=1.0, **options), rel=1e-12)
    upside_down = rates([-v for v in values], "max", **options)
    assert upside_down == rates(values, **options)


def test_the_rate_stops_exactly_at_its_floor():
    found = rates([1] * 12, lr=0.1, patience=1, min_lr=1e-7)
    assert found[0] == 0.1 and found[-1] == 1e-7 and min(found) == 1e-7
    assert rates([1] * 4, lr=1e-8, patience=1, min_lr=1e-7) == [1e-8] * 4  # never raised to it


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened():
    values = [3, 2, 2, 2, 1, 1, 1, 1, 1]
    whole = rates(values, patience=2, cooldown=1)
    for cut in range(len(values)):
        parameter = torch.nn.Parameter(torch.zeros(1))
        first = torch.optim.SGD([parameter], lr=1.0)
        schedule = reduce_on_plateau(first, "min", patience=2, cooldown=1)
        for value in values[:cut]:
            schedule.step(value)
        second = torch.optim.SGD([parameter], lr=1.0)
        later = reduce_on_plateau(second, "min", patience=2, cooldown=1)
        second.load_state_dict(first.state_dict())
        later.load_state_dict(schedule.state_dict())
        for i, value in enumerate(values[cut:], start=cut):
            later.step(value)
            assert second.param_groups[0]["lr"] == whole[i]


@pytest.mark.parametrize(
    "options",
    [{"mode": "auto"}, {"factor": 1.0}, {"factor": 0.0}, {"patience": -1}, {"cooldown": -1}, {"min_lr": -1.0}],
)
def test_settings_without_meaning_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        rates([1], **options)
