"""Can it learn? Trainings of a few steps, of sound and of broken networks."""

import math

import pytest
import torch
from disc_batches import Blind, SlowStatistics, Sound, disc_batch
from hypothesis import given, strategies as st

from lungseg.doctor.finding import FAULT, OK, WARNING
from lungseg.doctor.learning import Curve, Learner, dice_of, overfit_findings, rate_finding
from lungseg.losses import bce_loss, dice_bce_loss

IMAGE, TARGET = disc_batch(4)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_dice_is_that_of_a_loop(pixels):
    tp = sum(p and t for p, t in pixels)
    wrong = sum(p != t for p, t in pixels)
    expected = 2 * tp / (2 * tp + wrong) if tp or wrong else 0
    assert dice_of(*torch.tensor(pixels).T) == pytest.approx(expected)


def test_a_training_is_the_textbook_loop_and_leaves_no_trace():
    torch.manual_seed(0)
    ours = Sound()
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    curve = Learner(ours, bce_loss, grad_clip=0.1).train(IMAGE, TARGET, 0.01, 5)
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.01, weight_decay=0.0)
    ours.train()
    for loss in curve.losses:
        expected = bce_loss(ours(IMAGE), TARGET)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        optimizer.zero_grad()
        expected.backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 0.1)
        optimizer.step()
    assert len(curve.losses) == len(curve.dice) == 6


def test_the_fall_of_a_loss():
    assert Curve([2.0, 1.0, 1.0, 1.0], [0] * 4, 0, 0).fall == 0.5
    assert Curve([-1.0, -3.0, -3.0, -3.0], [0] * 4, 0, 0).fall == 2.0  # a negative one falls too
    assert Curve([1.0, math.nan], [0, 0], 0, 0).fall == -math.inf


@pytest.mark.parametrize(
    ("lr", "verdict", "words"),
    [(None, OK, ""), (1e-2, OK, ""), (1e4, FAULT, "too high"), (1e-9, WARNING, "very low")],
)
def test_an_absurd_rate_is_named_and_another_recommended(lr, verdict, words):
    torch.manual_seed(0)
    found, best = rate_finding(Learner(Sound(), dice_bce_loss), IMAGE, TARGET, lr)
    assert found.verdict == verdict and words in found.cause
    assert 1e-3 <= best <= 1 and len(found.details) == 6 + (lr in (1e4, 1e-9))
    assert sum(line.endswith("<- yours") for line in found.details) == (lr is not None)


def test_a_loss_that_no_rate_lowers_is_a_fault():
    found, _ = rate_finding(Learner(Sound(), lambda x, y: 0 * bce_loss(x, y) + 1), IMAGE, TARGET, 1e-3)
    assert found.verdict == FAULT and "no rate lowers the loss" in found.cause


def overfitted(network, loss=dice_bce_loss, steps=80, image=IMAGE):
    torch.manual_seed(0)
    found = overfit_findings(Learner(network(), loss), image, TARGET[: len(image)], 0.03, steps)
    return {f.name: f for f in found}


def test_a_sound_network_learns_by_heart_what_a_blind_one_cannot():
    found = overfitted(Sound)
    assert [f.verdict for f in found.values()] == [OK] * 3
    found = overfitted(Blind, steps=40)
    assert found["one batch by heart"].verdict in (FAULT, WARNING)
    assert found["input is used"].verdict == FAULT and "do not help" in found["input is used"].cause


def test_constant_images_do_not_help():
    assert overfitted(Sound, steps=30, image=torch.full_like(IMAGE, 0.3))["input is used"].verdict == FAULT


def test_one_image_alone_cannot_be_swapped():
    assert "input is used" not in overfitted(Sound, image=IMAGE[:1])


def test_a_loss_with_the_wrong_sign_falls_while_no_lesion_is_found():
    found = overfitted(Sound, lambda x, y: -dice_bce_loss(x, y), steps=30)["one batch by heart"]
    assert found.verdict == FAULT and "wrong sign" in found.cause


def test_running_statistics_that_do_not_follow_are_named():
    found = overfitted(SlowStatistics)["evaluation mode"]
    assert found.verdict == WARNING and "momentum" in found.cause
