"""Losses: the shared checks, how a batch decomposes, cases by hand, and the published implementations."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.checks.scores.cross_entropy import check_bce_loss
from lungseg.checks.scores.losses import check_dice_loss, check_loss_in_half_precision
from lungseg.losses import bce_loss, dice_bce_loss, dice_loss

FIXTURE = Path(__file__).parent / "fixtures/metrics/losses.pt"
LOSSES = [bce_loss, dice_loss, partial(dice_loss, batch=True), dice_bce_loss]
NAMES = ["bce", "dice", "batch dice", "dice + bce"]


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


@pytest.mark.parametrize("loss", [bce_loss, dice_loss, dice_bce_loss])
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


@given(batch=batches(largest=4.0), pooled=st.booleans())
def test_channels_are_scored_apart_and_averaged(batch, pooled):
    logits, target = batch
    K = logits.shape[1]
    each = [dice_loss(logits[:, k : k + 1], target[:, k : k + 1], batch=pooled) for k in range(K)]
    torch.testing.assert_close(dice_loss(logits, target, batch=pooled), torch.stack(each).mean())


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
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
}


@pytest.mark.parametrize("name", PARITY)
def test_value_and_gradient_equal_the_published_loss(name):
    fixture = torch.load(FIXTURE, weights_only=True)
    logits, want = fixture["logits"].requires_grad_(), fixture["ref"][name]
    loss = PARITY[name](logits, fixture["target"])
    loss.backward()
    assert loss.item() == pytest.approx(float(want["value"]), abs=1e-6)
    torch.testing.assert_close(logits.grad, want["grad"], rtol=1e-4, atol=1e-9)


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
