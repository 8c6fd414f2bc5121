"""Where lesions are searched: sliding windows that touch none of this place need not be computed.

    where = search_mask("body", hu)                  # (D, H, W) bool
    predictor.probs(predictor.grey(hu), where=where)  # 0 in the windows that lie outside

Half of a chest CT is air around the patient, and the lungs are a sixth of it. A network looks at all of it, unless it
is told where to look.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungseg.lungs import THIN_HU, THRESHOLD_HU, lung_mask

Search = Literal["all", "body", "lungs"]
LEAST_THIN = 0.5  # of the air around a patient, this share at least is thinner than any lung; the rest is noise, cloth
THIN_PARTS = 4  # in pixels: what is less than about twice as thick is no body, but a table or a blanket
MARGIN = 8  # in pixels of the network: also searched around a mask, so that nothing depends on its last pixel


def search_mask(search: Search, hu: NDArray, spacing_mm: Sequence[float] | None = None) -> NDArray[np.bool_] | None:
    """The mask of a place, in the shape of hu; None is everywhere.

    Args:
        search: "all", "body" (`patient_mask` of each slice) or "lungs" (`lungseg.lungs.lung_mask`).
        hu: (D, H, W) or (H, W), axial, possibly memory-mapped.
        spacing_mm: between voxels along each axis; only "lungs" needs it, within slices.

    Raises:
        ValueError: for the lungs of a scan of unknown spacing, or of a volume without any.
    """
    if search == "all":
        return None
    if search == "body":
        return patient_mask(np.asarray(hu)) if hu.ndim == 2 else np.stack([patient_mask(np.asarray(s)) for s in hu])
    if spacing_mm is None or not np.isfinite(spacing_mm[-2:]).all():
        raise ValueError("--search lungs needs the size of a pixel. Add spacing_mm to the volume, or search the body.")
    lungs = lung_mask(hu, spacing_mm)
    if hu.ndim == 3 and not lungs.any():
        raise ValueError("there is no lung in this volume. Give whole slices, or --search body.")
    return lungs


def patient_mask(hu: NDArray) -> NDArray[np.bool_]:
    """(H, W) -> what is not the air around the patient, without thin parts such as the table.

    The air around the patient is a region below THRESHOLD_HU that touches the border of the slice, and most of which is
    below THIN_HU. So a lung that the border cuts off stays in the body, as in a crop: lung is around -850 HU. (Only a
    lung of which emphysema has left less than half is taken for air where the border cuts it off.)
    `lungseg.mining.body_mask` is for whole slices: it leaves out each lung that the border cuts off.
    """
    regions, num = ndimage.label(hu < THRESHOLD_HU)  # (H, W), 1 .. num
    area = np.bincount(regions.ravel(), minlength=num + 1)
    thin = np.bincount(regions[hu < THIN_HU], minlength=num + 1)
    outside = np.zeros(num + 1, bool)
    for side in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        outside[side] = True
    outside &= thin >= LEAST_THIN * area
    outside[0] = False  # what is not air
    # Beyond the border the slice is continued, so that no part of the body there counts as thin.
    body = np.pad(~outside[regions], THIN_PARTS, mode="edge")
    inner = ndimage.binary_opening(body, iterations=THIN_PARTS)[THIN_PARTS:-THIN_PARTS, THIN_PARTS:-THIN_PARTS]
    return inner if inner.any() else ~outside[regions]


def widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(..., H, W): with MARGIN more pixels on all four sides of each slice."""
    side = 2 * MARGIN + 1
    return ndimage.maximum_filter(mask, size=(*(1,) * (mask.ndim - 2), side, side))
