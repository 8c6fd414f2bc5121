"""PET of a phantom: how much of a tracer each tissue takes up, blurred and noisy as a PET scanner shows it.

PET (positron emission tomography) counts where a radioactive sugar goes: much of it into tumours, the heart's muscle
and the liver, little into lung. Its picture is coarse. A point is spread over 6 mm (full width at half maximum), in
all three directions, so a small lesion's activity is mixed with that of the lung around it: the partial-volume effect.

Activity is given in SUV, multiples of what it would be if the tracer were spread evenly over the body. The values are
plausible, and were not fitted to patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lungseg.data.phantoms.anatomy import AIRWAYS, GREAT_VESSELS, Thorax
from lungseg.data.phantoms.nodules import Nodule
from lungseg.data.phantoms.painting import heart_chambers, paint_tube
from lungseg.data.phantoms.raster import Grid, coverage, ellipsoid_distance, paint, rods_coverage

FWHM_MM = 6.0
COUNTS = 6.0  # per SUV and mm^2: 10 % noise in a pixel of 4 mm where the SUV is 1
BODY, SOFT, LUNG, BLOOD, LIVER = 0.5, 0.8, 0.45, 1.6, 2.3  # SUV
# SUV of a nodule of 15 mm. Ground glass is mostly air and takes up little; solid tumours take up much.
UPTAKE = {"solid": 4.0, "part-solid": 4.0, "ground-glass": 1.9, "pleural": 3.0, "spiculated": 6.0}
HALO = 0.45  # of a part-solid nodule: the uptake of its ground glass, as a share of its core's
PLANES = np.linspace(-3, 3, 9)  # heights that a slice collects activity from, in standard deviations


@dataclass(frozen=True)
class Tracer:
    """Where the tracer went in one patient, in SUV."""

    nodules: tuple[float, ...]
    heart: float  # muscle; it depends on the last meal


def sample_tracer(rng: np.random.Generator, nodules: Sequence[Nodule]) -> Tracer:
    """Draw the uptake of each nodule, by kind and size, and that of the heart."""
    scatter = rng.lognormal(0, 0.25, len(nodules)).tolist()
    return Tracer(
        nodules=tuple(UPTAKE[n.kind] * (n.diameter / 15) ** 0.3 * s for n, s in zip(nodules, scatter, strict=True)),
        heart=float(rng.uniform(1.5, 9)),
    )


def paint_activity(thorax: Thorax, nodules: Sequence[Nodule], tracer: Tracer, grid: Grid, z: float) -> NDArray:
    """The activity at height z mm, sharp and without noise: (H, W), float32, in SUV."""
    image = np.zeros(grid.shape, np.float32)
    x, y, z = grid.x, grid.y, float(np.float32(z))
    cavity = thorax.cavity_distance(x, y, z)  # (H, W)
    paint(image, coverage(thorax.body_distance(x, y, z), grid.spacing), BODY)
    paint(image, coverage(cavity, grid.spacing), SOFT)
    paint(image, coverage(np.maximum(cavity, thorax.diaphragm_distance(x, y, z, -1)), grid.spacing), LIVER)
    paint(image, coverage(thorax.lung_distance(x, y, z), grid.spacing), LUNG)
    bent = thorax.bend(x, y, z)
    paint(image, coverage(ellipsoid_distance(*bent, z, *thorax.heart) + 4, grid.spacing), tracer.heart)
    for chamber in heart_chambers(thorax):
        paint(image, coverage(ellipsoid_distance(*bent, z, *chamber), grid.spacing), BLOOD)
    for tubes, suv in ((GREAT_VESSELS, BLOOD), (AIRWAYS, 0.0)):
        for start, stop, radius in tubes:
            paint_tube(image, grid, z, start, stop, radius, suv)
    paint(image, rods_coverage(grid, z, thorax.vessels), BLOOD)
    for nodule, suv in zip(nodules, tracer.nodules, strict=True):
        box, covered = nodule.coverage(grid, z, thorax.lung_distance)
        paint(image[box], covered, suv * HALO if nodule.kind == "part-solid" else suv)
        if nodule.kind == "part-solid":
            box, covered = nodule.solid_core().coverage(grid, z)
            paint(image[box], covered, suv)
    return image


def blurred_activity(
    thorax: Thorax, nodules: Sequence[Nodule], tracer: Tracer, grid: Grid, z: float, *, fwhm_mm: float = FWHM_MM
) -> NDArray[np.float32]:
    """What a scanner would show of the slice at height z mm if it counted for ever: (H, W), in SUV.

    A Gaussian in all three directions. The slice is painted with a margin, so that activity outside the picture reaches
    into it, as it does in a scanner.
    """
    sigma = fwhm_to_sigma(fwhm_mm)
    margin = ceil(4 * sigma / grid.spacing)
    height, width = (side + 2 * margin for side in grid.shape)
    wide = Grid((height, width), grid.spacing, grid.centre)
    weights = np.exp(-(PLANES**2) / 2) / np.exp(-(PLANES**2) / 2).sum()
    image = np.zeros(wide.shape, np.float32)
    for weight, dz in zip(weights.tolist(), (sigma * PLANES).tolist(), strict=True):
        image += weight * paint_activity(thorax, nodules, tracer, wide, z + dz)
    image = gaussian_filter(image, sigma / grid.spacing, mode="constant")
    return image[margin : height - margin, margin : width - margin].astype(np.float32)


def count_noise(suv: NDArray, spacing_mm: float, rng: np.random.Generator, *, counts: float = COUNTS) -> NDArray:
    """Count events: Poisson noise, of the mean `suv` and the variance suv / (counts spacing^2). (H, W), float32."""
    per_suv = counts * spacing_mm**2
    return (rng.poisson(suv * per_suv) / per_suv).astype(np.float32)


def pet_to_unit(suv: NDArray, *, highest: float = 5.0) -> NDArray[np.float32]:
    """SUV to [0, 1], for a network; what is above `highest` becomes 1."""
    return np.clip(suv / highest, 0, 1).astype(np.float32)


def fwhm_to_sigma(fwhm: float) -> float:
    """The standard deviation of a Gaussian with this full width at half maximum."""
    return fwhm / (2 * sqrt(2 * log(2)))
