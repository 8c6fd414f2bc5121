"""Losses of place and size: distances and components by loops, and what they do to a prediction."""

import math
from collections import deque
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.losses import bce_loss, dice_loss
from lungseg.losses_geometry import (
    boundary_loss,
    dice_boundary_loss,
    dice_lesion_bce_loss,
    lesion_bce_loss,
    lesion_weights,
    signed_distance,
)


@st.composite
def targets(draw):
    """(B, K, *spatial) in {0, 1}, in 2-D and 3-D: empty, all lesion, one pixel, scattered."""
    sides = draw(st.sampled_from([(1, 1), (1, 6), (5, 4), (6, 6), (3, 4, 3)]))
    share = draw(st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    return (torch.rand(2, 2, *sides, generator=generator) < share).float()


def maps(batch):
    return [dict(zip(product(*map(range, m.shape)), m.flatten().tolist(), strict=True)) for m in batch.flatten(0, 1)]


def distances_by_loops(pixels):
    """The distance to each pixel of the other kind, one after the other; half a pixel less is the border."""
    found = {}
    for here, kind in pixels.items():
        others = [math.dist(here, there) for there, other in pixels.items() if other != kind]
        found[here] = 0.0 if not others else (min(others) - 0.5) * (-1 if kind else 1)
    return found


def sizes_by_loops(pixels):
    """The number of pixels of the lesion that holds each pixel, by walking from neighbour to neighbour."""
    found = {}
    for start, kind in pixels.items():
        if not kind or start in found:
            continue
        lesion, waiting = {start}, deque([start])
        while waiting:
            here = waiting.popleft()
            for step in product((-1, 0, 1), repeat=len(here)):
                there = tuple(a + b for a, b in zip(here, step, strict=True))
                if pixels.get(there) and there not in lesion:
                    lesion.add(there)
                    waiting.append(there)
        found |= dict.fromkeys(lesion, len(lesion))
    return found


@given(target=targets())
def test_signed_distances_are_those_of_a_search_over_all_pixels(target):
    for got, pixels in zip(maps(signed_distance(target)), maps(target), strict=True):
        want = distances_by_loops(pixels)
        assert all(got[here] == pytest.approx(want[here], abs=1e-5) for here in pixels)


@given(target=targets(), size=st.sampled_from([1.0, 30.0]))
def test_every_lesion_weighs_the_same(target, size):
    for got, pixels in zip(maps(lesion_weights(target, size=size)), maps(target), strict=True):
        sizes = sizes_by_loops(pixels)
        assert all(got[p] == pytest.approx(size / sizes[p] if p in sizes else 1.0, rel=1e-5) for p in pixels)


@given(target=targets(), seed=st.integers(0, 99))
def test_the_losses_are_the_means_of_their_maps(target, seed):
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = logits.sigmoid()
    distance = signed_distance(target)  # an outside pixel costs p times it, an inside pixel 1 - p times
    want = torch.where(target == 1, (1 - p) * distance.abs(), p * distance).mean()
    torch.testing.assert_close(boundary_loss(logits, target), want)
    torch.testing.assert_close(dice_boundary_loss(logits, target, weight=0.3), dice_loss(logits, target) + 0.3 * want)
    cost = -(target * p.log() + (1 - target) * (1 - p).log())
    want = (lesion_weights(target, size=7.0) * cost).mean()
    torch.testing.assert_close(lesion_bce_loss(logits, target, size=7.0), want, rtol=1e-5, atol=1e-6)
    both = dice_lesion_bce_loss(logits, target, size=7.0, smooth=2.0, batch=True)
    torch.testing.assert_close(both, dice_loss(logits, target, smooth=2.0, batch=True) + want, rtol=1e-5, atol=1e-6)


def test_the_boundary_loss_is_lowest_for_the_target_itself_and_charges_by_distance():
    target = torch.zeros(1, 1, 12, 12)
    target[..., 4:8, 4:8] = 1
    near, far, missed = target.clone(), target.clone(), target.clone()
    near[..., 3, 5], far[..., 0, 0], missed[..., 4, 5] = 1, 1, 0
    right, *wrong = (boundary_loss(100 * x - 50, target).item() for x in (target, near, missed, far))
    assert right == pytest.approx(0, abs=1e-6) and 0.001 < wrong[0] < wrong[2] and wrong[1] > 0.001


@given(target=targets(), seed=st.integers(0, 99))
def test_its_gradient_is_that_of_the_published_form(target, seed):
    """The mean of p * distance: what they left out does not depend on p."""
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    (want,) = torch.autograd.grad((logits.sigmoid() * signed_distance(target)).mean(), logits)
    (grad,) = torch.autograd.grad(boundary_loss(logits, target), logits)
    torch.testing.assert_close(grad, want)


def test_half_a_pixel_apart_from_the_published_distances():
    """d outside and -(d - 1) inside, as the authors' code has them: less our half, they are ours."""
    target = torch.zeros(1, 1, 1, 7)
    target[..., 2:5] = 1
    published = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.0, 1.0, 2.0])
    assert torch.equal(signed_distance(target).flatten(), published - 0.5)


def test_a_small_lesion_pulls_as_hard_as_a_large_one():
    target = torch.zeros(1, 1, 16, 16)
    target[..., 1, 1] = target[..., 5:15, 5:15] = 1
    pulls = {}
    for name, loss in (("plain", bce_loss), ("weighted", partial(lesion_bce_loss, size=50))):
        logits = torch.zeros(1, 1, 16, 16, requires_grad=True)
        (grad,) = torch.autograd.grad(loss(logits, target), logits)
        pulls[name] = grad[..., 5:15, 5:15].sum() / grad[..., 1, 1].sum()
    assert pulls["plain"] == pytest.approx(100) and pulls["weighted"] == pytest.approx(1)


def test_a_soft_target_is_cut_at_one_half():
    target = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 0.0]).reshape(1, 1, 6)
    hard = (target >= 0.5).float()
    assert torch.equal(signed_distance(target), signed_distance(hard))
    assert torch.equal(lesion_weights(target, size=6), lesion_weights(hard, size=6))
    logits = torch.zeros(1, 1, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(lesion_bce_loss(logits, target, size=6), logits)
    assert grad.flatten()[1] == pytest.approx(0.25 / 6)  # but the cross entropy sees the share itself


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.bfloat16, torch.float64])
def test_maps_of_any_type_of_target(dtype):
    target = torch.eye(4).reshape(1, 1, 4, 4)
    for function in (signed_distance, partial(lesion_weights, size=3)):
        assert torch.equal(function(target.to(dtype)), function(target)) and function(target).dtype == torch.float32


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (partial(lesion_bce_loss, size=0.0), "size=0.0 must be a positive number of pixels"),
        (partial(lesion_bce_loss, size=math.nan), "size=nan must be"),
        (partial(dice_boundary_loss, weight=-1.0), "weight=-1.0 must be a number >= 0"),
    ],
)
def test_numbers_without_meaning_are_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
