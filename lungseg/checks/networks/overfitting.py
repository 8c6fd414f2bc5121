"""Checks that a network can learn: one batch by heart."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.checks.calling import call
from lungseg.checks.judging import as_tensor
from lungseg.checks.lessons import Lesson, Wrong

OVERFIT = Lesson(
    "overfit",
    "overfit(image (4, 1, 32, 32), target (4, 1, 32, 32)) -> a network trained on these four images",
    "a network that is in order memorises a single batch within a few hundred steps: Dice above 0.99 on it.",
    "docs/training.md",
    {
        "does not learn": "the network has not memorised the batch: more steps, another learning rate, or a fault.",
        "inverted": "the network predicts background where the lesion is.",
    },
)


def check_overfits_one_batch(network: nn.Module, *, lr: float, steps: int) -> None:
    """Fail unless a network of 1 -> 1 channels can memorise four noisy rectangles: Dice above 0.99.

    A network that cannot do this is broken somewhere, and more data will not help it.
    """
    image, target = noisy_rectangles()
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    network.train()
    for step in range(steps):
        optimizer.zero_grad()
        logits = network(image)
        F.binary_cross_entropy_with_logits(logits, target).backward()
        optimizer.step()
        if step % 5 == 4 and dice_of(logits, target) > 0.995:
            return
    dice = dice_of(network(image), target)
    if not dice > 0.99:
        raise Wrong(
            OVERFIT,
            f"after {steps} steps on one batch the Dice on that batch is {dice:.3f}, not above 0.99",
            slip="does not learn",
        )


def check_overfit(overfit: Callable[[Tensor, Tensor], nn.Module]) -> None:
    """Fail unless a student's function returns a network that has memorised the batch it was given."""
    image, target = noisy_rectangles()
    network = call(OVERFIT, overfit, image, target)
    if not isinstance(network, nn.Module):
        raise Wrong(OVERFIT, f"the result is a {type(network).__name__}, expected the trained network.")
    logits = as_tensor(OVERFIT, call(OVERFIT, network.eval(), image))
    if logits.shape != target.shape:
        raise Wrong(OVERFIT, f"the network returns {tuple(logits.shape)} for images {tuple(image.shape)}.")
    dice = dice_of(logits, target)
    if not dice > 0.99:
        slip = "inverted" if dice_of(-logits, target) > 0.9 else "does not learn"
        raise Wrong(OVERFIT, f"the Dice on the batch is {dice:.3f}, expected above 0.99.", slip=slip)


def noisy_rectangles() -> tuple[Tensor, Tensor]:
    """Four images with a noisy rectangle each, and where it is: (4, 1, 32, 32) both."""
    generator = torch.Generator().manual_seed(1)
    target = torch.zeros(4, 1, 32, 32)
    for i, (r, c) in enumerate(torch.randint(4, 20, (4, 2), generator=generator).tolist()):
        target[i, 0, r : r + 8, c : c + 6] = 1
    return target + 0.3 * torch.randn(4, 1, 32, 32, generator=generator), target


def dice_of(logits: Tensor, target: Tensor) -> float:
    pred = logits > 0
    return (2 * (pred * target).sum() / (pred.sum() + target.sum())).item()
