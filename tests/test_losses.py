"""Losses: the shared checks, how a batch decomposes, cases by hand, and the published implementations."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.checks.scores.cross_entropy import check_bce_loss
from lungseg.checks.scores.losses import check_dice_loss, check_loss_in_half_precision
from lungseg.losses import (
    STEEP,
    bce_loss,
    dice_bce_loss,
    dice_focal_loss,
    dice_loss,
    focal_loss,
    focal_tversky_loss,
    tversky_loss,
)
from lungseg.losses_geometry import boundary_loss, dice_boundary_loss, dice_lesion_bce_loss, lesion_bce_loss

FIXTURE = Path(__file__).parent / "fixtures/metrics/losses.pt"
PER_IMAGE = {  # the loss of a batch is the mean over its images
    "bce": bce_loss,
    "bce, weighted": partial(bce_loss, pos_weight=3.0),
    "focal": partial(focal_loss, gamma=2.0),
    "focal, balanced": partial(focal_loss, gamma=0.5, alpha=0.25),
    "dice": dice_loss,
    "dice of squares": partial(dice_loss, squared=True),
    "tversky": partial(tversky_loss, alpha=0.3, beta=0.7),
    "focal tversky": partial(focal_tversky_loss, alpha=0.3, beta=0.7, gamma=4 / 3),
    "steep focal tversky": partial(focal_tversky_loss, alpha=0.3, beta=0.7, gamma=3.0),
    "dice + bce": dice_bce_loss,
    "dice + focal": partial(dice_focal_loss, gamma=2.0),
    "boundary": boundary_loss,
    "dice + boundary": partial(dice_boundary_loss, weight=0.1),
    "lesion bce": partial(lesion_bce_loss, size=20.0),
    "dice + lesion bce": partial(dice_lesion_bce_loss, size=20.0),
}
POOLED = {
    "batch dice": partial(dice_loss, batch=True),
    "batch tversky": partial(tversky_loss, alpha=0.3, beta=0.7, batch=True),
    "batch focal tversky": partial(focal_tversky_loss, alpha=0.3, beta=0.7, gamma=2.0, batch=True),
}
NAMES, LOSSES = list(PER_IMAGE | POOLED), list((PER_IMAGE | POOLED).values())


@st.composite
def batches(draw, largest: float):
    """Pairs (logits, target), each (B, K, H, W): empty, all-lesion and other targets, logits up to +-`largest`."""
    B, K, H, W = (draw(st.integers(1, top)) for top in (3, 2, 4, 4))
    shares = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=B * K, max_size=B * K))
    share = torch.tensor(shares).reshape(B, K, 1, 1)  # of lesion pixels
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    target = (torch.rand(B, K, H, W, generator=generator) < share).float()
    logits = largest * (2 * torch.rand(B, K, H, W, generator=generator) - 1)
    if draw(st.booleans()):
        logits = largest * logits.sign()
    return logits, target


def test_our_bce_loss_passes_the_shared_check():
    check_bce_loss(bce_loss)


@pytest.mark.parametrize("smooth", [1e-5, 1.0, 2.0])
@pytest.mark.parametrize("batch", [False, True])
def test_our_dice_loss_passes_the_shared_check(batch, smooth):
    check_dice_loss(partial(dice_loss, batch=batch, smooth=smooth))


@pytest.mark.parametrize("batch", [False, True])
def test_dice_of_squares_is_its_formula_and_passes_the_shared_check(batch):
    check_dice_loss(partial(dice_loss, batch=batch, squared=True))
    logits, target = torch.randn(2, 3, 4, 5).double(), (torch.rand(2, 3, 4, 5) < 0.3).double()
    shares = []
    for maps in [(slice(None), k) for k in range(3)] if batch else [(b, k) for b in range(2) for k in range(3)]:
        p, g = logits[maps].sigmoid(), target[maps]
        shares.append((2 * (p * g).sum() + 0.5) / ((p * p).sum() + (g * g).sum() + 0.5))
    want = 1 - sum(shares) / len(shares)
    torch.testing.assert_close(dice_loss(logits, target, batch=batch, squared=True, smooth=0.5), want)
    both = dice_bce_loss(logits, target, batch=batch, squared=True, smooth=0.5)
    torch.testing.assert_close(both, want + bce_loss(logits, target))


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_half_precision_logits_are_summed_in_float32(loss):
    check_loss_in_half_precision(loss)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_autocast_does_not_lower_the_precision(loss):
    logits, target = torch.randn(2, 1, 40, 40), torch.randint(2, (2, 1, 40, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(logits, target), loss(logits.clone(), target))
        inside = loss(logits, target)
    assert torch.equal(inside, loss(logits, target)) and inside.dtype == torch.float32


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("lesion", [0.0, 1.0], ids=["no lesion", "all lesion"])
@pytest.mark.parametrize("logit", [-1e4, -50.0, 0.0, 50.0, 1e4])
def test_value_and_gradient_are_finite_at_the_extremes(loss, lesion, logit):
    logits = torch.full((2, 1, 8, 8), logit, requires_grad=True)
    value = loss(logits, torch.full((2, 1, 8, 8), lesion))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@given(batch=batches(largest=50.0))
def test_every_loss_is_finite_with_a_finite_gradient(batch):
    for loss in LOSSES:
        logits = batch[0].clone().requires_grad_()
        value = loss(logits, batch[1])
        (grad,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and grad.isfinite().all()


@given(batch=batches(largest=4.0), pooled=st.booleans(), smooth=st.sampled_from([1e-5, 1.0, 2.0]))
def test_dice_loss_is_in_0_1_ignores_the_order_and_falls_as_the_prediction_improves(batch, pooled, smooth):
    logits, target = batch
    loss = partial(dice_loss, batch=pooled, smooth=smooth)
    value = loss(logits, target).item()
    assert -1e-5 <= value <= 1 + 1e-5
    for dim in (0, 1, 3):
        assert loss(logits.flip(dim), target.flip(dim)).item() == pytest.approx(value, abs=1e-5)
    better = loss(logits + 2 * (2 * target - 1), target).item()
    assert better <= value + 1e-5
    if target.sum((0, 2, 3)).min() > 0:  # every channel has a lesion, so its Dice has certainly improved
        assert better < value


@given(counts=st.tuples(*[st.integers(0, 130)] * 3), smooth=st.sampled_from([1e-5, 1.0, 2.0]))
def test_the_dice_loss_of_a_hard_prediction_is_its_formula(counts, smooth):
    tp, fp, fn = counts
    predicted = torch.tensor([1.0] * (tp + fp) + [-1.0] * (400 - tp - fp)).reshape(1, 1, 20, 20)
    target = torch.tensor([1.0] * tp + [0.0] * fp + [1.0] * fn + [0.0] * (400 - tp - fp - fn)).reshape(1, 1, 20, 20)
    want = 1 - (2 * tp + smooth) / (2 * tp + fp + fn + smooth)
    assert dice_loss(50 * predicted, target, smooth=smooth).item() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_the_gradient_is_the_slope_of_the_value(loss):
    target = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]]).reshape(2, 1, 2, 2)  # one image without a lesion
    logits = torch.randn(2, 1, 2, 2, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


# ---- what the parts of a batch have to do with the whole ---------------------------------------------------


@pytest.mark.parametrize("loss", PER_IMAGE.values(), ids=PER_IMAGE)
def test_the_loss_of_a_batch_is_the_mean_over_its_images(loss):
    logits, target = torch.randn(6, 2, 5, 7).double(), torch.randint(2, (6, 2, 5, 7))
    each = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(loss(logits, target), torch.stack(each).mean())


def test_pooling_the_batch_lets_an_empty_image_lean_on_the_others():
    logits = torch.full((2, 1, 10, 10), -2.0)
    target = torch.zeros(2, 1, 10, 10)
    target[0, 0, :5, :5] = 1
    alone = dice_loss(logits[1:], target[1:])
    together = dice_loss(logits, target, batch=True)
    apart = dice_loss(logits, target)
    assert together < apart < alone
    one = torch.cat([logits[0], logits[1]], dim=1)[None], torch.cat([target[0], target[1]], dim=1)[None]
    torch.testing.assert_close(together, dice_loss(*one))  # the two slices as one tall slice


@pytest.mark.parametrize("batch", [False, True])
def test_dice_plus_bce_is_the_sum_of_the_two_with_the_same_arguments(batch):
    logits, target = torch.randn(3, 2, 6, 6), torch.randint(2, (3, 2, 6, 6))
    target[0] = 0  # so that pooling makes a difference
    want = dice_loss(logits, target, batch=batch, smooth=3.0) + bce_loss(logits, target)
    torch.testing.assert_close(dice_bce_loss(logits, target, batch=batch, smooth=3.0), want)


@pytest.mark.parametrize("batch", [False, True])
def test_dice_plus_weighted_or_focal_cross_entropy_hands_every_argument_on(batch):
    logits, target = torch.randn(3, 2, 6, 6), torch.randint(2, (3, 2, 6, 6))
    target[0] = 0
    region = dice_loss(logits, target, batch=batch, smooth=3.0)
    want = region + bce_loss(logits, target, pos_weight=5.0)
    torch.testing.assert_close(dice_bce_loss(logits, target, batch=batch, smooth=3.0, pos_weight=5.0), want)
    want = region + focal_loss(logits, target, gamma=3.0, alpha=0.9)
    torch.testing.assert_close(dice_focal_loss(logits, target, gamma=3.0, alpha=0.9, batch=batch, smooth=3.0), want)


@given(batch=batches(largest=4.0), pooled=st.booleans())
def test_channels_are_scored_apart_and_averaged(batch, pooled):
    logits, target = batch
    K = logits.shape[1]
    each = [dice_loss(logits[:, k : k + 1], target[:, k : k + 1], batch=pooled) for k in range(K)]
    torch.testing.assert_close(dice_loss(logits, target, batch=pooled), torch.stack(each).mean())


PLACELESS = [name for name in NAMES if "boundary" not in name and "lesion" not in name]


@pytest.mark.parametrize("loss", [(PER_IMAGE | POOLED)[name] for name in PLACELESS], ids=PLACELESS)
def test_a_volume_is_its_slices_side_by_side(loss):
    logits, target = torch.randn(2, 1, 3, 4, 5), torch.randint(2, (2, 1, 3, 4, 5))
    torch.testing.assert_close(loss(logits, target), loss(logits.flatten(2, 3), target.flatten(2, 3)))


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_the_dtype_of_the_target_changes_nothing(loss, dtype):
    logits, target = torch.randn(2, 1, 6, 6), torch.randint(2, (2, 1, 6, 6))
    assert torch.equal(loss(logits, target.to(dtype)), loss(logits, target.float()))


# ---- by hand -----------------------------------------------------------------------------------------------


def test_four_pixels_by_hand():
    logits = torch.zeros(1, 1, 2, 2)  # every probability is 1/2
    target = torch.tensor([[[[1, 0], [0, 0]]]])
    # overlap 1/2, sizes 2 and 1: (2 * 1/2 + 1) / (2 + 1 + 1) = 1/2
    torch.testing.assert_close(dice_loss(logits, target), torch.tensor(0.5))
    torch.testing.assert_close(bce_loss(logits, target), torch.log(torch.tensor(2.0)))
    torch.testing.assert_close(dice_bce_loss(logits, target), 0.5 + torch.log(torch.tensor(2.0)))


@pytest.mark.parametrize("smooth", [1e-5, 1.0, 100.0])
def test_the_gradient_on_an_empty_image_is_p_1_minus_p_smooth_over_the_square(smooth):
    logits = (torch.randn(1, 1, 16, 16).double() - 3).requires_grad_()
    dice_loss(logits, torch.zeros(1, 1, 16, 16), smooth=smooth).backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, p * (1 - p) * smooth / (p.sum() + smooth) ** 2)


def test_bce_of_a_wrong_logit_of_50_costs_50_nats():
    assert bce_loss(torch.full((1, 1, 1, 1), 50.0), torch.zeros(1, 1, 1, 1)).item() == pytest.approx(50.0)


# ---- published implementations -----------------------------------------------------------------------------

# smp adds `smooth` to the overlap and to half the sizes, so its 1 is our 2.
PARITY = {
    "bce_logits": bce_loss,
    "smp_dice_binary": partial(dice_loss, batch=True, smooth=1e-7),
    "smp_dice_binary_smooth1": partial(dice_loss, batch=True, smooth=2.0),
    "monai_dice_sigmoid": partial(dice_loss, smooth=1e-5),
    "monai_dice_sigmoid_batch": partial(dice_loss, batch=True, smooth=1e-5),
    "monai_dicece_sigmoid": partial(dice_bce_loss, smooth=1e-5),
    "smp_tversky_binary_.3_.7": partial(tversky_loss, alpha=0.3, beta=0.7, batch=True, smooth=1e-7),
    "monai_tversky_sigmoid": partial(tversky_loss, alpha=0.3, beta=0.7, smooth=1e-5),
    "smp_focal_binary": partial(focal_loss, gamma=2.0, alpha=0.25),
    "monai_dicefocal_sigmoid": partial(dice_focal_loss, gamma=2.0, smooth=1e-5),
}


@pytest.mark.parametrize("name", PARITY)
def test_value_and_gradient_equal_the_published_loss(name):
    fixture = torch.load(FIXTURE, weights_only=True)
    logits, want = fixture["logits"].requires_grad_(), fixture["ref"][name]
    loss = PARITY[name](logits, fixture["target"])
    loss.backward()
    assert loss.item() == pytest.approx(float(want["value"]), abs=1e-6)
    torch.testing.assert_close(logits.grad, want["grad"], rtol=1e-4, atol=1e-9)


# ---- weights and powers ------------------------------------------------------------------------------------


@given(batch=batches(largest=4.0), pooled=st.booleans(), smooth=st.sampled_from([1e-5, 1.0, 2.0]))
def test_the_tversky_loss_holds_dice_and_iou(batch, pooled, smooth):
    """Half of each error is the Dice with half the smoothing; all of both is the IoU."""
    logits, target = batch[0].double(), batch[1].double()
    tversky = partial(tversky_loss, logits, target, batch=pooled)
    dice = dice_loss(logits, target, batch=pooled, smooth=smooth)
    torch.testing.assert_close(tversky(alpha=0.5, beta=0.5, smooth=smooth / 2), dice)
    p = logits.sigmoid()
    over = (0, 2, 3) if pooled else (2, 3)
    overlap, union = (p * target).sum(over), (p + target - p * target).sum(over)
    want = (1 - (overlap + smooth) / (union + smooth)).mean()
    torch.testing.assert_close(tversky(alpha=1.0, beta=1.0, smooth=smooth), want)


@given(counts=st.tuples(*[st.integers(0, 130)] * 3), alpha=st.floats(0, 2), beta=st.floats(0.1, 2))
def test_the_tversky_loss_of_a_hard_prediction_is_its_formula(counts, alpha, beta):
    tp, fp, fn = counts
    rest = 400 - tp - fp - fn
    predicted = torch.tensor([1.0] * (tp + fp) + [-1.0] * (fn + rest), dtype=torch.float64).reshape(1, 1, 20, 20)
    target = torch.tensor([1.0] * tp + [0.0] * fp + [1.0] * fn + [0.0] * rest).reshape(1, 1, 20, 20)
    index = (tp + 1) / (tp + alpha * fp + beta * fn + 1)
    value = tversky_loss(50 * predicted, target, alpha=alpha, beta=beta)
    assert value.item() == pytest.approx(1 - index, abs=1e-12)
    focal = focal_tversky_loss(50 * predicted, target, alpha=alpha, beta=beta, gamma=2.0)
    assert focal.item() == pytest.approx((1 - index) ** 0.5 if 1 - index >= STEEP else 100 * (1 - index), abs=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 4 / 3, 3.0])
def test_the_focal_tversky_loss_is_continuous_and_rises_to_a_useless_map(gamma):
    """Over 1 - TI from 0 to nearly 1, through the point where the line ends: no step down, no jump."""
    target = torch.zeros(400, 1, 1, 100)
    target[..., :50] = 1
    logits = torch.linspace(40, -9, 400, dtype=torch.float64)[:, None, None, None] * (2 * target - 1)
    loss = partial(focal_tversky_loss, alpha=0.5, beta=0.5, gamma=gamma)
    values = torch.stack([loss(x[None], t[None]) for x, t in zip(logits, target, strict=True)])
    assert values[0] == pytest.approx(0, abs=1e-6) and values[-1] > 0.9
    assert (values.diff() >= 0).all() and values.diff().max() < 0.1


@pytest.mark.parametrize("gamma", [4 / 3, 3.0])
def test_a_map_that_is_exactly_right_has_loss_and_gradient_0_where_the_plain_power_has_nan(gamma):
    target = torch.zeros(1, 1, 8, 8)
    target[..., :3, :3] = 1
    logits = (2e4 * target - 1e4).requires_grad_()
    value = focal_tversky_loss(logits, target, alpha=0.3, beta=0.7, gamma=gamma)
    value.backward()
    assert value.item() == 0 and not logits.grad.any()
    probs = logits.detach().sigmoid().requires_grad_()
    index = ((probs * target).sum() + 1) / ((probs * target).sum() + 0.7 * ((1 - probs) * target).sum() + 1)
    ((1 - index) ** (1 / gamma)).backward()
    assert not probs.grad.isfinite().all()


def soft(batch):
    logits, target = batch
    return logits.double(), (target * 0.75 + 0.1).double()


@given(batch=batches(largest=8.0), gamma=st.floats(0, 5), alpha=st.none() | st.floats(0, 1))
def test_the_focal_loss_is_its_formula_pixel_by_pixel(batch, gamma, alpha):
    """With Python's numbers, for hard and for soft targets: of these the mean over what the readers say."""
    for logits, target in (batch, soft(batch)):
        costs = []
        for x, g in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            lesion, background = -((1 - p) ** gamma) * math.log(p), -(p**gamma) * math.log(1 - p)
            a, b = (1, 1) if alpha is None else (alpha, 1 - alpha)
            costs.append(g * a * lesion + (1 - g) * b * background)
        want = math.fsum(costs) / len(costs)
        assert focal_loss(logits, target, gamma=gamma, alpha=alpha).item() == pytest.approx(want, rel=1e-3, abs=1e-6)


