"""Check of the focal loss, against the sum written out pixel by pixel."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, close, judge, row
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.scores.cross_entropy import PAGE, Pixels, gradient, sigmoid

FOCAL = Lesson(
    "focal_loss",
    "focal_loss(logits, target, gamma, alpha), both (B, K, H, W); alpha is a number or None -> scalar",
    "with q the probability of the right answer (p where the target is 1, 1 - p where it is 0), a pixel costs "
    "-(1 - q)^gamma log q; with alpha, lesion pixels are weighed by alpha and the others by 1 - alpha; the loss is the "
    "mean over all pixels. A logit of 1000 on background costs 1000.",
    PAGE,
    {
        "q for 1 - q": "the power is taken of q, the probability of the right answer: pixels that are right would "
        "count most. Take 1 - q.",
        "p for q": "the power is taken of 1 - p on background too; there the right answer has 1 - p, so 1 - q is p.",
        "power forgotten": "gamma is not used: this is the cross entropy.",
        "factor for power": "1 - q is multiplied by gamma: raise it to the power.",
        "focus on the mean": "the mean cross entropy of all pixels is made focal: a pixel that is right must count "
        "less than one that is wrong. Weigh each pixel, then take the mean.",
        "alpha on all pixels": "alpha weighs the background too: its weight is 1 - alpha.",
        "alpha on lesions only": "lesion pixels are weighed by alpha and the background by 1: its weight is 1 - alpha.",
        "alpha exchanged": "alpha weighs the background and 1 - alpha the lesions.",
        "alpha ignored": "alpha is not used.",
        "sigmoid twice": "the sigmoid is applied twice: every probability then lies between 0.5 and 0.73.",
        "sum instead of mean": "the pixels are summed: the loss, and with it the step, grows with the size of the "
        "image.",
        "not reduced": "one number per pixel is left: take the mean.",
        "sign": "the minus sign is missing: the loss falls as the prediction gets worse.",
        "only lesion pixels": "only the pixels with target 1 cost anything.",
        "logarithm of a rounded probability": "the sigmoid of a large logit is rounded to 0 or 1 in float32, and its "
        "logarithm is infinite or cut off: compute log q from the logit (logsigmoid).",
        "slope of a power at 0": "(1 - q)^gamma has an infinite slope at q = 1 for gamma < 1, which times 0 is NaN: "
        "compute it as exp(gamma * logsigmoid(...)).",
        "no gradient": "the result does not depend on the logits as far as autograd can see: no .item(), .detach() or "
        "numpy, and no comparison, on the way from logits to loss.",
    },
)


class Case(NamedTuple):
    """A batch, and the numbers of the loss."""

    pixels: Pixels
    gamma: float
    alpha: float | None = None

    def pairs(self) -> list[tuple[float, int]]:
        """(logit, target) of each pixel."""
        return [(x, t) for xs, ts in zip(*self.pixels, strict=True) for x, t in zip(xs, ts, strict=True)]

    def __str__(self) -> str:
        return f"{self.pixels}, gamma {self.gamma:g}, alpha {self.alpha}"


ONE, TWO = Pixels([[2.0]], [[1]]), Pixels([[1.0, 0.5]], [[1, 0]])
MORE = Pixels([[2.0, -1.0, 0.5], [-0.5, 3.0, 1.0]], [[1, 0, 0], [1, 1, 0]])
CASES = [
    Case(ONE, 2.0), Case(Pixels([[2.0]], [[0]]), 2.0), Case(TWO, 2.0), Case(TWO, 0.0), Case(TWO, 1.0), Case(MORE, 2.0),
    Case(MORE, 0.5), Case(TWO, 2.0, 0.25), Case(TWO, 0.0, 0.25), Case(MORE, 3.0, 0.75),
]  # fmt: skip
EXTREME = [Case(Pixels([[x, 1.0]], [[t, 1]]), 2.0) for x in (30.0, -30.0, 100.0, -100.0, 1e4, -1e4) for t in (0, 1)]
EXTREME += [Case(Pixels([[x, 1.0]], [[t, 1]]), 0.5) for x in (100.0, -100.0) for t in (0, 1)]


def focal_by_loops(case: Case, slip: str = "") -> Tensor | None:
    """The mean over the pixels, one after the other."""
    pairs = case.pairs()
    each = torch.tensor([pixel_loss(x, t, case, slip) for x, t in pairs], dtype=torch.float64)
    if slip == "focus on the mean":
        mean = each.mean()
        return (1 - torch.exp(-mean)) ** case.gamma * mean if case.alpha is None else None
    shaped = each.reshape(case.pixels.shape)
    return {"sum instead of mean": each.sum(), "not reduced": shaped}.get(slip, each.mean())


def pixel_loss(x: float, t: int, case: Case, slip: str = "") -> float:
    """alpha_t (1 - q)^gamma (-log q), with -log q computed as log(1 + exp(-z)), z the logit of q."""
    x = sigmoid(x) if slip == "sigmoid twice" else x
    z = x if t else -x
    cost, wrong = max(-z, 0) + math.log1p(math.exp(-abs(z))), sigmoid(-z)  # -log q, 1 - q
    base = {"q for 1 - q": 1 - wrong, "p for q": sigmoid(-x)}.get(slip, wrong)
    factor = case.gamma * base if slip == "factor for power" else base**case.gamma
    if slip in ("power forgotten", "focus on the mean"):
        factor = 1.0
    alpha = case.alpha
    if alpha is not None and slip != "alpha ignored":
        lesion, background = {
            "alpha on all pixels": (alpha, alpha),
            "alpha on lesions only": (alpha, 1.0),
            "alpha exchanged": (1 - alpha, alpha),
        }.get(slip, (alpha, 1 - alpha))
        factor *= lesion if t else background
    if slip == "only lesion pixels":
        factor *= t
    return -factor * cost if slip == "sign" else factor * cost


def check_focal_loss(focal_loss: Callable[..., Tensor]) -> None:
    """Fail unless `focal_loss(logits, target, gamma=, alpha=)` is the mean focal loss of all pixels, at any logit.

    Both tensors are (B, K, *spatial). Its gradient is right (by finite differences of the loops) and finite for logits
    of +-10000 too.
    """

    def student(case: Case) -> Tensor:
        return as_tensor(FOCAL, call(FOCAL, focal_loss, *case.pixels.tensors(), gamma=case.gamma, alpha=case.alpha))

    def describe(case: Case, got: Tensor, want: Tensor) -> str:
        return f"{case}: the loss is {got.item():.6g}, expected {want.item():.6g}."

    def numbers(case: Case, got: Tensor, want: Tensor) -> str:
        pairs = case.pairs()
        each = [f"  logit {x:g}, p = {sigmoid(x):.4f}, target {t}: {pixel_loss(x, t, case):.5f}" for x, t in pairs]
        return "\n".join(["the pixels cost", *each])

    judge(FOCAL, student, CASES, focal_by_loops, describe, numbers=numbers)
    for case in EXTREME:
        got, want = student(case), torch.as_tensor(focal_by_loops(case))
        if got.shape != want.shape or not close(got, want):
            raise Wrong(FOCAL, f"{case}: the loss is {row(got, 6)}, expected {row(want, 6)}.",
                        slip="logarithm of a rounded probability")  # fmt: skip
    for case in CASES + EXTREME:

        def of_pixels(logits: Tensor, target: Tensor, case: Case = case) -> Tensor:
            return focal_loss(logits, target, gamma=case.gamma, alpha=case.alpha)

        grad, slopes = gradient(FOCAL, of_pixels, *case.pixels.tensors()), torch.tensor(slopes_of(case))
        if not close(grad.flatten(), slopes, 1e-3):
            slip = (
                ""
                if grad.isfinite().all()
                else "slope of a power at 0"
                if case.gamma < 1
                else "logarithm of a rounded probability"
            )
            raise Wrong(FOCAL, f"{case}: the gradient is not the slope of the loss.",
                        numbers=f"expected {row(slopes)}\nyours    {row(grad)}", slip=slip)  # fmt: skip


def slopes_of(case: Case, step: float = 1e-5) -> list[float]:
    """The slope of the mean with respect to each logit, by a central difference."""
    pairs = case.pairs()
    return [(pixel_loss(x + step, t, case) - pixel_loss(x - step, t, case)) / (2 * step * len(pairs)) for x, t in pairs]
