"""What all recipes share: their refusals, and the optimizers and schedules that they become."""

from copy import deepcopy
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from lungseg.training.recipe import (
    AUTOCAST,
    TrainingRecipe,
    VolumeRecipe,
    about_precision,
    autocast_dtype,
    from_older_version,
    make_optimizer,
    make_schedules,
)

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
        (PLAIN, {"freeze_encoder": -1}, "freeze_encoder=-1 must not be negative"),
        (PLAIN, {"patience": -1}, "patience=-1 must not be negative"),
        (PLAIN, {"threads": -1}, "threads=-1 must not be negative"),
        (PLAIN, {"schedule": "plateau"}, "must have --warmup-epochs 0, not 2.0"),
        (VolumeRecipe(), {"crop_size": (16, 0, 16)}, "must be at least 1"),
        (PLAIN, {"warmup_epochs": float("inf")}, "warmup_epochs=inf must be a finite number"),
        (PLAIN, {"grad_clip": float("inf")}, "must be a finite number"),
        (PLAIN, {"img_size": 10**400}, "img_size=10+ .* must be below 2"),
        (PLAIN, {"weights": ""}, "weights is empty, as of a variable that is not set"),
        (VolumeRecipe(), {"crop_size": ()}, "crop_size must name at least one number"),
        (PLAIN, {"img_size": 10**30}, "img_size=10+ must be below 2"),
        (VolumeRecipe(), {"crop_size": (16, 10**12, 16)}, "must be below 2"),
        (VolumeRecipe(), {"crop_size": (16, 16)}, "must name three sides"),
        (VolumeRecipe(), {"foreground": 1.5}, "share from 0 to 1"),
    ],
)
def test_numbers_without_meaning_are_refused_in_one_sentence(recipe, changes, words):
    with pytest.raises(ValueError, match=words) as error:
        replace(recipe, **changes)
    assert "\n" not in str(error.value)


def test_zero_and_none_are_allowed_where_they_mean_something():
    replace(PLAIN, grad_clip=None, patience=0, min_epochs=0, weight_decay=0.0, warmup_epochs=0.0, momentum=0.0)
    replace(PLAIN, threads=0)


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


@pytest.mark.parametrize(
    ("amp", "on_cuda", "on_cpu", "on_mps"),
    [
        ("auto", torch.bfloat16, None, None),
        ("none", None, None, None),
        ("bf16", torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, None, None),
    ],
)
def test_the_number_type_depends_on_the_device(amp, on_cuda, on_cpu, on_mps):
    found = [autocast_dtype(amp, torch.device(device)) for device in ("cuda", "cpu", "mps")]
    assert found == [on_cuda, on_cpu, on_mps]


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_number_type_that_a_device_is_not_made_for_is_remarked_on(monkeypatch, has_bf16):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    remarks = {(amp, d): about_precision(amp, torch.device(d)) for amp in AUTOCAST for d in ("cpu", "cuda", "mps")}
    told = {key for key, remark in remarks.items() if remark}
    assert told == {("fp16", "cpu"), ("fp16", "mps")} | ({("bf16", "cpu")} if not has_bf16 else set())


@pytest.mark.parametrize(("then", "device"), [(a, d) for a in ("none", "bf16", "fp16") for d in ("cpu", "cuda")])
def test_a_run_of_an_older_version_computes_as_it_did(then, device):
    """Then the CPU always took float32, whatever was asked for; and bf16 was the default."""
    added = ("weights", "freeze_encoder", "threads")
    old = {k: v for k, v in asdict(replace(PLAIN, amp=then, threads=1)).items() if k not in added}
    now = replace(PLAIN, **from_older_version(old))
    before = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[then] if device == "cuda" else None
    assert autocast_dtype(now.amp, torch.device(device)) == before
    assert now.freeze_encoder == 0 and now.weights is None and now.threads == 0


def test_a_run_of_this_version_is_left_as_it_is():
    for amp in ("auto", "none", "bf16", "fp16"):
        settings = asdict(replace(PLAIN, amp=amp, weights="a.pt", freeze_encoder=3, threads=2)) | {"seed": 4}
        assert from_older_version(settings) == settings
