"""From probabilities to lesions: above which probability, and from which size on.

Both numbers are chosen on validation images (`lungseg.evaluation.choosing`), kept in the checkpoint, and used wherever
its network predicts. Without them, lesion is where the probability is above 1/2, however small.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ROUNDING = 1e-6  # in pixels: 49 pixels at a scale of 0.7 are 100.00000000000001 of the image


@dataclass(frozen=True)
class Decision:
    """Lesion is where the probability is above `threshold`, in components of at least `min_pixels`.

    Attributes:
        threshold: a probability, between 0 and 1.
        min_pixels: the smallest connected component that is kept, in pixels (of a network for volumes: voxels) of the
            size that the network was trained on; 0 keeps all. So it means one area in mm2, whatever the image's own
            pixels are.
    """

    threshold: float = 0.5
    min_pixels: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"--threshold must be between 0 and 1, got {self.threshold}.")
        if self.min_pixels < 0:
            raise ValueError(f"--min-pixels must be at least 0, got {self.min_pixels}.")

    def __str__(self) -> str:
        """For a sentence that begins with "Lesion is where the probability is"."""
        small = f", in components of at least {self.min_pixels} pixels" if self.min_pixels > 1 else ""
        return f"above {self.threshold:g}{small}"

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any] | None) -> "Decision":
        """From the "decision" of a checkpoint; None, as in older ones, is the plain decision, above 1/2."""
        return cls() if entries is None else cls(float(entries["threshold"]), int(entries["min_pixels"]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


PLAIN = Decision()


def components(region: NDArray[np.bool_], dims: int) -> tuple[NDArray[np.int32], int]:
    """Number the connected components 1, 2, ..., as `lungseg.evaluation.lesions` does; 0 is background.

    Args:
        region: (H, W) or (D, H, W).
        dims: 2 connects pixels within a slice only, also in a volume; 3 across slices too.
    """
    neighbours = np.ones((3,) * region.ndim, dtype=bool)
    if dims < region.ndim:
        neighbours[[0, 2]] = False
    return ndimage.label(region, structure=neighbours)


def remove_small(labels: NDArray[np.uint8], smallest: float, dims: int) -> NDArray[np.uint8]:
    """Set components of fewer than `smallest` pixels to 0; each class by itself.

    Args:
        labels: (H, W) or (D, H, W), 0 is background.
        smallest: in pixels of `labels`, not necessarily whole.
        dims: as in `components`: 2 for what a network for slices predicted.
    """
    if smallest <= 1:
        return labels
    kept = labels.copy()
    for k in np.unique(labels[labels > 0]):
        numbered, num = components(labels == k, dims)
        is_small = np.bincount(numbered.ravel(), minlength=num + 1) < smallest - ROUNDING
        is_small[0] = False  # the background
        kept[is_small[numbered]] = 0
    return kept
