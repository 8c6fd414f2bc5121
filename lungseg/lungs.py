"""Where the lungs are: a mask from Hounsfield units by a threshold, connected components and a closing. No training.

    lungs = lung_mask(hu, spacing_mm)   # (D, H, W) bool

Lung is mostly air, so a threshold finds it, together with all other air: around the patient, in the trachea, in the
bowel. And it misses what is solid in a lung: vessels, and nodules, which are the point. Four steps deal with both.

1. Threshold each slice, and drop the regions that are the air around the patient, or the trachea.
2. Join the rest over slices, and keep the large components.
3. Close each region of each slice, so that a nodule or a vessel at the pleura does not make a bay.
4. Fill the holes: nodules and vessels that lung surrounds.

The mask is made to restrict a search, so it should rather hold too much than too little. It is not an anatomical
segmentation: it knows no lobes, and keeps the large bronchi.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

THRESHOLD_HU = -400  # lung is around -850, soft tissue around 40; a voxel that is half of each is near this
CLOSING_MM = 15.0  # bays narrower than twice this are closed: nodules at the pleura have up to 30 mm
CONTACT = 0.5  # air around the patient touches the border along at least this many sides of a square of its area
THIN_HU, THIN_SHARE = -950, 0.4  # most of a trachea is below, hardly any of a lung without emphysema
AIRWAY_MM2 = 700.0  # a trachea is smaller: a disc of 30 mm
LEAST_SHARE = 0.1  # of the volume of the largest component: less is bowel or a bronchus, not the smaller lung
HOLE_MM2 = 2000.0  # larger holes, of 50 mm, are not lesions but the heart between lungs that touch in front of it


def lung_mask(
    hu: NDArray,
    spacing_mm: Sequence[float],
    *,
    threshold: float = THRESHOLD_HU,
    closing_mm: float = CLOSING_MM,
) -> NDArray[np.bool_]:
    """The lungs in a volume, or in a lone axial slice.

    Memory: one byte per voxel for the mask and, for a moment, four for the numbers of the components. The volume may
    be memory-mapped: it is read slice by slice.

    Args:
        hu: (D, H, W) or (H, W) Hounsfield units, axial. Slices show the whole width of the lungs; a volume may begin
            and end inside them.
        spacing_mm: between voxels along each axis of hu. That between slices is not used, and may be NaN.
        threshold: air is below, in HU.
        closing_mm: radius of the disc that closes bays at the pleura; 0 closes none.

    Returns:
        bool, in the shape of hu. Nothing is marked where there is no air inside the patient.

    Raises:
        ValueError: for other shapes, an unknown spacing, or a radius below 0.
    """
    check_arguments(hu, spacing_mm, closing_mm)
    rows_mm, columns_mm = map(float, spacing_mm[-2:])
    stack = hu[None] if hu.ndim == 2 else hu
    mask = np.zeros(stack.shape, bool)  # (D, H, W)
    for z, slice_ in enumerate(stack):
        mask[z] = inner_air(np.asarray(slice_), threshold, (rows_mm, columns_mm))
    keep_large(mask)
    for z in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        mask[z] = fill_holes(close_regions(mask[z], closing_mm, (rows_mm, columns_mm)), HOLE_MM2, rows_mm * columns_mm)
    return mask[0] if hu.ndim == 2 else mask


def inner_air(hu: NDArray, threshold: float, pixel_mm: tuple[float, float]) -> NDArray[np.bool_]:
    """(H, W) -> the air inside the patient, without cross-sections of the trachea.

    Slice by slice, because in 3-D one gap is enough to join the lungs to the air around the patient, through the mouth
    or a noisy slice. And only the four sides of a slice count as border: a volume may begin inside the lungs.
    """
    air = hu < threshold
    regions, num = ndimage.label(air)  # (H, W), 1 .. num
    area = np.bincount(regions.ravel(), minlength=num + 1) * math.prod(pixel_mm)  # (num + 1,) in mm2
    thin = np.bincount(regions[hu < THIN_HU], minlength=num + 1) * math.prod(pixel_mm)
    sides = np.concatenate([regions[0], regions[-1]]), np.concatenate([regions[:, 0], regions[:, -1]])
    contact = sum(np.bincount(side, minlength=num + 1) * mm for side, mm in zip(sides, pixel_mm[::-1], strict=True))
    outside = contact >= CONTACT * np.sqrt(area)  # a lung that the border cuts off touches it along less
    outside &= contact > 0
    airway = (area < AIRWAY_MM2) & (thin > THIN_SHARE * area)
    keep = ~(outside | airway)
    keep[0] = False  # what is not air
    return keep[regions]


def keep_large(mask: NDArray[np.bool_]) -> None:
    """Clear the components of (D, H, W) that have less than LEAST_SHARE of the voxels of the largest one, in place."""
    components, num = ndimage.label(mask)
    voxels = np.zeros(num + 1, np.int64)
    for slice_ in components:  # slice by slice, because bincount makes a copy of 8 bytes per voxel
        voxels += np.bincount(slice_.ravel(), minlength=num + 1)
    large = voxels >= LEAST_SHARE * voxels[1:].max(initial=0)
    large[0] = False  # what is not air
    for z, slice_ in enumerate(components):
        mask[z] = large[slice_]


def close_regions(mask: NDArray[np.bool_], radius_mm: float, pixel_mm: tuple[float, float]) -> NDArray[np.bool_]:
    """Close each region of a slice (H, W) by a disc: what no disc of this radius can enter from outside is filled.

    Each region alone, so that the two lungs do not grow together. With distances instead of a disc of pixels: its cost
    does not grow with the radius, and pixels need not be square.
    """
    if not radius_mm:
        return mask
    closed = mask.copy()
    margin = tuple(math.ceil(radius_mm / mm) + 1 for mm in pixel_mm)
    regions, _ = ndimage.label(mask)
    for number, box in enumerate(ndimage.find_objects(regions), start=1):
        region = np.pad(regions[box] == number, [(m, m) for m in margin])
        dilated = ndimage.distance_transform_edt(~region, sampling=pixel_mm) <= radius_mm
        of_region = ndimage.distance_transform_edt(dilated, sampling=pixel_mm) > radius_mm
        inner = tuple(slice(m, -m) for m in margin)  # the closing of a region never leaves its bounding box
        closed[box] |= of_region[inner]
    return closed


def fill_holes(mask: NDArray[np.bool_], largest_mm2: float, pixel_mm2: float) -> NDArray[np.bool_]:
    """Fill the holes of a slice (H, W) up to a size."""
    regions, num = ndimage.label(~mask)
    hole = np.bincount(regions.ravel(), minlength=num + 1) * pixel_mm2 <= largest_mm2  # (num + 1,)
    for side in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        hole[side] = False
    hole[0] = False  # the mask itself
    return mask | hole[regions]


def check_arguments(hu: NDArray, spacing_mm: Sequence[float], closing_mm: float) -> None:
    """Raise a ValueError for what no mask can be made of."""
    if hu.ndim not in (2, 3) or hu.size == 0 or len(spacing_mm) != hu.ndim:
        raise ValueError(
            f"lung_mask: expected hu (D, H, W) or (H, W) and one spacing for each axis, got {hu.shape} and "
            f"{tuple(spacing_mm)}."
        )
    if not all(0 < mm < math.inf for mm in spacing_mm[-2:]):  # NaN is not
        raise ValueError(f"lung_mask: the size of a pixel must be known, got {tuple(spacing_mm[-2:])} mm.")
    if not 0 <= closing_mm < math.inf:
        raise ValueError(f"lung_mask: closing_mm must be a radius of at least 0, got {closing_mm}.")
