"""Draw docs/img/patches.png: a nodule in pixels, in the tokens of PatchEmbed, and after one PatchMerging."""

import numpy as np

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet, enlarge, overlay

SIDE, PATCH, SCALE = 32, 4, 5  # pixels of the crop, pixels of a patch, and how much the drawing is enlarged
LINE = (255, 236, 120)

crop = phantom_crops(np.random.default_rng(5), num=3, size=SIDE, diameter_mm=(5.5, 6.0), kinds=("solid",))[1]
grey = hu_to_grey(crop.hu)
tiles = []
for side in (1, PATCH, 2 * PATCH):  # pixels on a side of what one square of the drawing stands for
    means = grey.reshape(SIDE // side, side, SIDE // side, side).mean((1, 3)).astype(np.uint8)
    picture = overlay(enlarge(means, side), crop.target, scale=SCALE)
    step = SCALE * max(side, PATCH)
    picture[::step] = picture[:, ::step] = LINE
    tiles.append(picture)
names = [
    f"{SIDE} x {SIDE} pixels,\nin patches of {PATCH} x {PATCH}",
    "PatchEmbed: 8 x 8 tokens",
    "PatchMerging: 4 x 4 tokens",
]
contact_sheet([tiles], column_labels=names, scale=3, font_size=30).quantize(96).save(
    "docs/img/patches.png", optimize=True
)
