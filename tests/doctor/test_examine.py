"""The examinations as a whole: a sound pair has no fault; each broken one has the fault that was put in."""

import pytest
import torch
import torch.nn.functional as F
from disc_batches import Blind, Detached, Fails, Hard, NotANumber, Sigmoid, Sound, TooSmall, disc_batch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lungseg.doctor import examine_batches, examine_network, examine_trained, report
from lungseg.doctor.finding import FAULT, OK
from lungseg.losses import bce_loss, dice_bce_loss

IMAGES, TARGETS = disc_batch(16)


def loader(images=IMAGES, targets=TARGETS):
    return DataLoader(TensorDataset(images, targets), batch_size=4)


def faults(findings):
    return {f.name for f in findings if f.verdict == FAULT}


def examined(network=Sound, loss=dice_bce_loss, batches=None, steps=60, **options):
    torch.manual_seed(0)
    return examine_network(network(), batches or loader(), loss, steps=steps, **options)


def test_a_sound_pair_of_data_and_network_is_ok():
    findings = examine_batches(loader(), patch_size=4) + examined(lr=1e-2)
    assert {f.verdict for f in findings} == {OK}, report(findings)
    assert "Nothing is wrong" in report(findings)


def test_probabilities_with_a_loss_that_takes_them_are_ok():
    assert not faults(examined(Sigmoid, F.binary_cross_entropy))


def test_the_network_and_the_random_numbers_are_left_as_they_were(monkeypatch):
    network = Sound().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    batches = list(loader())  # iterating over a DataLoader draws a number
    state = torch.random.get_rng_state()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # GPUs that it does not use are left alone, too
    examine_network(network, batches, dice_bce_loss, lr=1e-3, steps=5)
    examine_trained(network, batches, dice_bce_loss)
    assert torch.equal(torch.random.get_rng_state(), state) and not network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(
    ("images", "targets", "fault"),
    [
        (255 * IMAGES, TARGETS, "image values"),
        (0 * IMAGES + 0.5, TARGETS, "image values"),
        (IMAGES, 255 * TARGETS, "mask values"),
        (IMAGES, 1 - TARGETS, "mask values"),
        (IMAGES, 0 * TARGETS, "mask values"),
    ],
)
def test_a_fault_in_the_data_is_named(images, targets, fault):
    assert faults(examine_batches(loader(images, targets))) == {fault}


@pytest.mark.parametrize(
    ("network", "loss", "fault"),
    [
        (Sigmoid, bce_loss, "output"),
        (Fails, bce_loss, "output"),
        (TooSmall, bce_loss, "output"),
        (NotANumber, bce_loss, "output"),
        (Sound, lambda x, y: F.cross_entropy(x, y[:, 0, 0]), "loss"),
        (lambda: Sound().requires_grad_(False), bce_loss, "gradients"),
        (Detached, dice_bce_loss, "gradients"),
        (Hard, dice_bce_loss, "gradients"),
        (Blind, dice_bce_loss, "input is used"),
        (Sound, lambda x, y: -dice_bce_loss(x, y), "loss"),
    ],
)
def test_a_fault_in_the_network_or_the_loss_is_named(network, loss, fault):
    assert fault in faults(examined(network, loss, steps=15))


def test_an_absurd_rate_is_the_only_fault_of_a_sound_network():
    assert faults(examined(lr=1e4)) == {"learning rate"}


def test_without_a_lesion_the_network_is_not_examined():
    (found,) = examined(batches=loader(IMAGES, 0 * TARGETS))
    assert found.measured == "not examined"


def test_several_classes_and_volumes_are_examined():
    two = torch.cat([TARGETS, TARGETS.flip(-1)], dim=1)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    found = examine_network(network, [(IMAGES, two)], dice_bce_loss, steps=3)
    assert "output" not in faults(found) | faults(examine_batches([(IMAGES, two)]))
    volumes = [(IMAGES[:, :, None].repeat(1, 1, 4, 1, 1), TARGETS[:, :, None].repeat(1, 1, 4, 1, 1))]
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 1, 3, padding=1))
    found = examine_network(network, volumes, dice_bce_loss, steps=3)
    assert "output" not in faults(found) and not faults(examine_batches(volumes))


def test_a_trained_network_that_predicts_nothing_is_named():
    network = Sound()
    nn.init.zeros_(network.head.weight)
    nn.init.constant_(network.head.bias, -5.0)
    assert {"logits", "input is used"} <= faults(examine_trained(network, loader(), bce_loss))
    assert faults(examine_trained(Sigmoid(), loader(), bce_loss)) == {"output"}
