"""Draw docs/img/augment_strong.png: scale, blur, gamma and noise alone, then all of `--augment strong` together."""

from dataclasses import replace

import numpy as np
from PIL import Image

from lungseg.data.augment import Augmentation
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, overlay
from lungseg.training.data import AUGMENTATIONS

SIDE = 96  # of a window around the lesion, in pixels of 1 mm
rng = np.random.default_rng(2)
piece = phantom_patient(rng, num_slices=1, size=352, field_of_view_mm=352, diameter_mm=(22, 26), kinds=["solid"])[0]
row, col = (int(axis.mean()) - SIDE // 2 for axis in np.nonzero(piece.target))
window = np.s_[row : row + SIDE, col : col + SIDE]
image = ((piece.hu[window] + 1000.0) / 1400).clip(0, 1).astype(np.float32)
target = piece.target[window]

nothing = Augmentation(rotation=0, horizontal_flip=0, vertical_flip=0, elastic_probability=0, brightness=0, contrast=0)
strong = AUGMENTATIONS["strong"]


def near(name: str, value: float) -> tuple[Augmentation, int]:
    """An augmentation with one part only, and a seed with which this is drawn at nearly the value given."""
    alone = replace(nothing, **{f"{name}_probability": 1})
    draws = [getattr(alone.draw(np.random.default_rng(seed)), name) for seed in range(500)]
    return alone, int(np.argmin(np.abs(np.array(draws) - value)))


def tile(augmentation: Augmentation, seed: int) -> np.ndarray:
    return overlay(*augmentation(image, target, np.random.default_rng(seed)), scale=3)


alone = {
    "as it is": (nothing, 0),
    "scale 0.8": near("scale", 0.8),
    "scale 1.25": near("scale", 1.25),
    "blur 1 px": near("blur", 1.0),
    "gamma 1.25": near("gamma", 1.25),
    "noise 0.03": near("noise", 0.03),
}
contact_sheet(
    [[tile(*how) for how in alone.values()], [tile(strong, seed) for seed in range(1, 7)]],
    captions=[list(alone), [f"strong, seed {seed}" for seed in range(1, 7)]],
    font_size=30,
).quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
    "docs/img/augment_strong.png", optimize=True
)
