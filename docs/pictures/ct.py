"""Draw docs/img/ct.png: a fixed HU window keeps the meaning of a grey level, stretching does not."""

import numpy as np

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet

hu = phantom_patient(np.random.default_rng(0), num_slices=1, size=192)[0].hu.astype(float)
metal = hu.copy()
metal[60:63, 100:103] = 3000


def stretched(hu):
    return np.round(255 * (hu - hu.min()) / np.ptp(hu)).astype(np.uint8)


lung = (hu > -950) & (hu < -750)
tiles = [hu_to_grey(hu), hu_to_grey(metal), stretched(hu), stretched(metal)]
sheet = contact_sheet(
    [tiles],
    column_labels=["fixed window", "fixed window, metal", "own range", "own range, metal"],
    captions=[[f"lung at grey {np.median(t[lung]):.0f}" for t in tiles]],
    scale=2,
    font_size=30,
)
sheet.quantize(128).save("docs/img/ct.png", optimize=True)
