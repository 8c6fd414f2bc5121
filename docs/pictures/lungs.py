"""Draw docs/img/lungs.png: a slice of a phantom chest, and what each step of the lung mask keeps of it."""

import numpy as np
from PIL import Image

from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_volume
from lungseg.draw import SERIES, TARGET, contact_sheet, enlarge, outline, to_rgb
from lungseg.lungs import THRESHOLD_HU, inner_air, lung_mask

MM, SIDE = 1.5, 256
hu, target = phantom_volume(
    np.random.default_rng(6), shape=(9, SIDE, SIDE), spacing_mm=(4.0, MM, MM), num_nodules=2, kinds=("pleural",),
    diameter_mm=(14, 20),
)  # fmt: skip
z = int(target.sum(axis=(1, 2)).argmax())


def shaded(region: np.ndarray) -> np.ndarray:
    """The slice with a region in blue, and the outlines of the nodules in green."""
    rgb = to_rgb(hu_to_unit(hu[z])).astype(float)
    rgb[region] = 0.45 * rgb[region] + 0.55 * np.array(SERIES[5])
    large = enlarge(rgb.astype(np.uint8), 3)
    nodule = enlarge(target[z], 3) > 0
    for _ in range(2):  # a line of two pixels
        line = outline(nodule, outside=True)
        large[line], nodule = TARGET, nodule | line
    return large[120:-120]


inside = inner_air(hu[z], THRESHOLD_HU, (MM, MM))
steps = {
    "below -400 HU": hu[z] < THRESHOLD_HU,
    "inside the patient, no trachea": inside,
    "large components, holes filled": lung_mask(hu, (4.0, MM, MM), closing_mm=0)[z],
    "closed by a disc of 15 mm": lung_mask(hu, (4.0, MM, MM))[z],
}
names, pictures = list(steps), [shaded(region) for region in steps.values()]
sheet = contact_sheet([pictures[:2], pictures[2:]], captions=[names[:2], names[2:]], font_size=36)
sheet.quantize(256, method=Image.Quantize.MAXCOVERAGE).save("docs/img/lungs.png", optimize=True)
