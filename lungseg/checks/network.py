"""Checks of any segmentation network, whatever it is made of."""

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor
from lungseg.checks.lessons import Lesson, Wrong

NETWORK = Lesson(
    "segmentation network",
    "SwinUNet(in_channels, num_classes), UNETR(...), UNet(...), ...: module(image (B, in_channels, H, W)) -> logits "
    "(B, num_classes, H, W)",
    "one logit per pixel and class, for each image by itself, from all of its parameters.",
    "docs/nn/swin_unet.md",
    {
        "probabilities": "the network ends with a sigmoid or softmax. Return logits: the losses take them, and a "
        "second "
        "sigmoid would hide errors.",
        "never negative": "the network ends with a ReLU: a logit below 0 is how it says `background`.",
        "size": "the logits are smaller or larger than the image.",
        "rows and columns": "height and width are exchanged: try an image that is not square.",
        "channels": "the number of output channels must be num_classes.",
        "images mixed": "the logits of an image depend on the other images of its batch: a norm in training mode, or "
        "an "
        "axis that was reshaped away.",
        "remembers": "the network remembers an earlier call.",
        "random in eval": "two calls in eval mode differ: dropout or DropPath is still active.",
        "unused parameters": "some parameters have no influence on the logits and so never learn.",
        "ignores the image": "the logits do not depend on the image.",
        "does not learn": "it cannot memorise a single batch, so more data will not help.",
    },
)
SMALL = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "drop_path_rate": 0.0,
         "depth": 4, "feature_size": 8, "patch_size": 4, "width": 16}  # fmt: skip


def check_network(build_: Callable[..., nn.Module], *, overfit: bool = True) -> None:
    """Fail unless a student's network gives logits of the image's size, per image, from all its parameters, and learns.

    Sides are multiples of 32. For a quick test a network is built small where its arguments have the usual names.

    Args:
        build_: (in_channels, num_classes, ...) -> a network (B, in_channels, H, W) -> logits (B, num_classes, H, W).
    """
    torch.manual_seed(0)
    network = build_small(build_, 1, 1)
    check_image_sizes(network, build_small(build_, 2, 3))
    check_logits(network)
    check_reached(network)
    fresh = build_small(build_, 1, 1).eval()  # that has seen no small image yet
    check_independence(fresh, *(torch.randn(1, 1, side, side) for side in (64, 64, 32)))
    if overfit:
        check_overfits_one_batch(build_small(build_, 1, 1), lr=2e-3, steps=200)


def build_small(build_: Callable[..., nn.Module], in_channels: int, num_classes: int) -> nn.Module:
    """The network with few channels and blocks, as far as its arguments have the usual names and defaults allow it."""
    try:
        names = set(inspect.signature(build_).parameters)
    except (TypeError, ValueError):
        names = set()
    small = {name: value for name, value in SMALL.items() if name in names}
    if "num_heads" in small and "depths" not in small:
        small["num_heads"] = 2
    try:
        return build(NETWORK, build_, in_channels, num_classes, **small)
    except Wrong:
        if not small:
            raise
        return build(NETWORK, build_, in_channels, num_classes)


