"""Networks and losses broken on purpose, before they are trained."""

import pytest
import torch
import torch.nn.functional as F
from disc_batches import (
    Fails,
    Huge,
    NotANumber,
    ReLU,
    Sigmoid,
    Sound,
    TooSmall,
    disc_batch,
)
from hypothesis import given, strategies as st
from torch import nn

from lungseg.doctor.finding import FAULT, OK, WARNING
from lungseg.doctor.network import (
    histogram_finding,
    loss_finding,
    output_finding,
    restored,
    start_finding,
    takes_probabilities,
    text_histogram,
    trained_findings,
)
from lungseg.losses import bce_loss, dice_bce_loss, dice_loss
from lungseg.training.loss import NUMBERS, make_loss
from lungseg.training.recipe import TrainingRecipe

IMAGE, TARGET = disc_batch(4)


def dice_of_probabilities(probs, target):
    return 1 - (2 * (probs * target).sum() + 1) / (probs.sum() + target.sum() + 1)


LOGIT_LOSSES = [make_loss(TrainingRecipe(loss=name)) for name in NUMBERS]
LOGIT_LOSSES += [F.binary_cross_entropy_with_logits]
PROB_LOSSES = [F.binary_cross_entropy, dice_of_probabilities, lambda p, t: F.mse_loss(p, t)]


# ---- the loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_loss_of_logits_is_distinguished_from_one_of_probabilities(sign, num_classes):
    for losses, expected in ((LOGIT_LOSSES, False), (PROB_LOSSES, True)):
        for loss in losses:
            assert takes_probabilities(lambda x, y, loss=loss: sign * loss(x, y), num_classes) is expected


@pytest.mark.parametrize("loss", LOGIT_LOSSES + PROB_LOSSES)
def test_a_sound_loss_is_lowest_for_the_target(loss):
    assert loss_finding(loss, TARGET).verdict in (OK, WARNING)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda x, y: -dice_bce_loss(x, y), "wrong sign"),
        (lambda x, y: 1 - dice_loss(x, y), "wrong sign"),  # Dice itself
        (lambda x, y: bce_loss(-x, y), "wrong sign"),
        (lambda x, y: bce_loss(x, y) - 1, "negative loss"),
        (lambda x, y: dice_loss(x, y).log(), "negative loss"),
        (lambda x, y: (x.sigmoid() * (1 - y)).sum() / 0, "0/0"),
        (lambda x, y: F.cross_entropy(x, y[:, 0, 0]), "another shape"),
    ],
)
def test_a_broken_loss_is_named(loss, words):
    found = loss_finding(loss, TARGET)
    assert found.verdict == FAULT and words in found.cause, str(found)


def test_masks_of_255_make_the_loss_negative():
    found = loss_finding(bce_loss, 255 * TARGET)
    assert found.verdict == FAULT and "0 and 255" in found.cause


def test_cross_entropy_of_tiny_lesions_is_warned_about():
    tiny = torch.zeros(2, 1, 64, 64)
    tiny[:, 0, :2, :3] = 1
    found = loss_finding(bce_loss, tiny)
    assert found.verdict == WARNING and "costs almost nothing" in found.cause
    assert loss_finding(dice_bce_loss, tiny).verdict == OK


# ---- the output -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "loss", "words"),
    [
        (Sigmoid, bce_loss, "ends in a sigmoid"),
        (Sigmoid, dice_bce_loss, "ends in a sigmoid"),
        (Sound, F.binary_cross_entropy, "the loss takes probabilities"),
        (ReLU, bce_loss, "ends in a ReLU"),
        (TooSmall, bce_loss, "broadcasting"),
        (Fails, bce_loss, "RuntimeError: mat1"),
        (NotANumber, bce_loss, "NaN"),
    ],
)
def test_a_wrong_output_is_named(network, loss, words):
    found = output_finding(network(), IMAGE, TARGET, loss)
    assert found.verdict == FAULT and words in found.cause


