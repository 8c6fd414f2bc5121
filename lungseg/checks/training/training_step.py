"""Checks of one epoch of training, one step and one validation, against gradient descent with Python numbers.

The network has two parameters, logit = w x + b, and the loss is the mean squared error; so its gradient is written out
in a line. Network, loss and optimizer also record what is done with them, and in which order: that names the slip.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor, row
from lungseg.checks.lessons import Lesson, Wrong

PAGE = "docs/training.md"
RATE = 0.1
# (images, targets) of each batch: two, two and one image of two pixels; the last batch is smaller, as it usually is.
BATCHES = [
    ([[1.0, -0.5], [0.5, 2.0]], [[1.0, 0.0], [0.0, 1.0]]),
    ([[-1.0, 1.5], [0.25, 1.0]], [[0.0, 1.0], [0.0, 0.0]]),
    ([[2.0, -2.0]], [[1.0, 1.0]]),
]
ORDER = {
    "gradients accumulate": "the gradients of earlier batches are still there: call optimizer.zero_grad() before "
    "backward.",
    "zero_grad before step": "zero_grad() comes between backward() and step(), so the step has no gradient.",
    "step before backward": "step() comes before backward(), so it uses the gradient of the batch before, or none.",
    "no step": "optimizer.step() is missing: nothing is learnt.",
    "no backward": "loss.backward() is missing: there is no gradient.",
    "step twice": "step() is called twice for one gradient.",
    "arguments exchanged": "logits and target are exchanged in the call of loss_fn: it takes (logits, target).",
    "sigmoid before the loss": "the loss receives probabilities: it takes logits, and applies the sigmoid itself.",
}
MEAN = {
    "mean of the batches": "the mean of the batches' losses is returned: a small last batch then weighs as much as a "
    "full one. Weigh each by its number of images.",
    "sum of the batches": "the sum of the batches' losses is returned: divide.",
    "sum over the images": "the sum over the images is returned: divide by their number.",
    "loss of the last batch": "the loss of the last batch is returned: expected the mean over all images.",
}
EPOCH = Lesson(
    "train_one_epoch",
    "train_one_epoch(model, batches of (image, target), loss_fn(logits, target), optimizer) -> mean loss per image",
    "in training mode, for each batch: gradients to zero, forward, loss, backward, step. The result is the mean loss "
    "per image, so a smaller last batch weighs less.",
    PAGE,
    {
        **ORDER,
        "evaluation mode": "the network is in evaluation mode: call model.train() first, or dropout and batch norm do "
        "not work as in training.",
        "only the first batch": "only the first batch is used: is the `return` inside the loop?",
        "one step per epoch": "one step is taken for all batches: expected one step per batch.",
        **MEAN,
    },
)
STEP = Lesson(
    "train_step",
    "train_step(model, image, target, loss_fn(logits, target), optimizer) -> loss of this batch",
    "gradients to zero, forward, loss, backward, step, in this order.",
    PAGE,
    {
        **ORDER,
        "evaluation mode": "the network was set to evaluation mode: dropout and batch norm do not work then as in "
        "training.",
        "no gradient flows": "the loss was cut off from the parameters, by .item(), .detach() or no_grad.",
    },
)
VALIDATE = Lesson(
    "validate",
    "validate(model, batches of (image, target), loss_fn(logits, target)) -> mean loss per image",
    "in evaluation mode and under torch.no_grad(), the mean loss per image; afterwards the network is as it was.",
    PAGE,
    {
        "training mode": "the network is in training mode: dropout is active, and batch norm takes in the validation "
        "set.",
        "mode not restored": "the network stays in evaluation mode: the next epoch would be trained without dropout.",
        "gradients recorded": "gradients are recorded, which costs memory: use torch.no_grad().",
        "gradients stay off": "gradients are still switched off afterwards, so nothing can be trained any more: use "
        "`with torch.no_grad():`.",
        "trains": "the parameters change: validation must not train.",
        "arguments exchanged": ORDER["arguments exchanged"],
        "sigmoid before the loss": ORDER["sigmoid before the loss"],
        "only the first batch": "only the first batch is used: is the `return` inside the loop?",
        **MEAN,
    },
)


class Recorder:
    """A network, a loss and an optimizer that share one list of what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.modes: list[bool] = []
        self.grads: list[bool] = []
        self.first_of_loss = ""  # what the loss was given first, if not the logits
        self.model = TwoNumbers(self)
        self.optimizer = RecordedSGD(self)

    def loss_fn(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean squared error."""
        given = self.model.logits
        if given is not None and logits.shape == given.shape and not torch.equal(logits, given):
            swapped = torch.equal(target, given)
            probabilities = torch.allclose(logits, given.sigmoid())
            self.first_of_loss = (
                "arguments exchanged" if swapped else "sigmoid before the loss" if probabilities else ""
            )
        loss = ((logits - target) ** 2).mean()
        if loss.requires_grad:
            loss.register_hook(lambda grad: self.events.append("backward"))
        return loss

    def parameters(self) -> list[float]:
        return [self.model.w.item(), self.model.b.item()]


class TwoNumbers(nn.Module):
    """logits = w x + b."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.record = [recorder]  # in a list: not a part of the network
        self.w, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.25))
        self.logits: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.record[0].events.append("forward")
        self.record[0].modes.append(self.training)
        self.record[0].grads.append(torch.is_grad_enabled())
        logits = self.w * x + self.b
        self.logits = logits.detach().clone()
        return logits


