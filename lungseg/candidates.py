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

SCORE_SIGMA_MM = 2.0  # of the Gaussian that smooths probabilities before they are compared
REACH = 3  # its width on each side, in standard deviations: beyond is 0.3 % of a Gaussian
LEAST_IN_LUNGS = 0.5  # share of a candidate's voxels


@dataclass(frozen=True)
class CandidateOptions:
    """What becomes of the components of a volume; each field is a flag of the scripts that find candidates."""

    lungs: bool = option(
        False, "volumes: only candidates with half of their voxels in the lungs, which are found by a threshold on HU"
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
    score: float  # the largest probability in it after smoothing, in [0, 1]
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

    The score is the largest probability inside after smoothing the probabilities with a Gaussian of SCORE_SIGMA_MM in
    3-D. The largest probability itself would be a poor rank, because that of a confident network is 1.000 in most
    candidates. Smoothed, it asks whether the network is sure of a whole region of a few millimetres, in several slices:
    a thin vessel or a mark in one slice is not, and beyond about 10 mm size adds nothing.

    Memory: four bytes per voxel for the numbers of the components. `region` and `probs` may be memory-mapped.

    Args:
        region: (D, H, W), not 0 where lesion is predicted: probs > threshold.
        probs: (D, H, W) probabilities, or unsigned integers whose largest possible value stands for 1.
        spacing_mm: between voxels along each axis; None or NaN is unknown, and counts as 1 mm in the score.
        min_diameter_mm: drop what is smaller.
        lungs: (D, H, W); drop what has less than LEAST_IN_LUNGS of its voxels there. Not all: of a nodule at the pleura
            a mask of the lungs may hold only a part.

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
        if lungs is not None and lungs[box][inside].mean() < LEAST_IN_LUNGS:
            continue
        candidate = describe(box, inside, smoothed_maximum(probs, box, inside, spacing), spacing)
        if not min_diameter_mm or candidate.diameter_mm >= min_diameter_mm:
            found.append(candidate)
    found.sort(key=lambda c: -c.score)  # stable: equal scores stay in the order of their first voxels
    return [replace(candidate, id=id_) for id_, candidate in enumerate(found, start=1)]


def smoothed_maximum(
    probs: NDArray, box: tuple[slice, slice, slice], inside: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> float:
    """The largest value of a candidate after smoothing all probabilities around it, in [0, 1]."""
    sigma = SCORE_SIGMA_MM / np.where(np.isnan(spacing), 1.0, spacing)  # (3,) in voxels
    radius = np.ceil(REACH * sigma).astype(int).tolist()
    wide = tuple(slice(max(0, s.start - r), s.stop + r) for s, r in zip(box, radius, strict=True))
    own = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True))
    largest = np.iinfo(probs.dtype).max if probs.dtype.kind == "u" else 1
    # "nearest": what lies beyond the scan is unknown, and zeros there would lower the score of a lesion at its end.
    smooth = ndimage.gaussian_filter(probs[wide].astype(np.float32), sigma, mode="nearest", radius=radius)
    return min(1.0, float(smooth[own][inside].max()) / largest)  # 1.0: the weights add up to 1 but for rounding


def describe(
    box: tuple[slice, slice, slice], inside: NDArray[np.bool_], score: float, spacing: NDArray[np.float64]
) -> Candidate:
    """A candidate without its number.

    Args:
        inside: its voxels (d, h, w) in the box.
        spacing: (3,) in mm.
    """
    voxels = int(inside.sum())
    # Sums along the axes instead of the positions of all voxels, which would need 24 bytes for each.
    counts = inside.sum(axis=(1, 2)), inside.sum(axis=(0, 2)), inside.sum(axis=(0, 1))  # (d,), (h,), (w,)
    centre = np.array([s.start + n @ np.arange(n.size) / n.sum() for s, n in zip(box, counts, strict=True)])  # (3,)
    z, y, x = centre.tolist()
    z_mm, y_mm, x_mm = (centre * spacing).tolist()
    return Candidate(
        id=0,
        score=score,
        voxels=voxels,
        volume_mm3=voxels * math.prod(spacing.tolist()),
        diameter_mm=equal_diameter(voxels, tuple(spacing.tolist()), ndim=3),
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
