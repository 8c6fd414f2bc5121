"""Checks that any segmentation network passes, whatever it is made of."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import nn

from lungseg.checks.running import learner_settings


def check_segmentation_network(
    build: Callable[[int, int], nn.Module],
    *,
    full_size: tuple[int, ...] = (64, 64),
    max_side: int = 40,
    max_examples: int = 10,
) -> None:
    """Fail unless a network keeps sizes, images and calls apart, and uses all of its parameters.

    Args:
        build: (in_channels, num_classes) -> network: (B, in_channels, *size) -> logits (B, num_classes, *size),
            for any size.
        full_size: an image large enough that every parameter takes part.
        max_side: the largest side tried otherwise.
    """
    torch.manual_seed(0)
    check_sizes(build, len(full_size), max_side, max_examples)
    network = build(2, 3)
    check_every_parameter_gets_a_gradient(network, full_size)
    network.eval()
    check_calls_are_independent(network, full_size)
    check_wrong_channels_are_refused(network, full_size)


def check_sizes(build: Callable[[int, int], nn.Module], spatial_dims: int, max_side: int, max_examples: int) -> None:
    """Any size from 1 up, any channels: logits are finite and as large as the image."""
    sizes = st.tuples(*[st.integers(1, max_side)] * spatial_dims)

    @learner_settings(max_examples)
    @given(B=st.integers(1, 2), in_channels=st.integers(1, 3), num_classes=st.integers(1, 3), size=sizes)
    def property_holds(B, in_channels, num_classes, size):
        network = build(in_channels, num_classes).eval()
        with torch.no_grad():
            logits = network(torch.randn(B, in_channels, *size))
        assert logits.shape == (B, num_classes, *size), (
            f"logits have shape {tuple(logits.shape)}, expected {(B, num_classes, *size)}"
        )
        assert logits.isfinite().all(), f"logits are not finite for an image of size {size}"

    property_holds()


def check_every_parameter_gets_a_gradient(network: nn.Module, size: tuple[int, ...]) -> None:
    """One backward pass in train mode must reach every parameter, by name."""
    network.train()
    logits = network(torch.randn(2, 2, *size))
    (logits * torch.randn_like(logits)).sum().backward()
    lazy = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lazy, f"these parameters get no gradient, so nothing ever trains them: {', '.join(lazy)}"


def check_calls_are_independent(network: nn.Module, size: tuple[int, ...]) -> None:
    """In eval mode: twice the same; a small image leaves no trace; images of a batch do not see each other."""
    a, b, small = torch.randn(1, 2, *size), torch.randn(1, 2, *size), torch.randn(1, 2, *(n // 4 + 1 for n in size))
    with torch.no_grad():
        first = network(a)
        assert torch.equal(network(a), first), "two calls in eval mode differ: is some drop-out still active?"
        network(small)
        assert torch.equal(network(a), first), "an image of another size changed what the network does afterwards"
        together = network(torch.cat([a, b]))
    worst = (together[:1] - first).abs().max().item()
    assert worst <= 1e-4 * first.abs().max().item(), f"another image in the batch changed the logits by {worst:.3g}"


def check_wrong_channels_are_refused(network: nn.Module, size: tuple[int, ...]) -> None:
    """A wrong number of channels is a ValueError that names both numbers."""
    try:
        network(torch.randn(1, 5, *size))
    except ValueError as error:
        assert "5" in str(error) and "2" in str(error), f"the message names not both numbers, 5 and 2: {error}"
    except Exception as error:
        raise AssertionError(
            f"wrong channels should be a ValueError in words, not {type(error).__name__}: {error}"
        ) from None
    else:
        raise AssertionError("an image with 5 channels was accepted by a network built for 2")


def check_overfits_one_batch(network: nn.Module, *, lr: float, steps: int) -> None:
    """Fail unless a network of 1 -> 1 channels learns four noisy rectangles by heart: Dice above 0.99.

    A network that cannot do this is broken somewhere, and more data will not help it.
    """
    generator = torch.Generator().manual_seed(1)
    target = torch.zeros(4, 1, 32, 32)
    for i, (r, c) in enumerate(torch.randint(4, 20, (4, 2), generator=generator).tolist()):
        target[i, 0, r : r + 8, c : c + 6] = 1
    image = target + 0.3 * torch.randn(4, 1, 32, 32, generator=generator)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(network(image), target).backward()
        optimizer.step()
    pred = network(image) > 0
    dice = (2 * (pred * target).sum() / (pred.sum() + target.sum())).item()
    assert dice > 0.99, f"after {steps} steps on one batch the Dice on that batch is {dice:.3f}, not above 0.99"