class RecordedSGD(torch.optim.SGD):
    """Plain gradient descent."""

    def __init__(self, recorder: Recorder):
        self.record = recorder
        super().__init__(recorder.model.parameters(), lr=RATE)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.record.events.append("zero_grad")
        super().zero_grad(set_to_none=set_to_none)

    def step(self, closure: Any = None) -> Any:
        self.record.events.append("step")
        return super().step(closure)


def batches() -> list[tuple[Tensor, Tensor]]:
    """(image, target), both (B, 1, 1, 2), of each batch."""
    return [(torch.tensor(x)[:, None, None], torch.tensor(t)[:, None, None]) for x, t in BATCHES]


def descend(pairs: Sequence[tuple[list, list]], train: bool = True) -> tuple[list[float], list[float]]:
    """([w, b], losses of the batches) after a step per batch, with Python numbers."""
    w, b, losses = 0.5, -0.25, []
    for images, targets in pairs:
        pixels = [(x, t) for xs, ts in zip(images, targets, strict=True) for x, t in zip(xs, ts, strict=True)]
        errors = [w * x + b - t for x, t in pixels]
        losses.append(sum(e**2 for e in errors) / len(errors))
        if train:
            slope_w = sum(2 * e * x for e, (x, _) in zip(errors, pixels, strict=True)) / len(errors)
            slope_b = sum(2 * e for e in errors) / len(errors)
            w, b = w - RATE * slope_w, b - RATE * slope_b
    return [w, b], losses


def mean_per_image(losses: Sequence[float]) -> float:
    sizes = [len(images) for images, _ in BATCHES]
    return sum(n * loss for n, loss in zip(sizes, losses, strict=True)) / sum(sizes)


# ---- checks ---------------------------------------------------------------------------------------------------


def check_train_one_epoch(train_one_epoch: Callable) -> None:
    """Fail unless an epoch over three batches moves the parameters as gradient descent does, in training mode.

    The result is the mean loss per image, as a number or a tensor of one. The network is given in evaluation mode.
    """
    r = Recorder()
    r.model.eval()
    result = call(EPOCH, train_one_epoch, r.model, tuple(batches()), r.loss_fn, r.optimizer)
    if not all(r.modes):
        raise Wrong(EPOCH, "the network was called in evaluation mode.", slip="evaluation mode")
    want, losses = descend(BATCHES)
    check_parameters(EPOCH, r, want, len(BATCHES))
    check_loss(EPOCH, result, losses)


def check_train_step(train_step: Callable) -> None:
    """Fail unless each of three steps moves the parameters as gradient descent does; its result is the loss."""
    r = Recorder()
    for i, (image, target) in enumerate(batches()):
        result = call(STEP, train_step, r.model, image, target, r.loss_fn, r.optimizer)
        if not all(r.modes):
            raise Wrong(STEP, "the network was called in evaluation mode.", slip="evaluation mode")
        want, losses = descend(BATCHES[: i + 1])
        check_parameters(STEP, r, want, i + 1)
        if abs(number(STEP, result) - losses[i]) > 1e-5:
            raise Wrong(STEP, f"step {i + 1} returned {number(STEP, result):.6g}, expected the loss, {losses[i]:.6g}.")


