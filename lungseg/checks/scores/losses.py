"""Checks of any Dice loss, however it smooths and pools a batch, and of any loss in half precision."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, find_slip, row
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.scores.cross_entropy import PAGE, Pixels, gradient, sigmoid

DICE = Lesson(
    "dice_loss",
    "dice_loss(logits, target), both (B, K, H, W) -> scalar in [0, 1]",
    "1 - (2 sum(p g) + smooth) / (sum(p) + sum(g) + smooth), with p = sigmoid(logits) and g = target: 0 for a perfect "
    "map, also for an empty one, and near 1 for a useless one. (Squares in the denominator, as in V-Net, and one Dice "
    "over the whole batch are right as well.)",
    PAGE,
    {
        "sigmoid forgotten": "the logits are used as if they were probabilities: apply the sigmoid first.",
        "sigmoid twice": "the sigmoid is applied twice: every probability then lies between 0.5 and 0.73.",
        "softmax of one channel": "softmax over a single channel is 1 everywhere: use the sigmoid.",
        "thresholded": "the probabilities are cut to 0 and 1 first: that has no gradient, so nothing is learnt.",
        "factor 2 missing": "the factor 2 of the overlap is missing: a perfect map would have loss 0.5.",
        "IoU": "this is one minus the IoU (Jaccard), overlap / union, not one minus the Dice.",
        "score instead of loss": "the Dice itself is returned: training would make it small. Return 1 - Dice.",
        "negative score": "minus the Dice is returned: it has the right gradient, but a loss of 0 should mean "
        "perfect. Return 1 - Dice.",
        "smoothing missing": "nothing is added to numerator and denominator: an empty map is 0/0.",
        "smoothing only in the denominator": "`smooth` stands in the denominator only: an empty map, rightly "
        "predicted, then has loss 1.",
        "smoothing only in the numerator": "`smooth` stands in the numerator only: an empty map still divides by 0.",
        "smoothing too large": "the smoothing outweighs the lesions: in this check it may be up to two pixels.",
        "mean instead of sum": "overlap and sizes are means over the pixels: a `smooth` of 1 is then as large as the "
        "image. Use sums.",
        "background": "this is the Dice of the background: 0 and 1 are exchanged.",
        "arguments exchanged": "the sigmoid is applied to the target: logits and target are exchanged.",
        "summed over the images": "the losses of the images are summed: take the mean.",
        "one loss per image": "one number per image is left: take the mean.",
        "empty target counts as solved": "an image without a lesion has loss 0 whatever was predicted, so false "
        "alarms cost nothing.",
        "no gradient": "the result does not depend on the logits as far as autograd can see: no .item(), .detach() or "
        "numpy, and no comparison, on the way from logits to loss.",
    },
)
SOFT = [
    Pixels([[1.0, -1.0, 0.5]], [[1, 0, 0]]), Pixels([[2.0, -0.5, 0.3, -2.0]], [[1, 1, 0, 0]]),
    Pixels([[0.0, 3.0, -3.0, 1.0]], [[0, 1, 0, 1]]), Pixels([[2.0, -1.0], [0.5, -2.0]], [[1, 0], [1, 1]]),
]  # fmt: skip
SMOOTH = (0.0, 1.0, 2.0, 0.5, 0.1, 0.01)  # the usual ones; 1e-5 and smaller make no difference on these pixels
SIDE = 20  # of the images of hard predictions
COUNTS = sorted(product([0, 1, 10, 50, 130], repeat=3), key=sum)  # found, too many, missed
SIZES = [(1, 1, 1, 1), (1, 1, 2, 3), (2, 1, 2, 2), (2, 2, 3, 2), (3, 2, 4, 4)]
SHARES = [(0.0,), (1.0,), (0.3,), (0.3, 0.0), (0.0, 0.3, 1.0), (1.0, 0.3)]  # of lesion pixels, map by map


def dice_by_loops(case: Pixels, slip: str, smooth: float, pooled: bool, squared: bool) -> Tensor:
    """The loss of a batch, as `slip` would have it."""
    top, bottom = [], []
    for logits, target in zip(case.logits, case.target, strict=True):
        p, g = [probability(x, slip) for x in logits], [float(t) for t in target]
        if slip == "arguments exchanged":
            p, g = [sigmoid(t) for t in g], list(logits)
        if slip == "background":
            p, g = [1 - x for x in p], [1 - t for t in g]
        n = len(p) if slip == "mean instead of sum" else 1
        top.append(sum(a * b for a, b in zip(p, g, strict=True)) / n)
        bottom.append(sum(x**2 if squared else x for x in p) / n + sum(g) / n)
    if pooled:
        top, bottom = [sum(top)], [sum(bottom)]
    dice = [dice_of(overlap, sizes, smooth, slip) for overlap, sizes in zip(top, bottom, strict=True)]
    score = torch.tensor(dice, dtype=torch.float64)
    return {
        "score instead of loss": score.mean(),
        "negative score": -score.mean(),
        "summed over the images": (1 - score).sum(),
        "one loss per image": 1 - score,
    }.get(slip, 1 - score.mean())


def probability(x: float, slip: str) -> float:
    return {
        "sigmoid forgotten": x,
        "sigmoid twice": sigmoid(sigmoid(x)),
        "softmax of one channel": 1.0,
        "thresholded": float(x > 0),
    }.get(slip, sigmoid(x))


def dice_of(overlap: float, sizes: float, smooth: float, slip: str) -> float:
    over = 0.0 if slip == "smoothing only in the denominator" else smooth
    under = 0.0 if slip == "smoothing only in the numerator" else smooth
    if slip == "IoU":
        return (overlap + over) / (sizes - overlap + under)
    return ((1 if slip == "factor 2 missing" else 2) * overlap + over) / (sizes + under)


def check_dice_loss(dice_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Fail unless `dice_loss(logits, target)` is a loss that a network can be trained with.

    Both are (B, K, *spatial). The loss of a hard prediction is one minus its Dice coefficient, up to a smoothing of two
    pixels; every loss is in [0, 1] with a finite gradient, even without any lesion; the order of images and channels
    does not matter; a better prediction never has a higher loss. V-Net's squares in the denominator, and one Dice per
    image or for the whole batch, satisfy all of this, and are accepted.
    """
    check_hard_predictions(dice_loss)
    check_empty_map(dice_loss)
    for size, shares, largest in product(SIZES, SHARES, (4.0, 50.0)):
        check_batch(dice_loss, *batch_of(size, shares, largest), largest)


