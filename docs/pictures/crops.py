"""Draw docs/img/crops.png: a small nodule after resizing and in a crop, and the slices below and above a nodule."""

import numpy as np
from PIL import Image

from lungseg.data.ct import hu_to_unit, resize_image, resize_target
from lungseg.data.neighbours import stack_indices
from lungseg.data.phantoms.scene import phantom_patient, phantom_volume
from lungseg.draw import contact_sheet, overlay

SIDE, TILE = 64, 448  # of the crop in pixels of the file; of each picture

rng = np.random.default_rng(5)
slice_ = next(
    s
    for s in phantom_patient(rng, num_slices=8, size=512, diameter_mm=(5.0, 7.0), kinds=("solid",))
    if 30 < s.target.sum() < 90
)
grey, target = hu_to_unit(slice_.hu), slice_.target
row, col = (int(n) // 8 * 8 - SIDE // 2 for n in np.argwhere(target).mean(axis=0))  # of the crop
small, lesion = resize_image(grey, (128, 128)), resize_target(target, (128, 128))
part = np.s_[row // 4 : (row + SIDE) // 4, col // 4 : (col + SIDE) // 4]
box = np.s_[row : row + SIDE, col : col + SIDE]
frame = np.zeros_like(target)
frame[box] = 1  # its outline is drawn


def tile(image: np.ndarray, outlined: np.ndarray) -> np.ndarray:
    """Enlarged to TILE pixels, without smoothing."""
    scale = max(1, TILE // len(image))
    return np.asarray(Image.fromarray(overlay(image, outlined, scale=scale)).resize((TILE, TILE), Image.Resampling.BOX))


above = contact_sheet(
    [[tile(grey, frame), tile(small[part], lesion[part]), tile(grey[box], target[box])]],
    captions=[["slice of 512 x 512", "that square, after --img-size 128", "the same square, --crop-size 64"]],
    font_size=26,
)
hu, target = phantom_volume(
    np.random.default_rng(3), shape=(12, 64, 64), spacing_mm=(2.5, 0.8, 0.8), num_nodules=1, diameter_mm=(8.0, 9.0),
    centre_mm=(60.0, 0.0), kinds=("solid",),
)  # fmt: skip
z = int(target.sum(axis=(1, 2)).argmax())
channels = stack_indices(len(hu), 1)[z]
below = contact_sheet(
    [[tile(hu_to_unit(hu[k]), target[z] * (k == z)) for k in channels]],
    captions=[["channel 0: the slice below", "channel 1: the slice itself", "channel 2: the slice above"]],
    font_size=26,
)
contact_sheet([[above], [below]]).quantize(160).save("docs/img/crops.png", optimize=True)