def test_logits_and_probabilities_are_fine_where_they_belong():
    assert output_finding(Sound(), IMAGE, TARGET, bce_loss).measured.startswith("logits")
    assert output_finding(Sigmoid(), IMAGE, TARGET, F.binary_cross_entropy).measured.startswith("probabilities")


def test_a_head_that_starts_at_0_is_no_sigmoid():
    network = Sound()
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    assert output_finding(network, IMAGE, TARGET, bce_loss).verdict == OK


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=60))
def test_the_shares_of_a_histogram_sum_to_one(values):
    lines = text_histogram(torch.tensor(values))
    if len(lines) == 1:
        assert lines[0].endswith("all values")
    else:
        assert sum(float(line.split()[-1].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.1)
        assert all(("#" in line) == (not line.endswith(" 0.00%")) for line in lines)


def test_logits_of_one_sign_are_a_fault_of_a_trained_network_only():
    network = Sound().eval()
    nn.init.zeros_(network.head.weight)
    for bias, words in ((-3.0, "it predicts nothing"), (3.0, "it predicts everything")):
        nn.init.constant_(network.head.bias, bias)
        found = histogram_finding(network, IMAGE, TARGET, bce_loss, trained=True)
        assert found.verdict == FAULT and words in found.cause and found.details
        assert histogram_finding(network, IMAGE, TARGET, bce_loss, trained=False).verdict == OK
    nn.init.constant_(network.head.bias, -40.0)
    found = histogram_finding(network, IMAGE, TARGET, bce_loss, trained=False)
    assert found.verdict == FAULT and "no gradient" in found.cause


# ---- the start --------------------------------------------------------------------------------------------------


def test_the_loss_at_the_start_is_that_of_an_undecided_network():
    found = start_finding(Sound(), IMAGE, TARGET, bce_loss)
    assert found.verdict == OK and "0.6931 for 1/2 everywhere" in found.measured
    prior = Sound()
    nn.init.zeros_(prior.head.weight)
    prior.head.bias.data.fill_(TARGET.mean().logit())
    assert start_finding(prior, IMAGE, TARGET, bce_loss).verdict == OK
    found = start_finding(Huge(), IMAGE, TARGET, bce_loss)
    assert found.verdict == FAULT and "logits far from 0" in found.cause


def test_whatever_happens_the_network_is_restored():
    network = Sound().eval()
    network.stem.weight.grad = torch.ones_like(network.stem.weight)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ZeroDivisionError), restored(network):
        network.train()
        network(IMAGE)  # changes running statistics
        nn.init.zeros_(network.head.weight)
        network.zero_grad()
        raise ZeroDivisionError
    assert not any(m.training for m in network.modules())
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert bool((network.stem.weight.grad == 1).all()) and network.head.weight.grad is None


# ---- a trained network ------------------------------------------------------------------------------------------


def test_a_network_that_finds_lesions_is_fine_and_one_that_ignores_its_images_is_not():
    class Threshold(nn.Module):
        def forward(self, image):
            return 20 * (F.avg_pool2d(image, 3, 1, 1) - 0.4)

    loss, used = trained_findings(Threshold(), IMAGE, TARGET, dice_bce_loss)
    assert loss.verdict == used.verdict == OK

    class FixedMap(nn.Module):
        def forward(self, image):
            return torch.logit(TARGET.mean(0, keepdim=True).clamp(0.01, 0.99)).expand(len(image), 1, 32, 32)

    loss, used = trained_findings(FixedMap(), IMAGE, TARGET, bce_loss)
    assert loss.verdict == OK  # better than a constant, and still blind
    assert used.verdict == FAULT and "does not use its input" in used.cause
    loss, _ = trained_findings(Sound(), IMAGE, TARGET, bce_loss)
    assert loss.verdict == FAULT and "learned nothing" in loss.cause
