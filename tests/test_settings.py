"""What all recipes share: their refusals, and the optimizers and schedules that they become."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lungseg.settings import TrainingRecipe, VolumeRecipe, make_optimizer, make_schedules

PLAIN = TrainingRecipe()


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        (PLAIN, {"img_size": 0}, "img_size=0 must be at least 1"),
        (PLAIN, {"epochs": -1}, "epochs=-1 must be at least 1"),
        (PLAIN, {"lr": 0.0}, "lr=0.0 must be positive"),
        (PLAIN, {"lr": float("nan")}, "lr=nan must be positive"),
        (PLAIN, {"grad_clip": -1.0}, "grad_clip=-1.0 must be positive"),
        (PLAIN, {"min_lr": -1e-9}, "min_lr=-1e-09 must not be negative"),
        (PLAIN, {"patience": -1}, "patience=-1 must not be negative"),
        (PLAIN, {"schedule": "plateau"}, "must have --warmup-epochs 0, not 2.0"),
        (VolumeRecipe(), {"window": (16, 0, 16)}, "must be at least 1"),
        (VolumeRecipe(), {"window": (16, 16)}, "must name three sides"),
        (VolumeRecipe(), {"foreground": 1.5}, "share from 0 to 1"),
    ],
)
def test_numbers_without_meaning_are_refused_in_one_sentence(recipe, changes, words):
    with pytest.raises(ValueError, match=words) as error:
        replace(recipe, **changes)
    assert "\n" not in str(error.value)


def test_zero_and_none_are_allowed_where_they_mean_something():
    replace(PLAIN, grad_clip=None, patience=0, min_epochs=0, weight_decay=0.0, warmup_epochs=0.0, momentum=0.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_the_optimizer_is_the_one_asked_for(name, kind):
    optimizer = make_optimizer(replace(PLAIN, optimizer=name, lr=0.1, weight_decay=0.3, momentum=0.7), network())
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    if name == "sgd":
        assert all(group["momentum"] == 0.7 for group in optimizer.param_groups)


def learning_rates(recipe, steps_per_epoch, values=()):
    """Of each step, over all epochs of the recipe, the validation score of which stay as they are."""
    model = network()
    optimizer, found = make_optimizer(recipe, model), []
    schedule, plateau = make_schedules(recipe, optimizer, steps_per_epoch)
    assert (schedule is None) != (plateau is None)
    for _ in range(recipe.epochs):
        for _ in range(steps_per_epoch):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if schedule is not None:
                schedule.step()
        if plateau is not None:
            plateau.step(0.5)
    return found


def test_the_cosine_rises_to_the_peak_and_falls_to_a_hundredth():
    rates = learning_rates(replace(PLAIN, lr=1.0, warmup_epochs=2.0, epochs=10), steps_per_epoch=5)
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert all(a < b for a, b in zip(rates[:9], rates[1:10], strict=True))
    assert all(a > b for a, b in zip(rates[10:-1], rates[11:], strict=True)) and 0.01 < rates[-1] < 0.02


def test_constant_stays_at_the_peak():
    rates = learning_rates(replace(PLAIN, lr=1.0, warmup_epochs=1.0, epochs=4, schedule="constant"), 4)
    assert rates == [0.25, 0.5, 0.75, *[1.0] * 13]


def test_plateau_divides_by_ten_after_its_patience_and_stops_at_the_floor():
    recipe = replace(PLAIN, lr=1.0, warmup_epochs=0.0, schedule="plateau", plateau_patience=2, min_lr=0.05, epochs=8)
    rates = learning_rates(recipe, 2)[::2]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.1, 0.05, 0.05, 0.05])