def dice_slip(dice_loss: Callable) -> str:
    """The slip that explains the student's loss on soft predictions, whatever the smoothing and the pooling."""

    def student(case: Pixels) -> Any:
        return call(DICE, dice_loss, *case.tensors())

    for smooth, pooled, squared in product(SMOOTH, (False, True), (False, True)):

        def oracle(case: Pixels, slip: str, variant: tuple = (smooth, pooled, squared)) -> Tensor:
            return dice_by_loops(case, slip, *variant)

        if slip := find_slip(DICE, student, SOFT, oracle):
            return slip
    return ""


def check_hard_predictions(dice_loss: Callable) -> None:
    """The loss of a prediction without doubt is one minus its Dice coefficient."""
    for tp, fp, fn in COUNTS:
        rest = SIDE * SIDE - tp - fp - fn
        if rest < 0 or tp + fp + fn == 0:
            continue
        target = torch.tensor([1] * tp + [0] * fp + [1] * fn + [0] * rest).reshape(1, 1, SIDE, SIDE).float()
        found = torch.tensor([1] * (tp + fp) + [-1] * (fn + rest)).reshape(1, 1, SIDE, SIDE).float()
        got = as_tensor(DICE, call(DICE, dice_loss, 50 * found, target))  # sigmoid(+-50) is 0 or 1 to 21 digits
        about = f"one {SIDE} x {SIDE} image, logits +-50, {tp} lesion pixels found, {fp} too many, {fn} missed: "
        if got.numel() != 1:
            raise Wrong(
                DICE, f"{about}the loss has shape {tuple(got.shape)}, not () (a scalar).", slip=dice_slip(dice_loss)
            )
        loss, sizes = got.item(), 2 * tp + fp + fn
        want = 1 - 2 * tp / sizes
        if fp + fn == 0 and not abs(loss) <= 1e-4:
            raise Wrong(DICE, f"{about}a perfect prediction has loss {loss:.4f}, not 0.", slip=dice_slip(dice_loss))
        if not abs(loss - want) <= 2 / (sizes + 2) + 1e-4:
            known = dice_slip(dice_loss)
            solved = "empty target counts as solved" if tp + fn == 0 and abs(loss) < 1e-3 else ""
            large = "smoothing too large" if 0 < loss < want else ""
            raise Wrong(DICE, f"{about}1 - Dice is {want:.4f}, but the loss is {loss:.4f}.",
                        numbers=f"Dice = 2 x {tp} / ({tp + fp} + {tp + fn}) = {1 - want:.4f}",
                        slip=known or solved or large)  # fmt: skip


def check_empty_map(dice_loss: Callable) -> None:
    """Nothing to find and nothing predicted: loss 0. The probabilities are exactly 0, so 0/0 shows."""
    for side in (1, 4, SIDE):
        logits, target = torch.full((1, 1, side, side), -200.0), torch.zeros(1, 1, side, side)
        loss = as_tensor(DICE, call(DICE, dice_loss, logits, target)).item()
        if not abs(loss) <= 1e-4:
            slip = "smoothing only in the denominator" if abs(loss - 1) < 1e-4 else ""
            slip = "smoothing only in the numerator" if math.isinf(loss) else slip
            raise Wrong(DICE, f"one {side} x {side} image without a lesion, every logit -200 (p = 0): the loss of this "
                        f"perfect prediction is {loss:.4f}, not 0.", numbers="sum(p g) = 0, sum(p) = 0, sum(g) = 0",
                        slip="smoothing missing" if math.isnan(loss) else slip)  # fmt: skip


