"""The optimizers and their schedules; when the rate falls, by the rule of Keras as a table and counted another way."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch.amp import GradScaler

from lungseg.nn.swin_unet import SwinUNet
from lungseg.training.optim import make_optimizer, make_schedules, reduce_on_plateau, warmup_cosine, weight_decay_groups
from lungseg.training.recipe import TrainingRecipe

PLAIN = TrainingRecipe()


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
    else:
        assert all(group["fused"] for group in optimizer.param_groups)


GRADIENTS = torch.randn(6, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))  # of a kernel, in six steps


def step_by_step(optimizer, kernel, gradients, scaler):
    """The weights after each step, as `train_one_epoch` makes it; a step with an infinite gradient is left out."""
    found = []
    for gradient in gradients:
        optimizer.zero_grad()
        scaler.scale((kernel * gradient).sum()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([kernel], 1.0)
        scaler.step(optimizer)
        scaler.update()
        found.append(kernel.detach().clone())
    return torch.stack(found)


def plain_and_ours(name):
    """Twice the same kernel (2, 1, 3, 3), torch's optimizer as it comes for the one, `make_optimizer` for the other."""
    models = [nn.Conv2d(1, 2, 3, bias=False) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    plain = kind([{"params": models[0].weight, "weight_decay": PLAIN.weight_decay}, {"params": []}], lr=PLAIN.lr)
    ours = make_optimizer(replace(PLAIN, optimizer=name), models[1])
    return (plain, models[0].weight), (ours, models[1].weight)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_the_fused_step_is_the_plain_one_also_where_a_scaled_gradient_overflows(name, scaled):
    gradients = GRADIENTS.clone()
    gradients[2, 0, 0, 1, 1] = float("inf") if scaled else 0.0
    (plain, a), (ours, b) = plain_and_ours(name)
    first, second = (GradScaler("cpu", enabled=scaled) for _ in range(2))
    expected = step_by_step(plain, a, gradients, first)
    found = step_by_step(ours, b, gradients, second)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)
    assert torch.equal(found[1], found[2]) == scaled  # an infinite gradient moves nothing
    assert second.get_scale() == first.get_scale() == ([1.0, 2.0**15][scaled])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_an_optimizer_that_was_saved_before_the_fused_step_goes_on_as_it_began(name, scaled):
    (plain, a), (ours, b) = plain_and_ours(name)
    scalers = [GradScaler("cpu", enabled=scaled) for _ in range(2)]
    step_by_step(plain, a, GRADIENTS[:3], scalers[0])
    b.data.copy_(a)
    ours.load_state_dict(deepcopy(plain.state_dict()))
    scalers[1].load_state_dict(scalers[0].state_dict())
    expected = step_by_step(plain, a, GRADIENTS[3:], scalers[0])
    found = step_by_step(ours, b, GRADIENTS[3:], scalers[1])
    assert torch.equal(found, expected) and not any(group["fused"] for group in ours.param_groups)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_saved_fused_optimizer_goes_on_bit_by_bit(name):
    _, (one, a) = plain_and_ours(name)
    _, (two, b) = plain_and_ours(name)
    scalers = [GradScaler("cpu") for _ in range(2)]
    step_by_step(one, a, GRADIENTS[:3], scalers[0])
    b.data.copy_(a)
    two.load_state_dict(deepcopy(one.state_dict()))
    expected = step_by_step(one, a, GRADIENTS[3:], scalers[0])
    found = step_by_step(two, b, GRADIENTS[3:], scalers[1])
    assert torch.equal(found, expected) and all(group["fused"] for group in two.param_groups)


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


@given(st.integers(0, 50), st.integers(1, 500), st.floats(0, 1))
def test_the_learning_rate_rises_in_a_line_then_falls_to_the_floor(warmup, rest, floor):
    total = warmup + rest
    curve = [warmup_cosine(s, warmup_steps=warmup, total_steps=total, floor=floor) for s in range(total + 5)]
    for step in range(warmup):
        assert curve[step] == pytest.approx((step + 1) / warmup)
    assert curve[warmup] == 1.0
    assert all(a >= b for a, b in zip(curve[warmup:], curve[warmup + 1 :], strict=False))
    assert curve[total:] == pytest.approx([floor] * 5, abs=1e-12)
    if rest % 2 == 0:
        assert curve[warmup + rest // 2] == pytest.approx((1 + floor) / 2)  # half way down at half time


def test_only_matrices_and_kernels_decay():
    model = SwinUNet(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, patch_size=2, head_bias=True)
    decay, rest = weight_decay_groups(model, 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    assert decay["weight_decay"] == 0.05 and rest["weight_decay"] == 0.0
    assert sorted(map(id, [*decay["params"], *rest["params"]])) == sorted(names)  # each once
    assert all(names[id(p)].endswith(".weight") for p in decay["params"])
    kinds = {names[id(p)].rsplit(".", 1)[1] for p in rest["params"]}
    assert kinds == {"weight", "bias", "relative_position_bias_table"}  # weight: of the norms
    assert all("norm" in names[id(p)] for p in rest["params"] if names[id(p)].endswith(".weight"))


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
