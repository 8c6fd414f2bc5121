"""Can it learn at all? A few images learned by heart, and a sweep over learning rates.

A network that cannot learn four images by heart is broken, or its loss, its rate or its targets are; more data or
epochs will not help. A network whose loss on them stays the same when each is given another image does not use images.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lungseg.doctor.finding import FAULT, OK, WARNING, Finding
from lungseg.doctor.network import LossFunction, takes_probabilities

RATES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SWEEP_STEPS, LEAST_STEPS, MOST_STEPS = 12, 30, 300
ENOUGH_DICE, SOME_DICE = 0.9, 0.5
GOOD = 0.6  # of the largest fall of the loss
MakeOptimizer = Callable[[Iterable[nn.Parameter], float], Optimizer]  # (parameters, learning rate)


def adamw(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    """The default: without weight decay, which would pull against learning by heart."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)


@dataclass(frozen=True)
class Learner:
    """A network with what it is trained with, on one batch; each training begins with the same weights."""

    model: nn.Module
    loss_fn: LossFunction
    make_optimizer: MakeOptimizer = adamw
    grad_clip: float | None = None

    def train(self, image: Tensor, target: Tensor, lr: float, steps: int, *, until_dice: float = 2.0) -> "Curve":
        """Take steps on one batch, at most until the Dice is above `until_dice`, or the loss is not finite; go back."""
        start = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad], lr)
        level = 0.5 if takes_probabilities(self.loss_fn, target.shape[1]) else 0.0
        losses, dice = [], []
        self.model.train()
        for _ in range(steps + 1):  # the last only looks at what the steps before it have done
            output = self.model(image).float()
            loss = self.loss_fn(output, target)
            losses.append(loss.item())
            dice.append(dice_of(output.detach() > level, target > 0.5))
            learned = dice[-1] > until_dice and len(losses) > LEAST_STEPS
            if learned or len(losses) > steps or not math.isfinite(losses[-1]):
                break
            optimizer.zero_grad()
            loss.backward()
            if self.grad_clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
            optimizer.step()
        with torch.no_grad():
            swapped = self.loss_fn(self.model(image.roll(1, 0)).float(), target).item()
        in_evaluation = self.evaluation_dice(image, target, level) if dice[-1] > until_dice else math.nan
        self.model.load_state_dict(start)
        return Curve(losses, dice, swapped, in_evaluation)

    @torch.no_grad()
    def evaluation_dice(self, image: Tensor, target: Tensor, level: float) -> float:
        """The Dice in evaluation mode, after the running statistics of batch norms had time to settle."""
        for _ in range(100):  # with a momentum of 0.1, less than 1/10,000 of the start is left
            self.model(image)
        self.model.eval()
        return dice_of(self.model(image) > level, target > 0.5)


@dataclass(frozen=True)
class Curve:
    """Loss and Dice before each step and after the last.

    Attributes:
        swapped_loss: at the end, if each target is given the image before it.
        evaluation_dice: at the end, in evaluation mode; NaN if the Dice that was asked for was not reached.
    """

    losses: list[float]
    dice: list[float]
    swapped_loss: float
    evaluation_dice: float

    @property
    def fall(self) -> float:
        """How far the loss fell, as a share of its start; negative if it rose, -inf if it became NaN or infinite."""
        last = sum(self.losses[-3:]) / len(self.losses[-3:])
        return (self.losses[0] - last) / max(abs(self.losses[0]), 1e-12) if math.isfinite(last) else -math.inf


def dice_of(pred: Tensor, target: Tensor) -> float:
    """Dice of all pixels of a batch together; 0 if nothing is predicted."""
    return 2 * (pred & target).sum().item() / max((pred.sum() + target.sum()).item(), 1)


# ---- findings ---------------------------------------------------------------------------------------------------


