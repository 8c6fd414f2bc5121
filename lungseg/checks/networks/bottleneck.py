"""Checks of ResNet's bottleneck block, with the student's own weights and running statistics."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungseg.checks.calling import build, call
from lungseg.checks.judging import as_tensor, fill, first_difference, judge, random, versus
from lungseg.checks.lessons import Lesson, Wrong
from lungseg.checks.networks.gradients import CUT_OFF, check_gradients

BOTTLENECK = Lesson(
    "Bottleneck",
    "Bottleneck(in_channels, width, stride=1): module(x (B, in_channels, H, W)) -> (B, 4 * width, ceil(H/stride), "
    "ceil(W/stride)), with convolutions 1x1, 3x3, 1x1, each followed by nn.BatchNorm2d, and a projection (1x1 "
    "convolution, batch norm) as shortcut where the shape changes",
    "relu(f(x) + shortcut(x)): f is conv 1x1, norm, relu, conv 3x3 with the stride, norm, relu, conv 1x1, norm; the "
    "last relu comes after the sum.",
    "docs/nn/resnet_unet.md",
    {
        "no shortcut": "x is not added: the block is no residual block.",
        "no relu after the sum": "the relu after the sum is missing.",
        "relu before the sum": "the relu comes before the sum: the branch can then only add, never subtract.",
        "relu before and after the sum": "there is a relu before the sum as well as after it.",
        "no relu between": "the relus between the convolutions are missing.",
        "no relu after the 3x3": "the relu after the 3x3 convolution is missing.",
        "relu before norm": "the relu comes before the batch norm; it comes after.",
        "shortcut not normalised": "the projection of the shortcut has no batch norm, or does not use it.",
        "stride in the first convolution": "the stride is in the first 1x1 convolution, which then ignores three of "
        "four pixels; published weights have it in the 3x3.",
        "norms not used": "the batch norms are defined but not applied.",
        **CUT_OFF,
    },
)


class Maps(NamedTuple):
    """One case: B maps of H x W."""

    B: int
    in_channels: int
    width: int
    stride: int
    H: int
    W: int

    def __str__(self) -> str:
        return (
            f"{self.B} map(s) of {self.H} x {self.W}, in_channels {self.in_channels}, width {self.width}, "
            f"stride {self.stride}"
        )


CASES = [Maps(*c) for c in [
    (1, 8, 2, 1, 1, 1), (1, 8, 2, 1, 3, 3), (1, 3, 2, 1, 3, 4), (1, 3, 2, 2, 4, 4), (2, 8, 2, 2, 4, 6),
    (2, 5, 3, 2, 5, 3), (2, 12, 3, 1, 4, 3)]]  # fmt: skip


def find_layers(module: nn.Module, case: Maps) -> tuple[list[nn.Conv2d], list[nn.BatchNorm2d]]:
    """Convolutions 1x1, 3x3, 1x1 and, where the shape changes, the projection; and the norms of each."""
    projection = case.stride != 1 or case.in_channels != 4 * case.width
    layers: list[tuple[str, nn.Module]] = [
        (name, m) for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))
    ]
    words = ("down", "short", "skip", "proj", "identity", "residual", "match")
    layers.sort(key=lambda item: any(word in item[0].lower() for word in words))  # stable: the shortcut comes last
    convs = [m for _, m in layers if isinstance(m, nn.Conv2d)]
    norms = [m for _, m in layers if isinstance(m, nn.BatchNorm2d)]
    wanted = [(case.in_channels, case.width, 1), (case.width, case.width, 3), (case.width, 4 * case.width, 1)]
    wanted += [(case.in_channels, 4 * case.width, 1)] * projection
    found = [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs]
    if found != wanted or len(norms) not in (len(wanted), 3):
        raise Wrong(
            BOTTLENECK,
            f"{case}: expected convolutions (in, out, kernel) {wanted}, each with a batch norm; found "
            f"{found} and {len(norms)} batch norms. (A projection that the shape does not need is not "
            f"allowed: the identity is the point of the block.)",
        )
    grouped = [c for c in convs if c.groups != 1 or c.dilation != (1, 1)]
    if grouped:
        raise Wrong(BOTTLENECK, f"{case}: {grouped[0]} has groups or a dilation; expected a plain convolution.")
    return convs, norms


def block_by_formula(module: nn.Module, case: Maps, slip: str = "") -> Tensor | None:
    """The block in float64, from its layers' weights."""
    convs, norms = find_layers(module, case)
    x = inputs(case).double()
    strides = (case.stride, 1, 1) if slip == "stride in the first convolution" else (1, case.stride, 1)
    y = x
    for i, stride in enumerate(strides):
        y = F.conv2d(y, convs[i].weight.detach().double(), bias_of(convs[i]), stride=stride, padding=i % 2)
        if slip == "relu before norm" and i < 2:
            y = normalise(norms[i], y.clamp(min=0), slip)
            continue
        y = normalise(norms[i], y, slip)
        if i < 2 and slip != "no relu between" and (i, slip) != (1, "no relu after the 3x3"):
            y = y.clamp(min=0)
    shortcut = x
    if len(convs) == 4:
        shortcut = F.conv2d(x, convs[3].weight.detach().double(), bias_of(convs[3]), stride=case.stride)
        if slip != "shortcut not normalised" and len(norms) == 4:
            shortcut = normalise(norms[3], shortcut, slip)
        elif slip != "shortcut not normalised":
            raise Wrong(
                BOTTLENECK, f"{case}: the projection of the shortcut has no batch norm.", slip="shortcut not normalised"
            )
    if slip in ("relu before the sum", "relu before and after the sum"):
        y = y.clamp(min=0)
    y = y if slip == "no shortcut" else y + shortcut
    return y if slip in ("no relu after the sum", "relu before the sum") else y.clamp(min=0)


