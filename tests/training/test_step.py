"""The step, the schedule and the evaluation, each against something worked out another way."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

from lungseg.evaluation.metrics import class_counts, confusion_counts, summarise_classes
from lungseg.losses import bce_loss, dice_bce_loss
from lungseg.nn.swin_unet import SwinUNet
from lungseg.training import step as step_module
from lungseg.training.ema import WeightAverage
from lungseg.training.step import evaluate, freeze, to_device, train_one_epoch


def small_network(**options):
    return SwinUNet(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, patch_size=2, **options)


def batch(count, size=16, seed=0, name="slice"):
    """Noisy discs on a darker ground, and where they are."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.randint(4, size - 4, (count, 2, 1, 1), generator=g)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    target = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < 9).float()[:, None]  # (count, 1, size, size)
    image = 0.3 + 0.4 * target + 0.05 * torch.randn(target.shape, generator=g)
    return image, target, [f"{name}{i}" for i in range(count)]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- training ---------------------------------------------------------------------------------------------------


def test_a_small_network_learns_one_batch_by_heart():
    model = small_network(drop_path_rate=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    one = batch(4)
    for _ in range(8):
        loss = train_one_epoch(model, [one] * 20, dice_bce_loss, optimizer, grad_clip=1.0)
        dice = evaluate(model, [one], dice_bce_loss).scores["dice"]
        if dice > 0.99:
            break
    assert dice > 0.99, f"Dice {dice:.3f} at loss {loss:.3f} after {optimizer.state_dict()['state'][0]['step']} steps"


@pytest.mark.parametrize("accumulate", [2, 3, 4, 7, 100])
def test_a_batch_in_parts_makes_the_same_step(accumulate):
    """7 images in 2 parts are 4 and 3: a mean of the parts' means would weigh them wrongly."""
    after = []
    for parts in (1, accumulate):
        torch.manual_seed(0)
        model = small_network(drop_path_rate=0.0).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        image, target, ids = batch(7)

        def loss_fn(logits, target):
            return dice_bce_loss(logits.double(), target)

        train_one_epoch(model, [(image.double(), target.double(), ids)] * 2, loss_fn, optimizer, accumulate=parts)
        after.append(weights(model))
    torch.testing.assert_close(after[1], after[0], rtol=0, atol=1e-6)  # the loss passes through float32


def test_an_epoch_is_the_textbook_loop():
    torch.manual_seed(0)
    ours, theirs = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    batches = [batch(3, seed=s) for s in range(5)] + [batch(1, seed=9)]

    optimizer = torch.optim.Adam(ours.parameters(), lr=0.1)
    schedule = LambdaLR(optimizer, lambda step: 1 / (step + 1))
    mean = train_one_epoch(ours, batches, bce_loss, optimizer, grad_clip=0.1, schedule=schedule)

    optimizer, losses = torch.optim.Adam(theirs.parameters()), []
    for step, (image, target, ids) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(theirs(image), target)
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in theirs.parameters()]).norm()
        for p in theirs.parameters():
            p.grad *= min(1.0, 0.1 / norm)
        optimizer.step()
        losses += [loss.item()] * len(ids)
    torch.testing.assert_close(weights(ours), weights(theirs))
    assert mean == pytest.approx(sum(losses) / 16)  # per image: the last batch counts a third of the others