@given(batch=batches(largest=50.0))
def test_without_focus_or_weight_the_loss_is_bce(batch):
    for logits, target in (batch, soft(batch)):
        bce = bce_loss(logits, target)
        torch.testing.assert_close(focal_loss(logits, target, gamma=0.0), bce)
        torch.testing.assert_close(2 * focal_loss(logits, target, gamma=0.0, alpha=0.5), bce)
        assert torch.equal(bce_loss(logits, target, pos_weight=1.0), bce)


@given(batch=batches(largest=8.0), weight=st.floats(0.1, 50))
def test_pos_weight_counts_lesion_pixels_so_many_times(batch, weight):
    logits, target = soft(batch)
    lesion, background = -torch.log(logits.sigmoid()), -torch.log(1 - logits.sigmoid())
    want = (weight * target * lesion + (1 - target) * background).mean()
    torch.testing.assert_close(bce_loss(logits, target, pos_weight=weight), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("weight", "share"), [(1.0, 0.25), (1.0, 0.75), (3.0, 0.25), (0.2, 0.9)])
def test_cross_entropy_with_a_soft_target_is_smallest_where_its_docstring_says(weight, share):
    """And Dice is not: it wants 0 or 1, the trap of soft targets."""
    best = weight * share / (weight * share + 1 - share)
    logits = torch.logit(torch.tensor([best - 0.01, best, best + 0.01], dtype=torch.float64))
    values = [bce_loss(x.expand(1, 1, 4), torch.full((1, 1, 4), share), pos_weight=weight).item() for x in logits]
    assert values[1] < min(values[0], values[2])
    at_share, at_one = (dice_loss(torch.full((1, 1, 4), x), torch.full((1, 1, 4), 0.75)) for x in (1.0986, 30.0))
    assert at_one < at_share


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (1, 1, 8, 8), (4, 2, 8, 8), (4, 1, 8, 1)])
def test_shapes_that_would_broadcast_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"target is \(.*\), but both must be \(B, K, \*spatial\)"):
        loss(torch.zeros(4, 1, 8, 8), torch.zeros(shape))


