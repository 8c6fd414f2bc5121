"""Draw docs/img/pickles.png: what two rows of a table of slices hold (here from the phantoms)."""

import numpy as np
from scipy import ndimage

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, overlay


def lungs_only(hu: np.ndarray) -> np.ndarray:
    """Keep the thresholded lung, and write 0 HU around it: in the manner of the column `hu_array`."""
    air, _ = ndimage.label(hu < -500)
    border = np.unique(np.r_[air[0], air[-1], air[:, 0], air[:, -1]])
    lung = ndimage.binary_closing((air > 0) & ~np.isin(air, border), iterations=2)
    return np.where(lung, hu, 0)


rows, labels = [], []
for seed in (0, 3):
    patient = phantom_patient(np.random.default_rng(seed), num_slices=5, size=192)
    largest = max(patient, key=lambda s: s.target.sum())
    old, new = (hu_to_grey(hu) / 255 for hu in (largest.hu, lungs_only(largest.hu)))
    rows.append([overlay(old, largest.target), overlay(new, largest.target), 255 * largest.target])
    labels.append(f"row {len(labels)}")
sheet = contact_sheet(
    rows, row_labels=labels, column_labels=["hu_array_old", "hu_array", "mask"], scale=2, font_size=28
)
sheet.quantize(128).save("docs/img/pickles.png", optimize=True)
