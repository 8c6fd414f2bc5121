"""Findings about a network and its loss as they are: outputs, loss at the start, and what a trained one has learned.

`image` is (B, C, *spatial), `target` (B, K, *spatial) in {0, 1}, `loss_fn` (output, target) -> scalar, all on the
device of the model. Every function leaves the weights as they were, if its caller wraps it in `restored`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lungseg.doctor.finding import FAULT, OK, WARNING, Finding

LossFunction = Callable[[Tensor, Tensor], Tensor]
SURE = 8.0  # a logit that is as good as certain: sigmoid(8) = 0.9997
CHEAP = 0.02  # cost of predicting nothing, as a share of that of predicting lesion everywhere
BINS, BAR = 12, 40  # of the histogram, and its longest bar in characters


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the model has its weights, buffers, gradients and mode again afterwards."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    modes, grads = [(m, m.training) for m in model.modules()], [(p, p.grad) for p in model.parameters()]
    try:
        yield
    finally:
        model.load_state_dict(state)
        for module, mode in modes:
            module.training = mode
        for parameter, grad in grads:
            parameter.grad = grad


# ---- the loss ---------------------------------------------------------------------------------------------------


def takes_probabilities(loss_fn: LossFunction, num_classes: int) -> bool:
    """Whether a loss expects probabilities in [0, 1] and not logits: then nearly right probabilities cost nearly 0."""
    target = torch.zeros(1, num_classes, 8, 8)
    target[..., :4] = 1
    probs = target.clamp(0.001, 0.999)
    try:
        return min(abs(loss_fn(p, target).item()) for p in (probs, 1 - probs)) < 0.01
    except (ValueError, RuntimeError):
        return False


def as_output(probs: Tensor, loss_fn: LossFunction) -> Tensor:
    """The output that stands for these probabilities: themselves, or logits, whichever the loss takes."""
    return probs if takes_probabilities(loss_fn, probs.shape[1]) else probs.logit()


def loss_finding(loss_fn: LossFunction, target: Tensor) -> Finding:
    """A loss must be lowest for the target itself, and not negative."""
    sure, lesion = torch.tensor(SURE).sigmoid().item(), target > 0.5
    maps = {
        "the target": lesion,
        "no lesion": lesion & False,
        "lesion everywhere": lesion | True,
        "the opposite": ~lesion,
    }
    try:
        loss = {n: loss_fn(as_output(m.float().clamp(1 - sure, sure), loss_fn), target).item() for n, m in maps.items()}
    except (ValueError, RuntimeError, IndexError) as error:
        return Finding("loss", FAULT, f"it fails: {error}", "another shape or type", "Take (B, K, *spatial) floats.")
    measured = ", ".join(f"{value:.4g} for {name}" for name, value in loss.items())
    best = min(loss, key=lambda n: loss[n])
    if not all(map(math.isfinite, loss.values())):
        cause, cure = "a logarithm of 0, or 0/0 for an empty mask", "Compute it from logits; add a smoothing term."
        return Finding("loss", FAULT, measured, cause, cure)
    if best != "the target":
        cause = f"the loss is lowest for {best}: a wrong sign, or arguments in the wrong order"
        return Finding("loss", FAULT, measured, cause, "It must fall as the overlap grows: 1 - Dice, not Dice.")
    if loss[best] < -1e-6:
        cause = "a negative loss: targets beyond [0, 1], such as 0 and 255, or a wrong sign"
        return Finding("loss", FAULT, measured, cause, "Divide the masks by 255; use 1 - Dice.")
    if loss["no lesion"] < CHEAP * loss["lesion everywhere"]:
        cause = "predicting no lesion costs almost nothing, so training learns that first and may stay there"
        return Finding("loss", WARNING, measured, cause, "Use dice_bce_loss, or crops with more lesion pixels.")
    return Finding("loss", OK, measured)


# ---- the output -------------------------------------------------------------------------------------------------


def output_finding(model: nn.Module, image: Tensor, target: Tensor, loss_fn: LossFunction) -> Finding:
    """One output per pixel and class, finite, and of the kind that the loss takes: logits, or probabilities."""
    name = "output"
    try:
        with torch.no_grad():
            output = model(image)
            probe = torch.cat([output, model(100 * torch.randn_like(image))])  # far outside [0, 1]
    except Exception as error:  # any network of anyone
        cause = f"{type(error).__name__}: {error}"
        return Finding(name, FAULT, f"the network fails on images {tuple(image.shape)}", cause, "Mend `forward`.")
    if output.shape != target.shape:
        measured = f"shape {tuple(output.shape)}, expected that of the target, {tuple(target.shape)}"
        cure = "One map per class, as large as the image: no argmax, no label indices; crop what was padded."
        return Finding(name, FAULT, measured, "broadcasting may hide this in the loss", cure)
    low, high = probe.min().item(), probe.max().item()
    measured = f"from {output.min().item():.3g} to {output.max().item():.3g}"
    wants_probs = takes_probabilities(loss_fn, target.shape[1])
    if not (math.isfinite(low) and math.isfinite(high)):
        cause = "NaN or infinity: broken weights, or a division by 0"
        return Finding(name, FAULT, measured, cause, "Start again with a lower rate; look for a division by 0.")
    if low >= 0 and (output == 0).float().mean().item() > 0.01 and not wants_probs and low < high:
        cause = "the network ends in a ReLU, so no probability is below 1/2"
        return Finding(name, FAULT, f"{measured}, never negative", cause, "End in a plain convolution.")
    in_0_1 = low >= 0 and high <= 1
    if in_0_1 and low < high and not wants_probs:
        cause = "the network ends in a sigmoid (or softmax), and the loss applies another one"
        return Finding(name, FAULT, f"{measured}, whatever the input", cause, "Return logits: drop the last sigmoid.")
    if not in_0_1 and wants_probs:
        cause = "the loss takes probabilities, but the network returns logits"
        return Finding(name, FAULT, measured, cause, "Use a loss on logits (binary_cross_entropy_with_logits).")
    return Finding(name, OK, f"{'probabilities' if wants_probs else 'logits'} {measured}")


def histogram_finding(
    model: nn.Module, image: Tensor, target: Tensor, loss_fn: LossFunction, *, trained: bool
) -> Finding:
    """The distribution of the logits: of both signs once a network is trained, and not saturated on lesions."""
    with torch.no_grad():
        output = model(image)
    logits = output.clamp(1e-6, 1 - 1e-6).logit() if takes_probabilities(loss_fn, target.shape[1]) else output
    lesion = logits[target > 0.5]
    above, on_lesion = (logits > 0).float().mean().item(), (lesion > 0).float().mean().item() if len(lesion) else 0.0
    measured = f"{above:.1%} of the pixels are predicted to be lesion, {on_lesion:.1%} of those on lesions"
    drawn = tuple(text_histogram(logits))
    buried = (lesion < -15).float().mean().item() if len(lesion) else 0.0
    if buried > 0.5:
        cause = f"{buried:.0%} of the lesion pixels have a logit below -15, where a sigmoid has no gradient"
        return Finding("logits", FAULT, measured, cause, "Start again with a lower rate.", drawn)
    if trained and above in (0.0, 1.0):
        cause = (
            f"all logits are {'negative: it predicts nothing' if above == 0 else 'positive: it predicts everything'}"
        )
        cure = "See the other faults; if there are none: dice_bce_loss, more lesions per batch, more epochs."
        return Finding("logits", FAULT, measured, cause, cure, drawn)
    if not trained and logits.abs().max().item() > 20:
        cause = "large logits before any training: unscaled images or too large initial weights"
        return Finding(
            "logits", WARNING, measured, cause, "Scale images to [0, 1]; use the usual initialisation.", drawn
        )
    return Finding("logits", OK, measured, details=drawn)


def text_histogram(values: Tensor) -> list[str]:
    """One line per bin: its lower end, a bar, and the share of the values."""
    values = values[values.isfinite()].float().cpu()  # (n,)
    if not len(values):
        return ["no value is finite"]
    low, high = values.min().item(), values.max().item()
    if low == high:
        return [f"{low:8.2f}  all values"]
    counts = torch.histc(values, BINS, low, high) / len(values)
    longest = counts.max().item()
    lines = []
    for b, share in enumerate(counts.tolist()):
        bar = "#" * max(round(BAR * share / longest), 1 if share else 0)
        lines.append(f"{low + b * (high - low) / BINS:8.2f}  {bar:{BAR}}  {share:6.2%}")
    return lines


# ---- the loss at the start ----------------------------------------------------------------------------------------


def constant_losses(target: Tensor, loss_fn: LossFunction) -> dict[str, float]:
    """The loss of networks that never look at the image: 1/2 everywhere, and the share of lesion pixels everywhere."""
    share = (target > 0.5).float().mean().clamp(1e-6, 1 - 1e-6).item()
    return {
        name: loss_fn(as_output(torch.full_like(target, p), loss_fn), target).item()
        for name, p in (("1/2", 0.5), ("the prevalence", share))
    }


def start_finding(model: nn.Module, image: Tensor, target: Tensor, loss_fn: LossFunction) -> Finding:
    """The loss of a fresh network: about that of a constant, 1/2 or (with a prior in the head) the prevalence."""
    with torch.no_grad():
        loss = loss_fn(model(image).float(), target).item()
    expected = constant_losses(target, loss_fn)
    low, high = min(expected.values()), max(expected.values())
    told = ", ".join(f"{value:.4g} for {name} everywhere" for name, value in expected.items())
    measured = f"{loss:.4g}; expected about {told}"
    if not math.isfinite(loss) or loss > 10 * high:
        cause = "logits far from 0: images not in [0, 1], or initial weights too large"
        return Finding("loss at the start", FAULT, measured, cause, "Scale the images; use the usual initialisation.")
    if loss > 2 * high or loss < 0.5 * low:
        cause = "not the loss of an undecided network: pretrained weights, unscaled images, or unusual initial weights"
        return Finding("loss at the start", WARNING, measured, cause, "If nothing was loaded, look at the images.")
    return Finding("loss at the start", OK, measured)


# ---- a trained network ------------------------------------------------------------------------------------------


def trained_findings(model: nn.Module, image: Tensor, target: Tensor, loss_fn: LossFunction) -> list[Finding]:
    """Whether a trained network is better than a constant, and whether it looks at its images."""
    with torch.no_grad():
        output = model(image).float()
        own = loss_fn(output, target).item()
        others = loss_fn(model(image.roll(max(1, len(image) // 2), 0)).float(), target).item()
    best = min(constant_losses(target, loss_fn).values())
    measured = f"{own:.4g}; the best constant has {best:.4g}"
    cause, cure = "it has learned nothing that a constant does not know", "See the other findings; then train longer."
    bad = not own < best
    findings = [Finding("trained loss", FAULT if bad else OK, measured, *((cause, cure) if bad else ()))]
    measured = f"{own:.4g} with its own images, {others:.4g} with those of others"
    if len(image) < 2:
        return findings
    if own > 0.95 * others:
        cause = "the network does not use its input: it has learned one map for all images"
        cure = "Check that images and masks belong together, and that images are not constant."
        return [*findings, Finding("input is used", FAULT, measured, cause, cure)]
    return [*findings, Finding("input is used", OK, measured)]
