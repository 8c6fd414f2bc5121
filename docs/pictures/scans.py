"""Draw docs/img/scans.png: one scan as four files may store it, and what `orient` makes of each."""

import numpy as np

from lungseg.data.ct import hu_to_grey
from lungseg.data.geometry import make_affine, orient
from lungseg.data.phantoms.scene import phantom_volume
from lungseg.draw import contact_sheet

SHAPE, SPACING = (40, 132, 132), (8.0, 2.8, 2.8)
rng = np.random.default_rng(5)
hu = phantom_volume(rng, shape=SHAPE, spacing_mm=SPACING, diameter_mm=(20, 25))[0][::-1]  # phantoms begin at the head
STEPS = np.array([[0, 0, SPACING[0]], [0, SPACING[1], 0], [SPACING[2], 0, 0]])  # along our axes: slices, rows, columns
STORED = {  # caption -> (order of our axes in the file, direction of each)
    "as a viewer shows it": ((0, 1, 2), (1, 1, 1)),
    "prone, feet first": ((0, 1, 2), (-1, -1, 1)),
    "NIfTI: (x, y, z)": ((2, 1, 0), (-1, -1, 1)),
    "rows to the head": ((1, 0, 2), (1, 1, 1)),
}

files, oriented = [], []
for order, signs in STORED.values():
    array = hu.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    steps = [s * STEPS[a] for a, s in zip(order, signs, strict=True)]
    origin = sum((SHAPE[a] - 1) * STEPS[a] for a, s in zip(order, signs, strict=True) if s < 0)
    back, _ = orient(array, make_affine(np.zeros(3) + origin, steps))
    assert np.array_equal(back, hu)
    files.append(hu_to_grey(array[len(array) // 2]))
    oriented.append(hu_to_grey(back[SHAPE[0] // 2]))
sheet = contact_sheet(
    [files, oriented], column_labels=list(STORED), row_labels=["array[n // 2]", "after orient"], scale=2, font_size=28
)
sheet.quantize(64).save("docs/img/scans.png", optimize=True)
