"""Candidates: the connected components of a prediction in a whole scan, each with its place, size and score.

    found = find_candidates(probs > 0.5, probs, spacing_mm, min_diameter_mm=4, lungs=lung_mask(hu, spacing_mm))
    found[0].box   # where the candidate with the highest score is

A network that looks at slices marks each slice on its own. Joined over slices, its marks become things that a reader
can accept or reject: one row of a table, one picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungseg.evaluation.lesions import connected_components, equal_diameter
from lungseg.flags import option
from lungseg.lungs import lung_mask

TOP = 20  # voxels whose probabilities make the score


@dataclass(frozen=True)
class CandidateOptions:
    """What becomes of the components of a volume; each field is a flag of the scripts that find candidates."""

    lungs: bool = option(
        False, "volumes: only candidates with a voxel in the lungs, which are found by a threshold on HU"
    )
    min_diameter_mm: float = option(
        0.0, "volumes: only candidates of at least this diameter, that of a ball of the same volume"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.min_diameter_mm < math.inf:
            raise ValueError(f"--min-diameter-mm must be a number of at least 0, got {self.min_diameter_mm}.")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One connected component of a prediction. Axes are (slices, rows, columns), positions those of voxel centres."""

    id: int  # 1, 2, ..., the highest score first
    score: float  # mean of its TOP largest probabilities, in [0, 1]
    voxels: int
    volume_mm3: float  # NaN if the spacing is unknown, as in the next two
    diameter_mm: float  # of a ball of that volume
    position_mm: tuple[float, float, float]  # of its centroid, from the first voxel of the volume
    centre: tuple[float, float, float]  # of its centroid, in voxels
    middle: int  # the slice with the most of its voxels
    box: tuple[slice, slice, slice]  # its bounding box
    region: NDArray[np.bool_]  # its voxels inside the box

    @property
    def slices(self) -> tuple[int, int]:
        """Its first and its last slice."""
        return self.box[0].start, self.box[0].stop - 1


def find_candidates(
    region: NDArray,
    probs: NDArray,
    spacing_mm: Sequence[float] | None = None,
    *,
    min_diameter_mm: float = 0.0,
    lungs: NDArray[np.bool_] | None = None,
) -> list[Candidate]:
    """The connected components of a region in 3-D, also connected at corners, with the highest score first.

    The score is a mean of a few probabilities and not the largest one: that of a confident network is 1.000 in most
    candidates, and equal scores cannot be ranked.

    Memory: four bytes per voxel for the numbers of the components. `region` and `probs` may be memory-mapped.

    Args:
        region: (D, H, W), not 0 where lesion is predicted: probs > threshold.
        probs: (D, H, W) probabilities, or unsigned integers whose largest possible value stands for 1.
        spacing_mm: between voxels along each axis; None or NaN is unknown.
        min_diameter_mm: drop what is smaller.
        lungs: (D, H, W); drop what has no voxel there. One is enough: of a nodule at the pleura a mask of the lungs may
            hold only a part.

    Raises:
        ValueError: if the shapes differ, or a diameter is asked for and the spacing is unknown.
    """
    spacing = np.full(3, math.nan) if spacing_mm is None else np.asarray(spacing_mm, float)
    if region.ndim != 3 or region.shape != probs.shape or spacing.shape != (3,):
        raise ValueError(
            f"find_candidates: expected region and probs (D, H, W) and three spacings, got {region.shape}, "
            f"{probs.shape} and {spacing_mm}."
        )
    if min_diameter_mm and np.isnan(spacing).any():
        raise ValueError("a smallest diameter in mm needs the spacing of the volume. Add spacing_mm, or give 0.")
    components, _ = connected_components(np.asarray(region) != 0)
    found = []
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        inside = components[box] == number  # a component's own voxels: others may reach into its box
        if lungs is not None and not lungs[box][inside].any():
            continue
        candidate = describe(box, inside, probs[box][inside], spacing)
        if not min_diameter_mm or candidate.diameter_mm >= min_diameter_mm:
            found.append(candidate)
    found.sort(key=lambda c: -c.score)  # stable: equal scores stay in the order of their first voxels
    return [replace(candidate, id=id_) for id_, candidate in enumerate(found, start=1)]


def describe(
    box: tuple[slice, slice, slice], inside: NDArray[np.bool_], probs: NDArray, spacing: NDArray[np.float64]
) -> Candidate:
    """A candidate without its number.

    Args:
        inside: its voxels (d, h, w) in the box.
        probs: (voxels,) their probabilities.
        spacing: (3,) in mm.
    """
    largest = np.iinfo(probs.dtype).max if probs.dtype.kind == "u" else 1
    top = probs if probs.size <= TOP else np.partition(probs, -TOP)[-TOP:]
    # Sums along the axes instead of the positions of all voxels, which would need 24 bytes for each.
    counts = inside.sum(axis=(1, 2)), inside.sum(axis=(0, 2)), inside.sum(axis=(0, 1))  # (d,), (h,), (w,)
    centre = np.array([s.start + n @ np.arange(n.size) / n.sum() for s, n in zip(box, counts, strict=True)])  # (3,)
    z, y, x = centre.tolist()
    z_mm, y_mm, x_mm = (centre * spacing).tolist()
    return Candidate(
        id=0,
        score=float(top.mean(dtype=float)) / largest,
        voxels=probs.size,
        volume_mm3=probs.size * math.prod(spacing.tolist()),
        diameter_mm=equal_diameter(probs.size, tuple(spacing.tolist()), ndim=3),
        position_mm=(z_mm, y_mm, x_mm),
        centre=(z, y, x),
        middle=box[0].start + int(counts[0].argmax()),
        box=box,
        region=inside,
    )


def clear_others(labels: NDArray, candidates: Sequence[Candidate]) -> None:
    """Set (D, H, W) to 0 outside the candidates, in place."""
    kept = np.zeros(labels.shape, bool)
    for candidate in candidates:
        kept[candidate.box] |= candidate.region
    for z in range(len(labels)):  # slice by slice: a mask of a whole volume would be copied
        labels[z][~kept[z]] = 0


def keep_candidates(
    labels: NDArray, probs: NDArray, hu: NDArray, spacing_mm: Sequence[float] | None, options: CandidateOptions
) -> list[Candidate]:
    """The candidates of a predicted volume that the options keep; the others are cleared from `labels`, in place.

    Args:
        labels: (D, H, W), not 0 where lesion was predicted. A slice (H, W) has no candidates.
        probs: as in `find_candidates`, or of K classes (K, D, H, W): then the largest counts.
        spacing_mm: as in `find_candidates`.
        hu: (D, H, W), read only if the lungs are needed.

    Raises:
        ValueError: if the options need a volume or a spacing that is unknown.
    """
    if labels.ndim == 2:
        if options != CandidateOptions():
            raise ValueError("--lungs and --min-diameter-mm are for volumes, and this is a slice. Leave them out.")
        return []
    lungs = None
    if options.lungs:
        if spacing_mm is None or not np.isfinite(spacing_mm[-2:]).all():
            raise ValueError("--lungs needs the size of a pixel. Add spacing_mm to the volume.")
        lungs = lung_mask(hu, spacing_mm)
    probs = probs.max(axis=0) if probs.ndim == 4 and len(probs) > 1 else probs.reshape(labels.shape)
    found = find_candidates(labels, probs, spacing_mm, min_diameter_mm=options.min_diameter_mm, lungs=lungs)
    if options != CandidateOptions():
        clear_others(labels, found)
    return found