def logits_of(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return as_tensor(NETWORK, call(NETWORK, network, image))


def check_image_sizes(one: nn.Module, three: nn.Module) -> None:
    """The logits are as large as the image, and have one channel per class."""
    for network, channels, classes in ((one, 1, 1), (three, 2, 3)):
        for B, H, W in ((1, 64, 64), (2, 32, 64), (1, 96, 32)):
            got, want = tuple(logits_of(network.eval(), torch.randn(B, channels, H, W)).shape), (B, classes, H, W)
            if got != want:
                slip = "rows and columns" if got == (B, classes, W, H) else "size"
                slip = "channels" if got[2:] == want[2:] else slip
                raise Wrong(NETWORK, f"an image {(B, channels, H, W)} gives logits {got}, expected {want}.", slip=slip)


def check_logits(network: nn.Module) -> None:
    """Logits of random weights are of both signs; probabilities and the output of a ReLU are not."""
    generator = torch.Generator().manual_seed(0)
    lowest, highest = torch.inf, -torch.inf
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for p in network.parameters():  # 1.5 times normal numbers: also a last bias that hides the sign
                p.copy_(torch.randn(p.shape, generator=generator) * (1.5 if p.ndim < 2 else 2 * p[0].numel() ** -0.5))
        logits = logits_of(network.eval(), 3 * torch.randn(2, 1, 64, 64, generator=generator))
        lowest, highest = min(lowest, logits.min().item()), max(highest, logits.max().item())
        if logits.std() == 0:
            raise Wrong(NETWORK, "with random weights and images all logits are equal.", slip="ignores the image")
    network.load_state_dict(before, strict=False)
    if lowest >= 0:
        slip = "probabilities" if highest <= 1 else "never negative"
        raise Wrong(
            NETWORK,
            f"with random weights the outputs range from {lowest:.3g} to {highest:.3g}, never below 0.",
            slip=slip,
        )
    if highest <= 0:  # log-probabilities
        raise Wrong(
            NETWORK,
            f"with random weights the outputs range from {lowest:.3g} to {highest:.3g}, never above 0.",
            slip="probabilities",
        )


def check_reached(network: nn.Module) -> None:
    """One backward pass in train mode reaches every parameter."""
    network.train()
    network.zero_grad()
    logits = call(NETWORK, network, torch.randn(2, 1, 64, 64))
    if not logits.requires_grad:
        raise Wrong(
            NETWORK,
            "the logits have no gradient: is there a detach(), .data or no_grad() in forward?",
            slip="unused parameters",
        )
    (logits * torch.randn_like(logits)).sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    if unreached:
        more = f" and {len(unreached) - 6} more" if len(unreached) > 6 else ""
        raise Wrong(
            NETWORK, f"these parameters get no gradient: {', '.join(unreached[:6])}{more}", slip="unused parameters"
        )


# ---- the same for our own networks, which promise more --------------------------------------------------------------


def check_segmentation_network(
    build_: Callable[[int, int], nn.Module],
    *,
    full_size: tuple[int, ...] = (64, 64),
    max_side: int = 40,
    sizes: int = 10,
) -> None:
    """Fail unless a network keeps any image size, treats images and calls independently, and uses all its parameters.

    Args:
        build_: (in_channels, num_classes) -> a network that maps (B, in_channels, *size) to logits
            (B, num_classes, *size), for any size.
        full_size: the size of an image large enough to reach every parameter.
        max_side: the largest side in the tests of other sizes.
        sizes: how many other sizes are tried, beginning with a single pixel.
    """
    torch.manual_seed(0)
    for i in range(sizes):
        B, in_channels, num_classes = (int(n) for n in torch.randint(1, 4, (3,)))
        size = tuple(int(n) for n in torch.randint(1, max_side + 1 if i else 2, (len(full_size),)))
        check_one_size(build_(in_channels, num_classes).eval(), (B, in_channels, *size), num_classes)
    network = build_(2, 3)
    check_every_parameter_gets_a_gradient(network, full_size)
    a, b, small = (torch.randn(1, 2, *s) for s in (full_size, full_size, [n // 4 + 1 for n in full_size]))
    check_independence(network.eval(), a, b, small)
    check_wrong_channels_are_refused(network, full_size)


def check_one_size(network: nn.Module, shape: tuple[int, ...], num_classes: int) -> None:
    """The logits of an image (B, C, *size) are finite and as large as it."""
    logits, want = logits_of(network, torch.randn(shape)), (shape[0], num_classes, *shape[2:])
    if tuple(logits.shape) != want:
        raise Wrong(NETWORK, f"logits have shape {tuple(logits.shape)}, expected {want}", slip="size")
    if not logits.isfinite().all():
        raise Wrong(NETWORK, f"logits are not finite for an image of size {shape[2:]}")


def check_every_parameter_gets_a_gradient(network: nn.Module, size: tuple[int, ...]) -> None:
    """One backward pass in train mode reaches every parameter."""
    network.train()
    logits = network(torch.randn(2, 2, *size))
    (logits * torch.randn_like(logits)).sum().backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    if unreached:
        raise Wrong(
            NETWORK,
            f"these parameters get no gradient and so never learn: {', '.join(unreached)}",
            slip="unused parameters",
        )


def check_independence(network: nn.Module, a: Tensor, b: Tensor, small: Tensor) -> None:
    """In eval mode neither earlier calls nor other images of the batch change the logits of image `a`."""
    first = logits_of(network, a)
    if not torch.equal(logits_of(network, a), first):
        raise Wrong(NETWORK, "two calls in eval mode differ: is dropout still active?", slip="random in eval")
    logits_of(network, small)
    if not torch.equal(logits_of(network, a), first):
        raise Wrong(NETWORK, "an image of another size changed what the network does afterwards", slip="remembers")
    worst = (logits_of(network, torch.cat([a, b]))[:1] - first).abs().max().item()
    if worst > 1e-4 * first.abs().max().item():
        raise Wrong(NETWORK, f"another image in the batch changed the logits by {worst:.3g}", slip="images mixed")


def check_wrong_channels_are_refused(network: nn.Module, size: tuple[int, ...]) -> None:
    """A wrong number of channels is a ValueError that names both numbers."""
    try:
        network(torch.randn(1, 5, *size))
    except ValueError as error:
        if "5" not in str(error) or "2" not in str(error):
            raise Wrong(NETWORK, f"the message should name both numbers, 5 and 2: {error}") from None
    except Exception as error:
        name = type(error).__name__
        raise Wrong(NETWORK, f"a wrong number of channels should be a ValueError, not {name}: {error}") from None
    else:
        raise Wrong(NETWORK, "an image with 5 channels was accepted by a network built for 2")


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
            NETWORK,
            f"after {steps} steps on one batch the Dice on that batch is {dice:.3f}, not above 0.99",
            slip="does not learn",
        )


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
