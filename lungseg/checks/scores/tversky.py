"""Checks of the Tversky and the focal Tversky loss, against sums written out pixel by pixel."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, judge, row
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.scores.cross_entropy import PAGE, Pixels, gradient, sigmoid

OF_BOTH = {
    "sigmoid forgotten": "the logits are used as if they were probabilities: apply the sigmoid first.",
    "sigmoid twice": "the sigmoid is applied twice: every probability then lies between 0.5 and 0.73.",
    "alpha and beta exchanged": "alpha weighs the false negatives and beta the false positives, as in the paper on the "
    "focal Tversky loss; here it is the other way round, as in the one on the Tversky loss.",
    "sizes instead of errors": "alpha weighs sum(p) and beta sum(g), which hold the overlap too: take the false "
    "positives, sum(p (1 - g)), and the false negatives, sum((1 - p) g).",
    "factor 2": "the overlap is doubled, as in the Dice: here the weights do that (1/2 and 1/2 are the Dice).",
    "score instead of loss": "the index itself is used: training would make it small. Take 1 - TI.",
    "smoothing only in the denominator": "`smooth` stands in the denominator only: a perfect map then has a loss.",
    "smoothing only in the numerator": "`smooth` stands in the numerator only: an empty map divides by 0.",
    "smoothing ignored": "`smooth` is not used: an empty map is 0/0.",
    "mean instead of sum": "TP, FP and FN are means over the pixels: a `smooth` of 1 is then as large as the image.",
    "summed over the images": "the losses of the images are summed: take the mean.",
    "one loss per image": "one number per image is left: take the mean.",
    "pooled over the batch": "TP, FP and FN are summed over the whole batch: every image has an index of its own.",
    "no gradient": "the result does not depend on the logits as far as autograd can see: no .item(), .detach() or "
    "numpy, and no comparison, on the way from logits to loss.",
}
TVERSKY = Lesson(
    "tversky_loss",
    "tversky_loss(logits, target, alpha, beta, smooth), both (B, K, H, W) -> scalar in [0, 1]",
    "1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth) of each image and channel, then the mean, with "
    "p = sigmoid(logits), g = target, TP = sum(p g), FP = sum(p (1 - g)) and FN = sum((1 - p) g).",
    PAGE,
    OF_BOTH,
)
FOCAL_TVERSKY = Lesson(
    "focal_tversky_loss",
    "focal_tversky_loss(logits, target, alpha, beta, gamma, smooth), both (B, K, H, W) -> scalar in [0, 1]",
    "(1 - TI)^(1/gamma) of each image and channel, then the mean, where TI is the Tversky index "
    "(TP + smooth) / (TP + alpha FP + beta FN + smooth). At a perfect map the gradient must be finite.",
    PAGE,
    {
        "gamma for 1/gamma": "the power is gamma, as in much code; here it is 1/gamma, as in the paper.",
        "power of the index": "the index is raised to the power, then taken from 1: raise 1 - TI.",
        "power of the mean": "the mean over the images is raised to the power: raise each, then take the mean.",
        "power forgotten": "gamma is not used: this is the Tversky loss.",
        "infinite slope": "the slope of x^(1/gamma) at 0 is infinite for gamma > 1, and times a slope of 0 it is NaN: "
        "keep 1 - TI a little above 0 in the power (clamp, or add a small number).",
        **OF_BOTH,
    },
)


class Case(NamedTuple):
    """A batch, and the numbers of the loss."""

    pixels: Pixels
    alpha: float
    beta: float
    smooth: float
    gamma: float = 1.0

    def __str__(self) -> str:
        numbers = f"alpha {self.alpha:g}, beta {self.beta:g}, smooth {self.smooth:g}"
        return f"{self.pixels}, {numbers}" + (f", gamma {self.gamma:g}" if self.gamma != 1 else "")

    @property
    def weights(self) -> dict[str, float]:
        return {"alpha": self.alpha, "beta": self.beta, "smooth": self.smooth}


ONE, TWO = Pixels([[1.0, -1.0, 0.5]], [[1, 0, 0]]), Pixels([[2.0, -0.5, 0.3, -2.0]], [[1, 1, 0, 0]])
BATCH = Pixels([[2.0, -1.0, 0.0], [0.5, -2.0, 1.0]], [[1, 0, 0], [1, 1, 0]])
EMPTY = Pixels([[-1.0, 0.5]], [[0, 0]])
CASES = [
    Case(ONE, 0.5, 0.5, 1.0), Case(ONE, 0.3, 0.7, 1.0), Case(TWO, 0.3, 0.7, 0.5), Case(EMPTY, 0.3, 0.7, 1.0),
    Case(TWO, 1.0, 1.0, 0.1), Case(BATCH, 0.3, 0.7, 1.0), Case(BATCH, 0.9, 0.1, 2.0),
]  # fmt: skip
FOCAL_CASES = [case._replace(gamma=gamma) for gamma in (4 / 3, 1.25) for case in CASES]
PERFECT = [Pixels([[size, -size, -size]], [[1, 0, 0]]) for size in (50.0, 200.0, 1e4)]
PERFECT += [Pixels([[-1e4, -1e4]], [[0, 0]])]


def tversky_by_loops(case: Case, slip: str = "") -> Tensor | None:
    """The loss of a batch, as `slip` would have it: of each image the sums, the index, the power."""
    sums = []  # (TP, FP, FN, all p, all g) of each image
    for logits, target in zip(*case.pixels, strict=True):
        p = [x if slip == "sigmoid forgotten" else sigmoid(x) for x in logits]
        p = [sigmoid(x) for x in p] if slip == "sigmoid twice" else p
        pairs = [(a, float(g)) for a, g in zip(p, target, strict=True)]
        of_image = [
            sum(a * g for a, g in pairs),
            sum(a * (1 - g) for a, g in pairs),
            sum((1 - a) * g for a, g in pairs),
        ]
        of_image += [sum(p), float(sum(target))]
        sums.append([x / len(p) for x in of_image] if slip == "mean instead of sum" else of_image)
    if slip == "pooled over the batch":
        sums = [[sum(column) for column in zip(*sums, strict=True)]]
    try:
        each = [loss_of(case, slip, *of_image) for of_image in sums]
    except ZeroDivisionError:
        return None
    each = [0.0 if isinstance(x, complex) else x for x in each]  # the power of a negative number, kept from it
    losses = torch.tensor(each, dtype=torch.float64)
    return {
        "summed over the images": losses.sum(),
        "one loss per image": losses,
        "power of the mean": losses.mean() ** (1 / case.gamma),
    }.get(slip, losses.mean())


def loss_of(case: Case, slip: str, tp: float, fp: float, fn: float, predicted: float, lesion: float) -> Any:
    """The loss of one image from its sums."""
    alpha, beta = (case.beta, case.alpha) if slip == "alpha and beta exchanged" else (case.alpha, case.beta)
    if slip == "sizes instead of errors":
        fp, fn = predicted, lesion
    over = 0 if slip in ("smoothing only in the denominator", "smoothing ignored") else case.smooth
    under = 0 if slip in ("smoothing only in the numerator", "smoothing ignored") else case.smooth
    factor = 2 if slip == "factor 2" else 1
    index = (factor * tp + over) / (factor * tp + alpha * fp + beta * fn + under)
    missed = index if slip == "score instead of loss" else 1 - index
    if slip == "power of the index":
        return 1 - index ** (1 / case.gamma)
    if slip in ("power forgotten", "power of the mean"):
        return missed
    return missed ** (case.gamma if slip == "gamma for 1/gamma" else 1 / case.gamma)


def check_tversky_loss(tversky_loss: Callable[..., Tensor]) -> None:
    """Fail unless `tversky_loss(logits, target, alpha=, beta=, smooth=)` is one minus the mean Tversky index.

    Both tensors are (B, K, *spatial). Perfect and empty maps have loss 0 and a finite gradient.
    """
    check(TVERSKY, CASES, lambda logits, target, case: call(TVERSKY, tversky_loss, logits, target, **case.weights))


def check_focal_tversky_loss(focal_tversky_loss: Callable[..., Tensor]) -> None:
    """Fail unless `focal_tversky_loss(logits, target, alpha=, beta=, gamma=, smooth=)` is the mean (1 - TI)^(1/gamma).

    Both tensors are (B, K, *spatial). Perfect and empty maps have a loss of nearly 0 and a finite gradient.
    """

    def student(logits: Tensor, target: Tensor, case: Case) -> Any:
        return call(FOCAL_TVERSKY, focal_tversky_loss, logits, target, gamma=case.gamma, **case.weights)

    check(FOCAL_TVERSKY, FOCAL_CASES, student)


def check(lesson: Lesson, cases: list[Case], student: Callable[[Tensor, Tensor, Case], Any]) -> None:
    """The values of the cases, their gradients, and maps that are exactly right."""

    def describe(case: Case, got: Tensor, want: Tensor) -> str:
        return f"{case}: the loss is {got.item():.5f}, expected {want.item():.5f}."

    def numbers(case: Case, got: Tensor, want: Tensor) -> str:
        lines = []
        for logits, target in zip(*case.pixels, strict=True):
            p = [sigmoid(x) for x in logits]
            tp = sum(a * g for a, g in zip(p, target, strict=True))
            lines.append(f"p {row(p)}: TP = {tp:.4f}, FP = {sum(p) - tp:.4f}, FN = {sum(target) - tp:.4f}")
        return "\n".join(lines)

    def loss_of_case(case: Case) -> Any:
        return student(*case.pixels.tensors(), case)

    judge(lesson, loss_of_case, cases, tversky_by_loops, describe, numbers=numbers)
    gamma = cases[0].gamma
    for case in [*cases, *(Case(pixels, 0.3, 0.7, 1.0, gamma) for pixels in PERFECT)]:
        loss = as_tensor(lesson, loss_of_case(case)).item()
        if case.pixels in PERFECT and not abs(loss) <= 0.01:
            raise Wrong(lesson, f"{case}: a perfect map has loss {loss:.4f}, not 0.")
        grad = slopes(lesson, student, case)
        if not grad.isfinite().all():
            raise Wrong(lesson, f"{case}: the gradient is not finite.", numbers=f"gradient {row(grad)}",
                        slip="infinite slope" if gamma > 1 else "")  # fmt: skip
        if case in cases and not grad.any():
            raise Wrong(lesson, f"{case}: the gradient is 0 at every pixel.", slip="no gradient")


def slopes(lesson: Lesson, student: Callable[[Tensor, Tensor, Case], Any], case: Case) -> Tensor:
    """The gradient of the loss of a case."""

    def loss(logits: Tensor, target: Tensor) -> Any:
        return student(logits, target, case)

    return gradient(lesson, loss, *case.pixels.tensors())