def test_maps_without_a_channel_axis_are_refused():
    with pytest.raises(ValueError, match=r"unsqueeze\(1\)"):
        dice_loss(torch.zeros(8, 8), torch.zeros(8, 8))


@pytest.mark.parametrize("smooth", [0.0, -1.0, float("nan")])
def test_a_smoothing_that_leaves_0_0_is_refused(smooth):
    with pytest.raises(ValueError, match="would give 0/0 on an empty image"):
        dice_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), smooth=smooth)


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (partial(bce_loss, pos_weight=0.0), "pos_weight=0.0 must be a positive number"),
        (partial(bce_loss, pos_weight=math.nan), "pos_weight=nan must be"),
        (partial(bce_loss, pos_weight=math.inf), "pos_weight=inf must be"),
        (partial(focal_loss, gamma=-1.0), "gamma >= 0"),
        (partial(focal_loss, gamma=2.0, alpha=1.5), r"alpha in \[0, 1\]"),
        (partial(tversky_loss, alpha=0.0, beta=0.0), "not both 0"),
        (partial(tversky_loss, alpha=-0.1, beta=1.0), "alpha=-0.1"),
        (partial(tversky_loss, alpha=0.5, beta=0.5, smooth=0.0), "0/0 on an empty image"),
        (partial(focal_tversky_loss, alpha=0.5, beta=0.5, gamma=0.0), "gamma=0.0 must be a positive number"),
    ],
)
def test_numbers_without_meaning_are_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
