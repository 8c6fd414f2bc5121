"""The examinations as a whole: of data, of a network that is to be trained, and of one that was trained."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from lungseg.doctor.finding import FAULT, OK, WARNING, Finding
from lungseg.doctor.fit import fit_finding
from lungseg.doctor.gradients import gradient_finding
from lungseg.doctor.learning import MOST_STEPS, Learner, MakeOptimizer, adamw, overfit_findings, rate_finding
from lungseg.doctor.network import (
    LossFunction,
    histogram_finding,
    loss_finding,
    output_finding,
    restored,
    start_finding,
    trained_findings,
)
from lungseg.doctor.samples import collect, lesion_batch
from lungseg.doctor.values import image_finding, prevalence_finding, target_finding, token_finding

Batches = Iterable[Sequence[Any]]  # of (image (B, C, *spatial), target (B, K, *spatial)), or with ids


def examine_batches(batches: Batches, *, patch_size: int | None = None) -> list[Finding]:
    """Values, prevalence, tokens per lesion, and whether the masks lie on the images.

    Args:
        batches: a loader; its first images are examined (`lungseg.doctor.samples.collect`).
        patch_size: side of a token of the network in pixels; None if it has none.

    Raises:
        ValueError: if there is no image, or images and targets have shapes that do not fit.
    """
    images, targets = collect(batches)
    findings = [image_finding(images), target_finding(targets)]
    if targets.max() <= 1:  # otherwise there is no telling what is lesion
        findings += [prevalence_finding(targets), token_finding(targets, patch_size)]
    if all(finding.verdict != FAULT for finding in findings):
        findings.append(fit_finding(images, targets))
    return findings


def examine_network(
    model: nn.Module,
    batches: Batches,
    loss_fn: LossFunction,
    *,
    lr: float | None = None,
    make_optimizer: MakeOptimizer = adamw,
    grad_clip: float | None = None,
    steps: int = MOST_STEPS,
) -> list[Finding]:
    """Can this network learn from these batches with this loss? The model is left as it was.

    Args:
        model: freshly built, on any device.
        batches: a loader; the images with the largest lesions among its first ones are used.
        loss_fn: (output, target) -> scalar, the mean over the images.
        lr: the rate that is used in training, to be judged; None: none is judged.
        make_optimizer, grad_clip: as in training.
        steps: at most so many in which to learn one batch by heart.

    Raises:
        ValueError: as in `examine_batches`.
    """
    images, targets = collect(batches)
    if (batch := lesion_batch(images, targets)) is None:
        return [Finding("network", WARNING, "not examined", "no image has a lesion", "See the mask values.")]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image, target = (x.to(device) for x in batch)
    learner = Learner(model, loss_fn, make_optimizer, grad_clip)
    with own_draws(device), restored(model):
        torch.manual_seed(0)  # of dropout
        model.train()
        findings = [loss_finding(loss_fn, target), output_finding(model, image, target, loss_fn)]
        loss = computed_loss(model, image, target, loss_fn)
        if loss is None:  # those two say why
            return findings
        findings.append(start_finding(model, image, target, loss_fn))
        findings.append(histogram_finding(model, image, target, loss_fn, trained=False))
        with restored(model):
            findings.append(gradient_finding(model, image, target, loss_fn))
        if not loss.requires_grad:
            return findings
        rate, good = rate_finding(learner, image, target, lr)
        return [*findings, *overfit_findings(learner, image, target, good, steps), rate]


def own_draws(device: torch.device) -> AbstractContextManager[None]:
    """What is drawn inside, on the CPU or on `device`, changes nothing that is drawn later.

    `fork_rng` alone would start every GPU of the machine, and warn about it.
    """
    if device.type == "cpu":
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device.index or 0], device_type=device.type)


def computed_loss(model: nn.Module, image: Tensor, target: Tensor, loss_fn: LossFunction) -> Tensor | None:
    """The loss, or None if network or loss fail, or the output has not the shape of the target."""
    try:
        output = model(image)
        return loss_fn(output, target) if output.shape == target.shape else None
    except Exception:  # any network and any loss of anyone
        return None


def examine_trained(model: nn.Module, batches: Batches, loss_fn: LossFunction) -> list[Finding]:
    """What has a trained network learned? In evaluation mode, on images it was not trained on; left as it was.

    Args, Raises: as in `examine_network`.
    """
    images, targets = collect(batches)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    image, target = images.to(device), targets.to(device)
    with own_draws(device), restored(model):
        model.eval()
        output = output_finding(model, image, target, loss_fn)
        if output.verdict != OK:
            return [output]
        histogram = histogram_finding(model, image, target, loss_fn, trained=True)
        return [output, *trained_findings(model, image, target, loss_fn), histogram]