def rate_finding(
    learner: Learner, image: Tensor, target: Tensor, lr: float | None, rates: Sequence[float] = RATES
) -> tuple[Finding, float]:
    """A short training with each rate from one start; and a rate that lowers the loss well, for a longer one.

    That is the lowest rate with a fall of at least GOOD of the largest: what falls fastest at first ends worse.

    Args:
        lr: the rate that is used in training, to be judged; None judges only whether any rate works.
    """
    tried = sorted({*rates, *([lr] if lr else [])})
    falls = {rate: learner.train(image, target, rate, SWEEP_STEPS).fall for rate in tried}
    best = max(falls, key=lambda rate: falls[rate])
    good = min(rate for rate in tried if falls[rate] >= GOOD * falls[best] or rate == best)
    details = tuple(f"{rate:8.2g}  {in_words(falls[rate])}{'  <- yours' if rate == lr else ''}" for rate in tried)
    measured = f"in {SWEEP_STEPS} steps {best:.2g} does best, and {in_words(falls[best])}"
    name = "learning rate"
    if falls[best] < 0.02:
        cause = "no rate lowers the loss: the network or the loss is broken"
        return Finding(name, FAULT, measured, cause, "See the other faults.", details), good
    if lr is None or falls[lr] >= 0.1 * falls[best]:
        return Finding(name, OK, measured, details=details), good
    yours = f"{lr:.2g} {in_words(falls[lr])}; {measured}"
    if lr > best:
        return Finding(name, FAULT, yours, "the rate is too high", f"Lower it to about {best:.0e}.", details), good
    cause = "the rate is very low: training would take many times as long"
    return Finding(name, WARNING, yours, cause, f"Raise it towards {best:.0e}.", details), good


def in_words(fall: float) -> str:
    if fall == -math.inf:
        return "diverges: the loss is not finite"
    if fall < -0.02:
        return f"raises the loss by {-fall:.0%}"
    return "leaves the loss as it is" if fall < 0.02 else f"lowers the loss by {fall:.0%}"


def overfit_findings(
    learner: Learner, image: Tensor, target: Tensor, lr: float, steps: int = MOST_STEPS
) -> list[Finding]:
    """Learn one batch by heart, at this rate or a third or a tenth of it.

    Args:
        image: the images with the largest lesions; at least two are needed to see whether they are used.
        lr: a rate that lowers the loss (`rate_finding`).
    """
    for rate in (lr, lr / 3, lr / 10):
        curve = learner.train(image, target, rate, steps, until_dice=ENOUGH_DICE)
        if curve.dice[-1] > ENOUGH_DICE:
            break
    taken, dice = len(curve.losses) - 1, curve.dice[-1]
    measured = f"Dice {dice:.3f} on {len(image)} images after {taken} steps (loss {curve.losses[0]:.3g} to "
    measured += f"{curve.losses[-1]:.3g}, rate {rate:.2g})"
    findings = [overfit_finding(curve, measured)]
    if dice > ENOUGH_DICE:
        findings.append(evaluation_finding(curve))
    if len(image) > 1:
        findings.append(input_finding(curve))
    return findings


def overfit_finding(curve: Curve, measured: str) -> Finding:
    name = "one batch by heart"
    if curve.dice[-1] > ENOUGH_DICE:
        return Finding(name, OK, measured)
    if curve.fall > 0.1 and curve.dice[-1] < 0.1:
        cause = (
            "the loss falls, but not because lesions are found: a wrong sign, or a loss that rewards predicting none"
        )
        return Finding(name, FAULT, measured, cause, "See the finding on the loss; try dice_bce_loss.")
    if curve.dice[-1] > SOME_DICE:
        cause = "it learns, but slowly, or the lesions are smaller than what it can outline"
        return Finding(name, WARNING, measured, cause, "Allow more steps (--steps); see tokens per lesion.")
    cause = "the network cannot even learn these by heart: network, loss or targets are broken"
    return Finding(name, FAULT, measured, cause, "Mend the other faults first; then allow more steps (--steps).")


def evaluation_finding(curve: Curve) -> Finding:
    """Batch norm and dropout behave differently in evaluation mode, where the validation Dice is measured."""
    name, measured = "evaluation mode", f"Dice {curve.evaluation_dice:.3f}, in training mode {curve.dice[-1]:.3f}"
    if curve.evaluation_dice >= 0.5 * curve.dice[-1]:
        return Finding(name, OK, measured)
    cause = "running statistics of batch norms that follow slowly or not at all (momentum), or strong dropout"
    return Finding(name, WARNING, measured, cause, "Use a momentum of 0.1, larger batches, or instance norm.")


def input_finding(curve: Curve) -> Finding:
    """What was learned by heart is wrong for other images, so the loss must rise if they are swapped."""
    measured = f"loss {curve.losses[-1]:.3g} with the images, {curve.swapped_loss:.3g} with each other's"
    if curve.swapped_loss - curve.losses[-1] > 0.02 * abs(curve.swapped_loss):
        return Finding("input is used", OK, measured)
    cause = "the images do not help: they do not reach the output, or all look the same"
    cure = "Follow the image through `forward`; look at the picture."
    return Finding("input is used", FAULT, measured, cause, cure)
