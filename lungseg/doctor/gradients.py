"""Does the gradient reach every stage of a network, and is it of a size to learn from?"""

import math

import torch
from torch import Tensor, nn

from lungseg.doctor.finding import FAULT, OK, WARNING, Finding
from lungseg.doctor.network import LossFunction

LEAST_SHARE, MOST_RMS = 1e-5, 100.0  # of the largest stage; sound networks of ours were from 1e-5 to 0.3


def gradient_finding(
    model: nn.Module, image: Tensor, target: Tensor, loss_fn: LossFunction, *, steps: int = 3
) -> Finding:
    """RMS of the gradient in each stage, after a few small steps (a head that starts at 0 blocks the first)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        cause = "no weight is trainable (requires_grad is False)"
        return Finding("gradients", FAULT, "no gradient at all", cause, "model.requires_grad_()")
    optimizer = torch.optim.SGD(trainable, lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(image).float(), target)
        if not loss.requires_grad:
            cause = "the loss does not depend on any weight: detach(), no_grad(), argmax or a threshold on the way"
            return Finding("gradients", FAULT, "no gradient at all", cause, "Compute the loss from the raw output.")
        loss.backward()
        optimizer.step()
    rms = {name: stage_rms(parameters) for name, parameters in stages(model).items()}
    details = tuple(f"{name:24} {'none' if value is None else f'{value:.2e}'}" for name, value in rms.items())
    frozen = [n for n, ps in stages(model).items() if not any(p.requires_grad for p in ps)]
    dead = [name for name, value in rms.items() if not value and name not in frozen]
    values = [value for value in rms.values() if value]
    if not all(map(math.isfinite, values)):
        cause = "NaN or infinity on the way back, often a root or a logarithm at 0"
        return Finding("gradients", FAULT, "not finite", cause, "Add a small number inside it.", details)
    if dead or not values:
        measured = f"none in {', '.join(dead) or 'any stage'}"
        cause = "detach(), no_grad(), an unused stage, or units that are all 0 (dead ReLU)"
        return Finding("gradients", FAULT, measured, cause, "Follow `forward` through this stage.", details)
    measured = f"RMS from {min(values):.1e} to {max(values):.1e} in {len(rms)} stages"
    if frozen:
        cause = f"{', '.join(frozen)} frozen (requires_grad is False)"
        return Finding("gradients", WARNING, measured, cause, "Intended? Otherwise model.requires_grad_().", details)
    if min(values) < LEAST_SHARE * max(values):
        cause = "vanishing: the signal is lost on the way back"
        return Finding("gradients", WARNING, measured, cause, "Add normalisation or residual connections.", details)
    if max(values) > MOST_RMS:
        cause = "exploding: unscaled images, a loss that is a sum and not a mean, or no normalisation"
        return Finding("gradients", WARNING, measured, cause, "Use the mean; clip the gradient (--grad-clip).", details)
    return Finding("gradients", OK, measured, details=details)


def stages(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of each child of the network; of the children of an only child, as in a wrapper."""
    while len(children := list(model.children())) == 1 and list(children[0].children()):
        model = children[0]
    found = {name: list(child.parameters()) for name, child in model.named_children()}
    found |= {name: [p] for name, p in model.named_parameters(recurse=False)}
    return {name: parameters for name, parameters in found.items() if parameters}


def stage_rms(parameters: list[nn.Parameter]) -> float | None:
    """Root mean square of the gradient over all weights of a stage; None if no weight has one."""
    grads = [p.grad.flatten().float() for p in parameters if p.grad is not None]
    return torch.cat(grads).square().mean().sqrt().item() if grads else None
