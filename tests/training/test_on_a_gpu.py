"""The training loop on a GPU: the CPU's losses and scores, number types, a step that overflows, memory."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from disc_batches import disc_batch
from tiny_networks import SEGMENTATION, error
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from lungseg.attention_maps import attention_blocks, attention_map
from lungseg.doctor import examine_network, examine_trained
from lungseg.inference import SlidingWindow
from lungseg.losses import dice_bce_loss
from lungseg.training.ema import WeightAverage, averaged_weights
from lungseg.training.loss import NUMBERS, make_loss
from lungseg.training.optim import make_optimizer
from lungseg.training.recipe import TrainingRecipe
from lungseg.training.step import evaluate, train_one_epoch

pytestmark = pytest.mark.gpu

RECIPE = TrainingRecipe(lr=1e-2, batch_size=4)
IMAGES, TARGETS = disc_batch(12)


def batches(pin=False):
    return DataLoader(TensorDataset(IMAGES, TARGETS), batch_size=4, pin_memory=pin)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("loss", NUMBERS)
def test_every_loss_and_its_gradient_are_those_of_the_cpu(loss, device):
    logits, loss_fn = torch.randn(12, 1, 32, 32), make_loss(replace(RECIPE, loss=loss))
    found = []
    for place in ("cpu", device):
        x = logits.clone().to(place).requires_grad_()
        value = loss_fn(x, TARGETS.to(place))
        value.backward()
        assert x.grad.device == x.device
        found += [value, x.grad]
    assert error(found[2], found[0]) < 1e-5 and error(found[3], found[1]) < 1e-4


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_epoch_is_that_of_the_cpu(optimizer, device):
    """Two parts to a batch, clipped gradients, a running average; and the scores after it."""
    start, results = SEGMENTATION["UNet"](norm="instance"), []
    recipe = replace(RECIPE, optimizer=optimizer, lr={"sgd": 0.1}.get(optimizer, 1e-4))
    for place in ("cpu", device):
        model = copy.deepcopy(start).to(place)
        steps, average = make_optimizer(recipe, model), WeightAverage(model, 0.5)
        pin = torch.device(place).type == "cuda"
        loss = train_one_epoch(model, batches(pin), dice_bce_loss, steps, accumulate=2, grad_clip=1.0, ema=average)
        with averaged_weights(average):
            result = evaluate(model, batches(pin), dice_bce_loss)
        results.append((loss, result.loss, weights(model), torch.cat([w.flatten() for w in average.weights.values()])))
    (loss, val, own, averaged), (its_loss, its_val, its_own, its_averaged) = results
    assert its_loss == pytest.approx(loss, rel=1e-4) and its_val == pytest.approx(val, rel=1e-3)
    assert error(its_own, own) < 1e-3 and error(its_averaged, averaged) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ["SwinUNet", "UNETR", "UNet", "ResNet50UNet"])
def test_in_half_precision_a_network_learns_what_it_learns_in_float32(name, dtype, device):
    """Twelve images by heart: the loss falls as far, though no step is the same."""
    start, losses = SEGMENTATION[name]().to(device), []
    for number_type in (None, dtype):
        model = copy.deepcopy(start)
        optimizer, scaler = make_optimizer(RECIPE, model), GradScaler(device.type, enabled=number_type is torch.float16)
        how = {"scaler": scaler, "grad_clip": 1.0, "autocast_dtype": number_type}
        losses.append([train_one_epoch(model, batches(), dice_bce_loss, optimizer, **how) for _ in range(6)])
        assert weights(model).isfinite().all() and next(model.parameters()).dtype == torch.float32
    (first, *_, last), (half_first, *_, half_last) = losses
    assert half_first == pytest.approx(first, rel=0.1)
    assert half_last < first - (first - last) / 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_survives_a_step_that_overflows(optimizer, device):
    model = SEGMENTATION["UNet"](norm="instance").to(device)
    steps, scaler = make_optimizer(replace(RECIPE, optimizer=optimizer), model), GradScaler(device.type)
    broken = model.head.weight.register_hook(lambda grad: grad * math.inf)
    schedule, before = LambdaLR(steps, lambda _: 1.0), weights(model).clone()
    how = {"scaler": scaler, "schedule": schedule, "autocast_dtype": torch.float16, "grad_clip": 1.0}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Detected call of")  # that the schedule were ahead of the optimizer
        train_one_epoch(model, batches(), dice_bce_loss, steps, **how)
    assert torch.equal(weights(model), before) and scaler.get_scale() == 2.0**13  # three steps
    broken.remove()
    train_one_epoch(model, batches(), dice_bce_loss, steps, **how)
    assert not torch.equal(weights(model), before) and weights(model).isfinite().all()


def test_a_loss_that_is_not_a_number_is_found_though_a_gpu_is_asked_seldom(device):
    model = SEGMENTATION["UNet"]().to(device)
    odd = [(IMAGES[:2], TARGETS[:2], ["a", "b"]), (IMAGES[:2] * math.nan, TARGETS[:2], ["c", "d"])]
    with pytest.raises(FloatingPointError, match="slices c, d"):
        train_one_epoch(model, odd, dice_bce_loss, make_optimizer(RECIPE, model))


def test_states_saved_on_one_device_continue_on_another(device):
    """Optimizer, running average and scale, from the CPU to the GPU and back."""
    start, recipe = SEGMENTATION["UNet"](norm="instance"), replace(RECIPE, lr=1e-3)
    for here, there in (("cpu", device), (device, "cpu")):
        states, ends = None, []
        for place in (here, there):
            model = copy.deepcopy(start).to(place)
            optimizer, average = make_optimizer(recipe, model), WeightAverage(model, 0.5)
            if states is None:
                train_one_epoch(model, batches(), dice_bce_loss, optimizer, ema=average)
                states = [copy.deepcopy(part.state_dict()) for part in (model, optimizer, average)]
            else:
                for part, state in zip((model, optimizer, average), states, strict=True):
                    part.load_state_dict(state)
            train_one_epoch(model, batches(), dice_bce_loss, optimizer, ema=average)
            ends.append(weights(model))
        assert error(ends[1], ends[0]) < 1e-2


def test_the_doctor_examines_a_network_on_a_gpu(device):
    model = SEGMENTATION["UNet"]().to(device)
    found = examine_network(model, batches(), dice_bce_loss, lr=1e-2, steps=20)
    found += examine_trained(model, batches(), dice_bce_loss)
    assert len(found) > 5 and all(finding.measured != "not examined" for finding in found)


@pytest.mark.parametrize("name", ["SwinUNet", "UNETR"])
def test_attention_maps_are_those_of_the_cpu(name, device):
    model = SEGMENTATION[name]().eval()
    for block in attention_blocks(model)[:2]:
        here = attention_map(model, IMAGES[:1], (9, 13), block=block)
        there = attention_map(copy.deepcopy(model).to(device), IMAGES[:1].to(device), (9, 13), block=block)
        torch.testing.assert_close(torch.from_numpy(there), torch.from_numpy(here), equal_nan=True, rtol=0, atol=1e-5)


def test_whole_slices_and_volumes_are_evaluated_through_a_sliding_window(device):
    model = SEGMENTATION["UNet"]().eval()
    volume, target = torch.rand(1, 1, 3, 40, 36), torch.rand(1, 1, 3, 40, 36).round()
    for image, mask in ((IMAGES, TARGETS), (volume, target)):
        data = [(image, mask, [f"i{n}" for n in range(len(image))])]
        here = evaluate(SlidingWindow(model, (16, 16)), data, dice_bce_loss)
        there = evaluate(SlidingWindow(copy.deepcopy(model).to(device), (16, 16)), data, dice_bce_loss)
        assert there.loss == pytest.approx(here.loss, rel=1e-4)
        assert (there.counts - here.counts).abs().max() <= 0.001 * image[0].numel()  # a pixel at 1/2 may round over it
