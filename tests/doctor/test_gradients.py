"""Networks whose gradient does not reach a stage, or is too small, too large or no number."""

import pytest
import torch
from disc_batches import Blind, Detached, Hard, Sound, disc_batch
from torch import nn

from lungseg.doctor.finding import FAULT, OK, WARNING
from lungseg.doctor.gradients import gradient_finding, stages
from lungseg.losses import bce_loss

IMAGE, TARGET = disc_batch(4)


def test_gradients_are_listed_by_stage():
    found = gradient_finding(Sound(), IMAGE, TARGET, bce_loss)
    assert found.verdict == OK and [line.split()[0] for line in found.details] == ["stem", "middle", "head"]


def test_the_rms_of_a_stage_is_that_of_its_gradient():
    network = Sound()
    loss = bce_loss(network(IMAGE), TARGET)
    grads = torch.autograd.grad(loss, list(network.head.parameters()))
    expected = (sum((g**2).sum() for g in grads) / sum(g.numel() for g in grads)) ** 0.5
    found = gradient_finding(network, IMAGE, TARGET, bce_loss, steps=1)
    assert float(found.details[-1].split()[1]) == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize(("network", "words"), [(Detached, "none in stem, middle"), (Hard, "no gradient at all")])
def test_a_stage_without_gradient_is_named(network, words):
    found = gradient_finding(network(), IMAGE, TARGET, bce_loss)
    assert words in found.measured and found.verdict == FAULT


def test_frozen_exploding_vanishing_and_broken_gradients_are_named():
    frozen = Sound()
    frozen.stem.requires_grad_(False)
    found = gradient_finding(frozen, IMAGE, TARGET, bce_loss)
    assert found.verdict == WARNING and "stem frozen" in found.cause
    found = gradient_finding(Sound(), IMAGE, TARGET, lambda x, y: 1e6 * bce_loss(x, y))
    assert found.verdict == WARNING and "exploding" in found.cause
    found = gradient_finding(Sound(), IMAGE, TARGET, lambda x, y: bce_loss(x, y) + (0 * x).sum().sqrt())
    assert found.verdict == FAULT and "NaN" in found.cause

    class Faint(Sound):
        def forward(self, image):
            features = self.features(image)
            return self.head(features.detach() + 1e-8 * (features - features.detach()))

    found = gradient_finding(Faint(), IMAGE, TARGET, bce_loss)
    assert found.verdict == WARNING and "vanishing" in found.cause


def test_a_head_that_starts_at_0_lets_the_gradient_through_after_a_step():
    network = Sound()
    nn.init.zeros_(network.head.weight)
    assert gradient_finding(network, IMAGE, TARGET, bce_loss, steps=1).verdict == FAULT
    assert gradient_finding(network, IMAGE, TARGET, bce_loss).verdict in (OK, WARNING)


def test_stages_are_those_inside_a_wrapper_and_bare_parameters_count():
    assert list(stages(nn.Sequential(Sound()))) == ["stem", "middle", "head"]
    assert list(stages(Blind())) == ["stem", "middle", "head", "map"]
