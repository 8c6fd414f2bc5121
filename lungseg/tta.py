"""Test-time augmentation: a network's logits, averaged over flipped and turned copies of the image.

A lesion is a lesion whichever way the image lies, but a network that was trained for a finite time gives each copy
slightly different logits. Each copy is turned, goes through the network, and its logits are turned back, so that all
maps lie on the same pixels. (The means over flips are in Simonyan and Zisserman 2015, section 3.2; nnU-Net averages
over all flips.)

Logits are averaged, not probabilities: all maps come from one network, so their logits have one scale, and a copy of
which the network is sure counts more than one of which it is not, as with overlapping windows (`lungseg.inference`).
"""

from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Kind = Literal["none", "flips", "turns"]


class Variation(NamedTuple):
    """Swap rows and columns, if so, and then flip along some axes; undone in the reverse order."""

    swapped: bool
    flipped: tuple[int, ...]  # axes, counted from the end: -1 is the columns

    def apply(self, image: Tensor) -> Tensor:
        """(..., *spatial) -> the same values elsewhere; rows and columns change places if `swapped`."""
        return (image.transpose(-2, -1) if self.swapped else image).flip(self.flipped)

    def undo(self, image: Tensor) -> Tensor:
        """The inverse of `apply`, exactly: values only move."""
        image = image.flip(self.flipped)
        return image.transpose(-2, -1) if self.swapped else image


def variations(kind: Kind, spatial_dims: int) -> list[Variation]:
    """All variations of an image, the unchanged image first.

    Returns:
        "none": 1. "flips": along each axis or not, 4 in a slice and 8 in a volume. "turns": also by right angles in the
        plane of the slice, 8 and 16. (A turn by 90 degrees is a swap of rows and columns and a flip. Volumes are not
        turned out of the plane, because slices are further apart than pixels.)
    """
    if kind not in ("none", "flips", "turns"):
        raise ValueError(f"tta must be none, flips or turns, got {kind!r}")
    axes = range(-spatial_dims, 0) if kind != "none" else ()
    subsets = [
        tuple(a for a, on in zip(axes, chosen, strict=True) if on) for chosen in product((0, 1), repeat=len(axes))
    ]
    return [Variation(swapped, flipped) for swapped in (False, True)[: 1 + (kind == "turns")] for flipped in subsets]


class AverageOverVariations(nn.Module):
    """A network as it was, but with the mean of its logits over all variations of each image.

    Args:
        network: (B, C, *spatial) -> logits (B, K, *spatial), of any size: the turns of an oblong image stand upright.
        kind: as in `variations`. Each variation is one more pass through the network, without more memory.
    """

    def __init__(self, network: nn.Module, kind: Kind):
        super().__init__()
        self.network, self.kind = network, kind

    def forward(self, image: Tensor) -> Tensor:
        every = variations(self.kind, image.ndim - 2)
        total = self.network(image)  # the first variation is the image itself
        total = total.to(torch.promote_types(total.dtype, torch.float32))  # a sum of 16 in bfloat16 would lose digits
        for variation in every[1:]:
            total = total + variation.undo(self.network(variation.apply(image)))
        return total / len(every)
