"""Checks of any segmentation network, whatever it is made of."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.overfitting import check_overfits_one_batch

NETWORK = Lesson(
    "segmentation network",
    "SwinUNet(in_channels, num_classes), UNETR(...), UNet(...), ...: module(image (B, in_channels, H, W)) -> logits "
    "(B, num_classes, H, W)",
    "one logit per pixel and class, for each image by itself, from all of its parameters.",
    "docs/nn/swin_unet.md",
    {
        "probabilities": "the network ends with a sigmoid or softmax. Return logits: the losses take them, and a "
        "second sigmoid would hide errors.",
        "never negative": "the network ends with a ReLU: a logit below 0 is how it says `background`.",
        "size": "the logits are smaller or larger than the image.",
        "rows and columns": "height and width are exchanged: try an image that is not square.",
        "channels": "the number of output channels must be num_classes.",
        "images mixed": "the logits of an image depend on the other images of its batch: a norm in training mode, or "
        "an axis that was reshaped away.",
        "remembers": "the network remembers an earlier call.",
        "random in eval": "two calls in eval mode differ: dropout or DropPath is still active.",
        "unused parameters": "some parameters have no influence on the logits and so never learn.",
        "ignores the image": "the logits do not depend on the image.",
    },
    ours=("SwinUNet", "UNETR", "UNet", "ResNet50UNet", "RRCUNet"),
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
    check_odd_size(network)
    check_logits(network)
    check_every_parameter_gets_a_gradient(network, torch.randn(2, 1, 64, 64))
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


def check_odd_size(network: nn.Module) -> None:
    """An image whose sides are no multiples of 32 may be refused, but not answered in another size."""
    try:
        got = tuple(logits_of(network.eval(), torch.randn(1, 1, 44, 35)).shape)
    except Wrong:
        return
    if got != (1, 1, 44, 35):
        raise Wrong(NETWORK, f"an image (1, 1, 44, 35) gives logits {got}: crop what was padded, or refuse the image.",
                    slip="size")  # fmt: skip


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
            value = logits.flatten()[0].item()
            slip = {0.0: "never negative", 1.0: "probabilities"}.get(value, "ignores the image")
            raise Wrong(NETWORK, f"with random weights and images all logits are {value:.3g}.", slip=slip)
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


def check_every_parameter_gets_a_gradient(network: nn.Module, image: Tensor) -> None:
    """One backward pass in train mode reaches every parameter."""
    network.train()
    network.zero_grad()
    logits = call(NETWORK, network, image)
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
            NETWORK,
            f"these parameters get no gradient and so never learn: {', '.join(unreached[:6])}{more}",
            slip="unused parameters",
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
    check_every_parameter_gets_a_gradient(network, torch.randn(2, 2, *full_size))
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