def check_validate(validate: Callable) -> None:
    """Fail unless the mean loss per image is computed in evaluation mode, without gradients, and changes nothing."""
    for training in (True, False):
        r = Recorder()
        r.model.train(training)
        result = call(VALIDATE, validate, r.model, tuple(batches()), r.loss_fn)
        if not torch.is_grad_enabled():
            torch.set_grad_enabled(True)
            raise Wrong(VALIDATE, "gradients are switched off after the call.", slip="gradients stay off")
        if any(r.modes):
            raise Wrong(VALIDATE, "the network was called in training mode.", slip="training mode")
        if any(r.grads):
            raise Wrong(VALIDATE, "the network was called with gradients switched on.", slip="gradients recorded")
        if r.model.training != training:
            raise Wrong(VALIDATE, "the network was in training mode before, and is in evaluation mode now.",
                        slip="mode not restored")  # fmt: skip
        want, losses = descend(BATCHES, train=False)
        if r.parameters() != want:
            raise Wrong(VALIDATE, "the parameters of the network have changed.", slip="trains")
        check_forwards(VALIDATE, r, len(BATCHES))
        check_loss(VALIDATE, result, losses)


def check_forwards(lesson: Lesson, r: Recorder, count: int) -> None:
    if r.first_of_loss:
        raise Wrong(lesson, "loss_fn was not given (logits, target).", slip=r.first_of_loss)
    forwards = r.events.count("forward")
    if forwards != count:
        first = forwards == 1 and "only the first batch" in lesson.slips
        raise Wrong(lesson, f"{count} batches were given, and the network was called {forwards} time(s).",
                    slip="only the first batch" if first else "")  # fmt: skip


def check_parameters(lesson: Lesson, r: Recorder, want: Sequence[float], count: int) -> None:
    """The parameters are those of gradient descent, or the order of events tells why not."""
    check_forwards(lesson, r, count)
    got = r.parameters()
    if all(abs(a - b) <= 1e-5 for a, b in zip(got, want, strict=True)):
        return
    slip = order_slip(r)
    events = ", ".join(r.events[:14]) + (", ..." if len(r.events) > 14 else "")
    raise Wrong(lesson, f"logit = w x + b, mean squared error, SGD with lr {RATE}: after {count} batch(es) w, b = "
                f"{row(got, 5)}, expected {row(want, 5)}.",
                numbers=f"what your code did: {events}", slip=slip if slip in lesson.slips else "")  # fmt: skip


def order_slip(r: Recorder) -> str:
    """What is wrong with the order of forward, zero_grad, backward and step."""
    events = "".join({"forward": "f", "zero_grad": "z", "backward": "b", "step": "s"}[e] for e in r.events)
    forwards, backwards, steps = (events.count(e) for e in "fbs")
    if backwards == 0:
        return "no backward" if steps else "no gradient flows"
    if steps == 0:
        return "no step"
    if steps < forwards:
        return "one step per epoch"
    if "bzs" in events:
        return "zero_grad before step"
    if "ss" in events:
        return "step twice"
    if any(before in events for before in ("fs", "fzs")):
        return "step before backward"
    between = events.split("b")[1:-1]  # what happens between two backward passes
    return "gradients accumulate" if any("z" not in e for e in between) else ""


def check_loss(lesson: Lesson, result: Any, losses: Sequence[float]) -> None:
    """The mean loss per image, or which other summary was returned."""
    got, want, sizes = number(lesson, result), mean_per_image(losses), [len(x) for x, _ in BATCHES]
    if abs(got - want) <= 1e-5:
        return
    others = {
        "mean of the batches": sum(losses) / len(losses),
        "sum of the batches": sum(losses),
        "sum over the images": want * sum(sizes),
        "loss of the last batch": losses[-1],
    }
    raise Wrong(lesson, f"the result is {got:.6g}, expected {want:.6g}, the mean loss per image.",
                numbers=f"losses of the batches {row(losses, 5)}, of {sizes} images",
                slip=next((slip for slip, value in others.items() if abs(got - value) <= 1e-5), ""))  # fmt: skip


def number(lesson: Lesson, result: Any) -> float:
    """A number or a tensor of one element."""
    value = as_tensor(lesson, result)
    if value.numel() != 1:
        raise Wrong(lesson, f"the result has shape {tuple(value.shape)}, expected one number.")
    return float(value)