def normalise(norm: nn.BatchNorm2d, x: Tensor, slip: str) -> Tensor:
    """Batch norm in eval mode: with running statistics."""
    if slip == "norms not used":
        return x
    stats = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    mean, var, weight, bias = (
        torch.full((x.shape[1],), default).double() if t is None else t.detach().double()
        for t, default in zip(stats, (0.0, 1.0, 1.0, 0.0), strict=True)
    )
    shape = (1, -1, 1, 1)
    unit = (x - mean.view(shape)) / (var.view(shape) + norm.eps).sqrt()
    return unit * weight.view(shape) + bias.view(shape)


def bias_of(conv: nn.Conv2d) -> Tensor | None:
    return None if conv.bias is None else conv.bias.detach().double()


def inputs(case: Maps) -> Tensor:
    return random((case.B, case.in_channels, case.H, case.W))


def check_bottleneck(build_: Callable[[int, int, int], nn.Module]) -> None:
    """Fail unless a bottleneck block is relu(f(x) + shortcut(x)). He et al. 2015, Figure 5 and section 3.3.

    Args:
        build_: (in_channels, width, stride) -> a module (B, in_channels, H, W) -> (B, 4 * width, ...).
    """

    @cache
    def module(case: Maps) -> nn.Module:
        made = fill(build(BOTTLENECK, build_, case.in_channels, case.width, case.stride)).eval()
        for i, norm in enumerate(m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
            if norm.running_mean is not None and norm.running_var is not None:
                norm.running_mean.copy_(random(norm.running_mean.shape, 10 + i))
                norm.running_var.copy_(0.5 + random(norm.running_var.shape, 20 + i).abs())
        return made

    def student(case: Maps) -> Tensor:
        with torch.no_grad():
            return as_tensor(BOTTLENECK, call(BOTTLENECK, module(case), inputs(case)))

    def describe(case: Maps, got: Tensor, want: Tensor) -> str:
        where = first_difference(got, want)
        return (
            f"{case}: channel {where[1]}, row {where[2]}, column {where[3]} of image {where[0]} is "
            f"{versus(got[where], want[where])}."
        )

    judge(BOTTLENECK, student, CASES, lambda case, slip: block_by_formula(module(case), case, slip), describe)
    check_gradients(BOTTLENECK, module(CASES[3]), inputs(CASES[3]))