def batch_of(size: tuple[int, ...], shares: Sequence[float], largest: float) -> tuple[Tensor, Tensor]:
    """Logits up to +-`largest` and a target (B, K, H, W), whose maps hold the given shares of lesion pixels in turn."""
    B, K, H, W = size
    generator = torch.Generator().manual_seed(H * W)
    share = torch.tensor([shares[i % len(shares)] for i in range(B * K)]).reshape(B, K, 1, 1)
    target = (torch.rand(B, K, H, W, generator=generator) < share).float()
    return largest * (2 * torch.rand(B, K, H, W, generator=generator) - 1), target


def check_batch(dice_loss: Callable, logits: Tensor, target: Tensor, largest: float) -> None:
    """A scalar in [0, 1] with a finite gradient, whatever the order, and lower for a better prediction."""
    pixels = target.sum((2, 3)).int().tolist()
    about = f"batch {tuple(logits.shape)} with {pixels} lesion pixels per image and channel, logits up to {largest:g}: "
    got = as_tensor(DICE, call(DICE, dice_loss, logits, target))
    if got.shape != ():
        raise Wrong(
            DICE, f"{about}the loss has shape {tuple(got.shape)}, not () (a scalar).", slip=dice_slip(dice_loss)
        )
    loss = got.item()
    if not -1e-5 <= loss <= 1 + 1e-5:
        raise Wrong(DICE, f"{about}the loss is {loss:.6g}, outside [0, 1].", slip=dice_slip(dice_loss))
    if not (grad := gradient(DICE, dice_loss, logits, target)).isfinite().all():
        raise Wrong(
            DICE, f"{about}the gradient is not finite.", numbers=f"gradient {row(grad)}", slip=dice_slip(dice_loss)
        )
    if largest < 10 and target.any() and not grad.any():
        raise Wrong(DICE, f"{about}the gradient is 0 at every pixel, so no network can be trained with it.",
                    slip=dice_slip(dice_loss) or "no gradient")  # fmt: skip
    for dim, what in ((0, "images"), (1, "channels"), (3, "pixel columns")):
        flipped = float(call(DICE, dice_loss, logits.flip(dim), target.flip(dim)))
        if abs(loss - flipped) > 1e-5:
            raise Wrong(
                DICE, f"{about}reversing the order of the {what} changes the loss from {loss:.6f} to {flipped:.6f}."
            )
    if largest > 10:
        return
    better = float(call(DICE, dice_loss, logits + 2 * (2 * target - 1), target))
    stays = better >= loss and target.sum((0, 2, 3)).min() > 0  # with a lesion in every channel, Dice did improve
    if better > loss + 1e-5 or stays:
        raise Wrong(DICE, f"{about}every logit moved 2 towards its target, and the loss "
                    f"{'stayed at' if better == loss else f'rose to {better:.6f} from'} {loss:.6f}.",
                    slip=dice_slip(dice_loss))  # fmt: skip


# ---- half precision -------------------------------------------------------------------------------------------

HALF = Lesson(
    "loss",
    "loss(logits (B, K, H, W) of float16 or bfloat16, target) -> scalar, float32",
    "sums over pixels need float32: float16 ends at 65504, fewer than the pixels of a 300 x 300 slice.",
    PAGE,
)


def check_loss_in_half_precision(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Fail unless float16 and bfloat16 logits give the loss of the same numbers in float32.

    The sums are what can go wrong: a 300 x 300 slice has more pixels than float16 can count (65504).
    """
    rows = torch.arange(300)
    target = (rows[:, None] < rows[None, :]).float()[None, None]  # (1, 1, 300, 300)
    for dtype, scale in product((torch.float16, torch.bfloat16), (1.0, 50.0)):
        logits = (scale * (rows[:, None] * 7 % 11 - 4.0 + 0 * rows[None, :]))[None, None].to(dtype)
        logits.requires_grad_()
        got, want = call(HALF, loss, logits, target), call(HALF, loss, logits.detach().float(), target).item()
        if got.dtype != torch.float32:
            raise Wrong(HALF, f"{dtype} logits give a {got.dtype} loss, not float32.")
        if not abs(got.item() - want) <= 1e-5 * max(1, want):
            raise Wrong(
                HALF, f"300 x 300 {dtype} logits: loss {got.item()}, but {want} for the same numbers in float32."
            )
        (grad,) = torch.autograd.grad(got, logits)
        if not grad.isfinite().all():
            raise Wrong(HALF, f"300 x 300 {dtype} logits: the gradient is not finite.")
