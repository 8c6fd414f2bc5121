"""Draw docs/img/splits.png: how slices of one phantom correlate, and slices of two."""

import numpy as np
from PIL import Image

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.data.splits import CELLS, fine_structure
from lungseg.draw import contact_sheet, heatmap

images = []
for p in range(5):
    images += [hu_to_grey(s.hu) for s in phantom_patient(np.random.default_rng(p), num_slices=4, slice_spacing_mm=3.0)]
patterns = np.array([fine_structure(image) for image in images])
side = 480


def tile(array):
    return np.asarray(Image.fromarray(array).resize((side, side), Image.Resampling.NEAREST))


slices = np.vstack([np.hstack(images[0:2]), np.hstack(images[4:6])])
fine = patterns.reshape(-1, CELLS, CELLS)
fine = np.vstack([np.hstack(fine[0:2]), np.hstack(fine[4:6])])
grey = np.asarray(Image.fromarray(slices).resize((side, side), Image.Resampling.LANCZOS))
scaled = np.rint(255 * np.clip(0.5 + fine / (8 * fine.std()), 0, 1)).astype(np.uint8)
sheet = contact_sheet(
    [[grey, tile(scaled), tile(heatmap(patterns @ patterns.T))]],
    column_labels=[
        "two slices of patient 0,\ntwo of patient 1",
        "their fine structure",
        "correlation, 5 patients x 4 slices",
    ],
    captions=[["", "", "0 black, 1 pale yellow"]],
    font_size=28,
)
sheet.quantize(200).save("docs/img/splits.png", optimize=True)