def test_a_loss_that_is_not_a_number_names_the_slices_and_changes_nothing():
    model = nn.Conv2d(1, 1, 1)
    good, bad = batch(2), batch(2, name="broken")
    bad[0][1, 0, 3, 3] = math.nan
    train_one_epoch(model, [good], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    before = weights(model)
    with pytest.raises(FloatingPointError, match=r"nan on the batch of slices broken0, broken1\."):
        train_one_epoch(model, [bad, good], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(weights(model), before)
    with pytest.raises(FloatingPointError, match="broken1"):
        evaluate(model, [good, bad], bce_loss)


def test_the_loss_sees_float32_whatever_the_forward_pass_computed_in():
    seen = []

    def loss_fn(logits, target):
        seen.append(logits.dtype)
        return bce_loss(logits, target)

    class Network(nn.Conv2d):
        def forward(self, image):
            logits = super().forward(image)
            seen.append(logits.dtype)
            return logits

    model = Network(1, 1, 3, padding=1)
    train_one_epoch(
        model, [batch(2)], loss_fn, torch.optim.SGD(model.parameters(), lr=0.1), autocast_dtype=torch.bfloat16
    )
    assert seen == [torch.bfloat16, torch.float32]


class Noisy(nn.Module):
    """An encoder with everything that does not stand still by itself: a batch norm, dropout, a bare parameter."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.position = nn.Parameter(torch.zeros(4, 1, 1))
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
        self.seen = []

    def forward(self, image):
        features = self.encoder(image) + self.position
        self.seen.append(features.detach())
        return self.head(features)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_what_is_frozen_stands_still_bit_by_bit_and_learns_again_afterwards(optimizer):
    model = Noisy()
    optimizer = optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
    parts = ("encoder", "position")
    frozen = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(parts)}
    head = model.state_dict()["head.1.weight"].clone()
    still = freeze(model, parts, True)
    assert still == [model.encoder]
    train_one_epoch(model, [batch(3)] * 3, bce_loss, optimizer, frozen=still, grad_clip=1.0)
    now = model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in frozen.items())  # running statistics too
    assert not torch.equal(now["head.1.weight"], head) and now["head.0.num_batches_tracked"] == 3
    assert torch.equal(model.seen[0], model.seen[-1])  # the same images, and no dropout
    assert all(p.grad is None for p in model.encoder.parameters()) and model.position.grad is None
    assert len(optimizer.state_dict()["state"]) in (0, 4)  # of the head alone (SGD without momentum keeps nothing)
    assert freeze(model, parts, False) == []
    train_one_epoch(model, [batch(3)], bce_loss, optimizer)
    assert not any(torch.equal(now[name], value) for name, value in frozen.items() if "bias" not in name)


def test_a_copy_that_may_be_late_is_for_cuda_alone(monkeypatch):
    """Elsewhere the program could read it before it is there."""
    asked = {}

    class Spy:
        def to(self, device, non_blocking):
            asked[device.type] = non_blocking

    for device in ("cpu", "mps", "cuda"):
        to_device(Spy(), torch.device(device))
    assert asked == {"cpu": False, "mps": False, "cuda": True}


def test_a_plain_loader_of_pairs_trains_and_evaluates_as_one_with_ids():
    image, target, ids = batch(7)
    pairs, triples = DataLoader(TensorDataset(image, target), batch_size=3), []
    for start in range(0, 7, 3):
        triples.append((image[start : start + 3], target[start : start + 3], ids[start : start + 3]))
    found = []
    for batches in (pairs, triples):
        torch.manual_seed(0)
        model = nn.Conv2d(1, 1, 3, padding=1)
        loss = train_one_epoch(model, batches, bce_loss, torch.optim.SGD(model.parameters(), lr=0.5), accumulate=2)
        result = evaluate(model, batches, bce_loss)
        found.append((loss, weights(model).tolist(), result.counts.tolist(), result.loss))
    assert found[0] == found[1]


def test_images_without_ids_are_numbered_in_their_order_across_batches():
    image, target, _ = batch(12)
    model = nn.Conv2d(1, 1, 3, padding=1)
    result = evaluate(model, DataLoader(TensorDataset(image, target), batch_size=5), bce_loss)
    assert result.ids == [f"image {i:06d}" for i in range(12)]
    with torch.no_grad():
        assert torch.equal(result.counts, confusion_counts(model(image), target))
    image[7] = math.nan
    with pytest.raises(FloatingPointError, match="image 000005, .*image 000007"):
        evaluate(model, DataLoader(TensorDataset(image, target), batch_size=5), bce_loss)


class Overflows(nn.Conv2d):
    """Has infinite gradients as long as `broken`."""

    broken = True

    def forward(self, image):
        logits = super().forward(image)
        logits.register_hook(lambda grad: grad / 0 if self.broken else grad)
        return logits


@pytest.mark.parametrize("make", [torch.optim.SGD, partial(torch.optim.AdamW, fused=True)], ids=["SGD", "AdamW"])
def test_a_step_with_infinite_gradients_is_skipped_and_the_scale_halved_without_a_warning(make):
    model, scaler = Overflows(1, 1, 1), GradScaler("cpu")
    optimizer, before = make(model.parameters(), lr=0.1), weights(model)
    average = WeightAverage(model, 0.9)
    how = {"schedule": LambdaLR(optimizer, lambda _: 1.0), "scaler": scaler, "grad_clip": 1.0, "ema": average}
    train_one_epoch(model, [batch(2)] * 3, bce_loss, optimizer, **how)
    assert torch.equal(weights(model), before) and scaler.get_scale() == 2**13
    assert torch.equal(average.weights["weight"].flatten(), before[:1])
    model.broken = False
    train_one_epoch(model, [batch(2)], bce_loss, optimizer, **how)
    assert not torch.equal(weights(model), before) and scaler.get_scale() == 2**13


def test_batches_go_to_the_device_of_the_model(monkeypatch):
    """Whatever it is: a network on torch's meta device cannot compute, but the batch is sent there."""

    def spy(tensor, device):
        raise InterruptedError(device.type)

    monkeypatch.setattr(step_module, "to_device", spy)
    model = nn.Conv2d(1, 1, 1, device="meta")
    with pytest.raises(InterruptedError, match="meta"):
        train_one_epoch(model, [batch(2)], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(InterruptedError, match="meta"):
        evaluate(model, [batch(2)], bce_loss)


@pytest.mark.parametrize(("factor", "cure"), [(255, "Divide the masks by 255"), (2, "0 and 1"), (-1, "0 and 1")])
def test_targets_beyond_0_and_1_are_refused_before_the_first_step(factor, cure):
    model, (image, target, ids) = nn.Conv2d(1, 1, 1), batch(2)
    before = weights(model)
    with pytest.raises(ValueError, match=f"begins with slice0 hold values from .* expected 0 .* {cure}"):
        train_one_epoch(model, [(image, factor * target, ids)], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="from nan to nan"):
        train_one_epoch(model, [(image, target * math.nan, ids)], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(weights(model), before)


def test_soft_and_boolean_targets_are_trained_on():
    model, (image, target, ids) = nn.Conv2d(1, 1, 1), batch(2)
    for allowed in (0.5 * target, target > 0.5):
        train_one_epoch(model, [(image, allowed, ids)], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))


def test_an_empty_loader_is_an_error_in_words():
    model = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match="no batch: the loader is empty"):
        train_one_epoch(model, [], bce_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="no batch: the loader is empty"):
        evaluate(model, [], bce_loss)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_mode_as_it_was_also_after_an_error(training):
    model, (image, target, ids) = nn.Conv2d(1, 1, 1).train(training), batch(2)
    with pytest.raises(ValueError, match="target"):
        evaluate(model, [(image, 255 * target, ids)], bce_loss)
    assert model.training is training


# ---- evaluation -------------------------------------------------------------------------------------------------


def test_evaluation_counts_every_slice_once_and_leaves_the_network_as_it_was():
    model = small_network(drop_path_rate=0.5, drop_rate=0.5)
    one, two = batch(3, name="b"), batch(2, seed=1, name="a")
    before, state = weights(model), torch.get_rng_state()
    for mode in (True, False):
        model.train(mode)
        result = evaluate(model, [one, two], bce_loss)
        assert model.training is mode
    assert torch.equal(weights(model), before) and torch.equal(torch.get_rng_state(), state)
    assert result.ids == ["a0", "a1", "b0", "b1", "b2"]
    model.eval()
    with torch.no_grad():
        logits = [model(images) for images in (two[0], one[0])]
    counts = torch.cat([confusion_counts(logits[0], two[1]), confusion_counts(logits[1], one[1])])
    assert torch.equal(result.counts, counts)
    loss = bce_loss(torch.cat(logits), torch.cat([two[1], one[1]]))
    assert result.loss == pytest.approx(loss.item())
    assert result.scores["images"] == 5 and result.scores["loss"] == result.loss


def test_several_maps_are_learned_and_evaluated_one_by_one():
    """Discs and what lies beside them: channels may be classes, or maps that overlap."""
    torch.manual_seed(0)
    image, disc, ids = batch(6)
    target = torch.cat([disc, 1 - disc, torch.ones_like(disc)], dim=1)  # (6, 3, 16, 16); the last overlaps the others
    model = nn.Conv2d(1, 3, 3, padding=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    before = evaluate(model, [(image, target, ids)], dice_bce_loss)
    train_one_epoch(model, [(image, target, ids)] * 100, dice_bce_loss, optimizer)
    halves = [(image[i::2], target[i::2], ids[i::2]) for i in (0, 1)]
    after = evaluate(model, halves, dice_bce_loss, classes=("disc", "ground", "all"))
    assert after.counts.shape == (6, 3, 4)
    with torch.no_grad():
        assert torch.equal(after.counts, class_counts(model(image), target))
    assert after.scores == {"loss": after.loss} | summarise_classes(after.counts, ["disc", "ground", "all"])
    assert after.scores["dice"] > before.scores["dice"] + 0.2 and after.scores["dice of all"] > 0.99
    assert "dice of class 1" in before.scores


def test_a_slice_given_twice_is_an_error():
    with pytest.raises(ValueError, match="slice1 was given twice"):
        evaluate(nn.Conv2d(1, 1, 1), [batch(2), (*batch(1)[:2], ["slice1"])], bce_loss)


# ---- settings ---------------------------------------------------------------------------------------------------
