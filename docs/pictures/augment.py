"""Draw docs/img/augment.png: each part of the augmentation alone, then all together."""

from dataclasses import replace

import numpy as np
from PIL import Image

from lungseg.data.augment import Augmentation
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, overlay

rng = np.random.default_rng(2)
piece = phantom_patient(rng, num_slices=1, size=176, field_of_view_mm=320, diameter_mm=(26, 30), kinds=["solid"])[0]
image = ((piece.hu + 1000.0) / 1400).clip(0, 1).astype(np.float32)
image[::16, :] = image[:, ::16] = 0.6  # a grid makes the geometry visible

nothing = Augmentation(rotation=0, horizontal_flip=0, vertical_flip=0, elastic_probability=0, brightness=0, contrast=0)
alone = {
    "as it is": nothing,
    "rotation": replace(nothing, rotation=30),
    "horizontal flip": replace(nothing, horizontal_flip=1),
    "elastic": replace(nothing, elastic_probability=1, elastic_alpha=5, elastic_sigma=30),
    "brightness, contrast": replace(nothing, brightness=0.2, contrast=0.5),
    "crop on the lesion": replace(nothing, crop_size=88, crop_foreground=1),
}
everything = Augmentation(elastic_probability=1)


def tile(augmentation: Augmentation, seed: int) -> np.ndarray:
    image_, target = augmentation(image, piece.target, np.random.default_rng(seed))
    return overlay(image_, target, scale=176 // len(image_))  # the crop twice as large, like the others


contact_sheet(
    [
        [tile(augmentation, 0) for augmentation in alone.values()],
        [tile(everything, seed) for seed in range(1, 7)],
    ],
    captions=[list(alone), [f"everything {seed}" for seed in range(1, 7)]],
    scale=2,
    font_size=32,
).quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save("docs/img/augment.png", optimize=True)
