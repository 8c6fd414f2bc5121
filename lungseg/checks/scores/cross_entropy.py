"""Checks of the binary cross entropy of logits, against the sum written out pixel by pixel."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, close, judge, row
from lungseg.checks.lessons import Lesson, Wrong

PAGE = "docs/losses.md"


class Pixels(NamedTuple):
    """A batch (B, 1, 1, W): the logits and the target of each image."""

    logits: Sequence[Sequence[float]]
    target: Sequence[Sequence[int]]

    def __str__(self) -> str:
        return f"logits {row(self.tensors()[0])} with target {row(self.tensors()[1])}, shape {tuple(self.shape)}"

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.logits), 1, 1, len(self.logits[0])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(logits, target), both (B, 1, 1, W) float32."""
        return torch.tensor(self.logits).reshape(self.shape), torch.tensor(self.target).reshape(self.shape).float()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


BCE = Lesson(
    "bce_loss",
    "bce_loss(logits, target), both (B, K, H, W) -> scalar",
    "the loss of a pixel is -log p where the target is 1 and -log(1 - p) where it is 0, with p = sigmoid(logit) and "
    "the natural logarithm; the loss is the mean over all pixels. A logit of 100 on background costs 100.",
    PAGE,
    {
        "sigmoid twice": "the sigmoid is applied twice: binary_cross_entropy_with_logits takes logits, "
        "binary_cross_entropy takes probabilities.",
        "sigmoid forgotten": "the logits are used as if they were probabilities: apply the sigmoid first.",
        "sum instead of mean": "the pixels are summed: the loss, and with it the step, grows with the size of the "
        "image.",
        "sum over pixels, mean over images": "the pixels of an image are summed; only the images are averaged.",
        "not reduced": "one number per pixel is left: take the mean.",
        "one loss per image": "one number per image is left: take the mean over the images too.",
        "arguments exchanged": "logits and target are exchanged in the formula or in the call.",
        "sign": "the minus sign is missing: the loss falls as the prediction gets worse.",
        "only lesion pixels": "only the pixels with target 1 cost anything: the term (1 - t) log(1 - p) is missing.",
        "only background pixels": "only the pixels with target 0 cost anything: the term t log p is missing.",
        "target inverted": "target 0 and 1 are exchanged.",
        "base 2": "the logarithm is to base 2; the natural one is meant.",
        "mean over lesion pixels": "divided by the number of lesion pixels instead of all pixels.",
        "logarithm of a rounded probability": "the sigmoid of a large logit is rounded to 0 or 1 in float32, and its "
        "logarithm is infinite or cut off: compute log(1 + exp(-x)) from the logit, as "
        "binary_cross_entropy_with_logits and logsigmoid do.",
        "no gradient": "the result does not depend on the logits as far as autograd can see: no .item(), .detach() or "
        "numpy, and no comparison, on the way from logits to loss.",
    },
)
LOGITS = [
    Pixels([[2.0]], [[1]]), Pixels([[2.0]], [[0]]), Pixels([[-1.0]], [[1]]),
    Pixels([[2.0, -1.0]], [[1, 0]]), Pixels([[1.0, 0.5, -3.0]], [[0, 1, 1]]), Pixels([[0.5, 0.25]], [[0, 0]]),
    Pixels([[2.0, 1.0], [-1.0, 3.0]], [[1, 0], [0, 0]]),
]  # fmt: skip
EXTREME = [Pixels([[x, 1.0]], [[t, 1]]) for x in (30.0, -30.0, 100.0, -100.0, 300.0, -300.0, 1e4, -1e4) for t in (0, 1)]


def bce_by_loops(case: Pixels, slip: str = "") -> Tensor | None:
    """The mean over the pixels, one after the other."""
    images = []
    for logits, target in zip(case.logits, case.target, strict=True):
        images.append([pixel_loss(x, float(t), slip) for x, t in zip(logits, target, strict=True)])
    if any(loss is None for image in images for loss in image):
        return None
    each = torch.tensor(images, dtype=torch.float64)  # (B, W)
    if slip == "not reduced":
        return each.reshape(case.shape)
    if slip == "mean over lesion pixels":
        lesion = sum(map(sum, case.target))
        return each.sum() / lesion if lesion else None
    return {
        "sum instead of mean": each.sum(),
        "sum over pixels, mean over images": each.sum(1).mean(),
        "one loss per image": each.mean(1),
    }.get(slip, each.mean())


