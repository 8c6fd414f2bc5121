"""What any Dice loss must satisfy, however it smooths and whether it pools the images of a batch or not."""

from collections.abc import Callable

import torch
from hypothesis import given, strategies as st
from torch import Tensor

from lungseg.checks.running import learner_settings


@st.composite
def batches(draw, largest: float):
    """(logits, target), (B, K, H, W): empty, all-lesion and other targets mixed, logits up to +-`largest`."""
    B, K, H, W = (draw(st.integers(1, top)) for top in (3, 2, 4, 4))
    shares = draw(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=B * K, max_size=B * K))
    share = torch.tensor(shares).reshape(B, K, 1, 1)  # of lesion pixels
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    target = (torch.rand(B, K, H, W, generator=generator) < share).float()
    logits = largest * (2 * torch.rand(B, K, H, W, generator=generator) - 1)
    if draw(st.booleans()):
        logits = largest * logits.sign()
    return logits, target


def check_dice_loss(dice_loss: Callable[[Tensor, Tensor], Tensor], *, max_examples: int = 100) -> None:
    """Fail unless `dice_loss(logits, target)` is a loss that a network can be trained with.

    Both are (B, K, *spatial). The loss of a hard prediction is one minus its Dice coefficient, up to a
    smoothing of two pixels; every loss is in [0, 1] with a finite gradient, also without any lesion; the
    order of images and channels does not matter; a better prediction never has a higher loss.
    """
    _check_hard_predictions(dice_loss, max_examples)
    _check_range_and_gradient(dice_loss, max_examples)
    _check_order(dice_loss, max_examples)
    _check_better_is_lower(dice_loss, max_examples)


def _check_hard_predictions(dice_loss, max_examples):
    side, pixels = 20, st.sampled_from([0, 1, 10, 50, 130])  # 0 often: empty targets and empty predictions

    @learner_settings(max_examples)
    @given(tp=pixels, fp=pixels, fn=pixels)
    def a_hard_prediction_has_one_minus_its_dice(tp, fp, fn):
        lesion = torch.tensor([1] * tp + [0] * fp + [1] * fn + [0] * (side * side - tp - fp - fn))
        said = torch.tensor([1] * (tp + fp) + [0] * (side * side - tp - fp))
        target = lesion.reshape(1, 1, side, side).float()
        logits = 50.0 * (2 * said - 1).reshape(1, 1, side, side)  # sigmoid(+-50) is 0 or 1 to 21 digits
        loss, sizes = float(dice_loss(logits, target)), 2 * tp + fp + fn
        want = 1 - 2 * tp / sizes if sizes else 0.0
        assert abs(loss - want) <= 2 / (sizes + 2) + 1e-4, (
            f"one {side} x {side} image, logits +-50, {tp} pixels hit, {fp} too many, {fn} missed: "
            f"1 - Dice is {want:.4f}, but the loss is {loss:.4f}"
        )
        if fn + fp == 0:
            assert abs(loss) <= 1e-4, f"a perfect prediction of {tp} lesion pixels has loss {loss:.4f}, not 0"

    a_hard_prediction_has_one_minus_its_dice()


def _check_range_and_gradient(dice_loss, max_examples):
    @learner_settings(max_examples)
    @given(batch=batches(largest=50.0))
    def loss_lies_in_0_1_and_the_gradient_is_finite(batch):
        logits, target = batch
        logits.requires_grad_()
        loss = dice_loss(logits, target)
        about = f"lesion pixels per image and channel {target.flatten(2).sum(2).tolist()}, logits up to 50: "
        assert loss.shape == (), about + f"the loss has shape {tuple(loss.shape)}, not () (a scalar)"
        assert -1e-5 <= loss.item() <= 1 + 1e-5, about + f"the loss is {loss.item()}, outside [0, 1]"
        (grad,) = torch.autograd.grad(loss, logits)
        assert grad.isfinite().all(), about + f"the gradient is not finite: {grad.flatten().tolist()}"

    loss_lies_in_0_1_and_the_gradient_is_finite()


def _check_order(dice_loss, max_examples):
    @learner_settings(max_examples)
    @given(batch=batches(largest=4.0))
    def order_of_images_and_channels_does_not_matter(batch):
        logits, target = batch
        loss = float(dice_loss(logits, target))
        for dim, what in ((0, "images"), (1, "channels"), (3, "pixel columns")):
            flipped = float(dice_loss(logits.flip(dim), target.flip(dim)))
            assert abs(loss - flipped) <= 1e-5, f"reversing the order of the {what} moves {loss} to {flipped}"

    order_of_images_and_channels_does_not_matter()


def _check_better_is_lower(dice_loss, max_examples):
    @learner_settings(max_examples)
    @given(batch=batches(largest=4.0))
    def a_better_prediction_has_a_lower_loss(batch):
        logits, target = batch
        before = float(dice_loss(logits, target))
        after = float(dice_loss(logits + 2 * (2 * target - 1), target))
        about = f"every logit went 2 towards the truth, lesion pixels {target.flatten(2).sum(2).tolist()}: "
        assert after <= before + 1e-5, about + f"the loss rose from {before} to {after}"
        if target.sum((0, 2, 3)).min() > 0:  # every channel has a lesion: something was gained for certain
            assert after < before, about + f"the loss stayed at {before}"

    a_better_prediction_has_a_lower_loss()


def check_loss_in_half_precision(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Fail unless float16 and bfloat16 logits give the loss of the same numbers in float32.

    The sums are the trap: a 300 x 300 slice has more pixels than float16 can count (65504).
    """
    rows = torch.arange(300)
    target = (rows[:, None] < rows[None, :]).float()[None, None]  # (1, 1, 300, 300)
    for dtype in (torch.float16, torch.bfloat16):
        for scale in (1.0, 50.0):
            logits = (scale * (rows[:, None] * 7 % 11 - 4.0 + 0 * rows[None, :]))[None, None].to(dtype)
            logits.requires_grad_()
            got, want = loss(logits, target), loss(logits.detach().float(), target).item()
            assert got.dtype == torch.float32, f"{dtype} logits give a {got.dtype} loss, not float32"
            assert abs(got.item() - want) <= 1e-5 * max(1, want), (
                f"300 x 300 {dtype} logits: loss {got.item()}, but {want} for the same numbers in float32"
            )
            (grad,) = torch.autograd.grad(got, logits)
            assert grad.isfinite().all(), f"300 x 300 {dtype} logits: the gradient is not finite"