def pixel_loss(x: float, t: float, slip: str = "") -> float | None:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), which is log(1 + exp(x)) - t x."""
    if slip == "arguments exchanged":
        x, t = t, x
    if slip == "sigmoid twice":
        x = sigmoid(x)
    if slip == "sigmoid forgotten":
        return -t * math.log(x) - (1 - t) * math.log(1 - x) if 0 < x < 1 else None
    t = 1 - t if slip == "target inverted" else t
    lesion = t * (max(-x, 0) + math.log1p(math.exp(-abs(x))))  # log(1 + exp(-x)), without overflow
    background = (1 - t) * (max(x, 0) + math.log1p(math.exp(-abs(x))))
    return {
        "sign": -lesion - background,
        "only lesion pixels": lesion,
        "only background pixels": background,
        "base 2": (lesion + background) / math.log(2),
    }.get(slip, lesion + background)


def check_bce_loss(bce_loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Fail unless `bce_loss(logits, target)` is the mean cross entropy of all pixels, at any logit.

    Both are (B, K, *spatial). The loss and its gradient, (sigmoid(logit) - target) / pixels, are right for logits of
    +-10000 too, where the probability is 0 or 1 in float32.
    """

    def student(case: Pixels) -> Tensor:
        try:
            return as_tensor(BCE, call(BCE, bce_loss, *case.tensors()))
        except Wrong as error:
            if "between 0 and 1" not in error.what:  # binary_cross_entropy refuses what is no probability
                raise
            raise Wrong(BCE, f"{case}: {error.what}", slip="sigmoid forgotten") from None

    def describe(case: Pixels, got: Tensor, want: Tensor) -> str:
        return f"{case}: the loss is {got.item():.6g}, expected {want.item():.6g}."

    def numbers(case: Pixels, got: Tensor, want: Tensor) -> str:
        pairs = [(x, t) for xs, ts in zip(*case, strict=True) for x, t in zip(xs, ts, strict=True)]
        each = [f"  logit {x:g}, p = {sigmoid(x):.4f}, target {t}: {pixel_loss(x, t):.4f}" for x, t in pairs]
        return "\n".join(["the pixels cost", *each])

    judge(BCE, student, LOGITS, bce_by_loops, describe, numbers=numbers)
    for case in EXTREME:
        got, want = student(case), bce_by_loops(case)
        if want is None or got.shape != want.shape or not close(got, want):
            raise Wrong(BCE, f"{case}: the loss is {row(got, 6)}, expected {row(want, 6) if want is not None else ''}.",
                        numbers=f"in float32, sigmoid({case.logits[0][0]:g}) = "
                            f"{float(case.tensors()[0].sigmoid()[0, 0, 0, 0]):.9g}",
                        slip="logarithm of a rounded probability")  # fmt: skip
    for case in LOGITS + EXTREME:
        grad = gradient(BCE, bce_loss, *case.tensors())
        size = sum(map(len, case.logits))
        slopes = [(sigmoid(x) - t) / size for xs, ts in zip(*case, strict=True) for x, t in zip(xs, ts, strict=True)]
        if not close(grad.flatten(), torch.tensor(slopes)):
            raise Wrong(BCE, f"{case}: the gradient is not (sigmoid(logit) - target) / pixels.",
                        numbers=f"expected {row(slopes)}\nyours    {row(grad)}",
                        slip="" if grad.isfinite().all() else "logarithm of a rounded probability")  # fmt: skip


def gradient(lesson: Lesson, loss_fn: Callable, logits: Tensor, target: Tensor) -> Tensor:
    """The gradient of a student's loss, or Wrong if autograd finds none."""
    logits = logits.clone().requires_grad_()
    loss = call(lesson, loss_fn, logits, target)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Wrong(lesson, "no gradient flows from the loss to the logits, so no network can be trained with it.",
                    slip="no gradient")  # fmt: skip
    (grad,) = torch.autograd.grad(loss.sum(), logits, allow_unused=True)
    return torch.zeros_like(logits) if grad is None else grad
