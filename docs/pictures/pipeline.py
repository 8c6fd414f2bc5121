"""Draw docs/img/pipeline.png: one phantom slice from HU to what enters the network, each step by the library."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lungseg.data.augment import Augmentation
from lungseg.data.ct import hu_to_grey, resize_image, resize_target
from lungseg.data.grey_png import read_grey_png
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import TARGET, contact_sheet, outline, overlay

TILE, SEED = 400, 3  # pixels of a drawn slice; of the random decisions
NOTHING = Augmentation(rotation=0, horizontal_flip=0, vertical_flip=0, elastic_probability=0, brightness=0, contrast=0)
STEPS = {  # each adds a part to those before it, whose random decisions stay the same
    "5  rotated": {"rotation": 30.0},
    "6  flipped as well": {"horizontal_flip": 1.0},
    "7  bent as well (elastic)": {"elastic_probability": 1.0, "elastic_alpha": 6.0},
    "8  brightness, contrast": {"brightness": 0.2, "contrast": 0.4},
}


def tile(grey: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The slice at the size it is drawn, with the outline of its lesion."""
    image, mask = (
        np.asarray(Image.fromarray(a).resize((TILE, TILE), Image.Resampling.BILINEAR)) for a in (grey, 255 * target)
    )
    lesion = mask > 127
    return overlay(overlay(image, lesion), lesion | outline(lesion, outside=True))  # a line of two pixels


def main() -> None:
    patient = phantom_patient(np.random.default_rng(2), num_slices=1, size=512, diameter_mm=(26, 30), kinds=["solid"])
    hu, target = patient[0].hu, patient[0].target
    grey = hu_to_grey(hu)
    small, small_target = resize_image(grey, (256, 256)), resize_target(target, (256, 256))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slice.png")
        Image.fromarray(small).save(path)
        stored, kilobytes = read_grey_png(path, bits=8), path.stat().st_size // 1000
    unit = stored.astype(np.float32) / 255

    whole_range = hu_to_grey(hu, (int(hu.min()), int(hu.max())))
    tiles = [tile(whole_range, target), tile(grey, target), tile(small, small_target), tile(stored, small_target)]
    captions = [
        f"1  HU, int16,\n{hu.min()} to {hu.max()}, 512 x 512",
        "2  HU window -1000 to 400,\n0 to 255",
        f"3  resized, 256 x 256,\nlesion: {target.sum()} px, now {small_target.sum()}",
        f"4  grey PNG of the folder,\n8 bits, {kilobytes} kB",
    ]
    augmentation = NOTHING
    for name, settings in STEPS.items():
        augmentation = replace(augmentation, **settings)
        image, lesion = augmentation(unit, small_target, np.random.default_rng(SEED))
        tiles.append(tile(np.rint(255 * image).astype(np.uint8), lesion))
        captions.append(name)
    batch = torch.from_numpy(image)[None, None]
    captions[-1] += f"\nenters as {tuple(batch.shape)}\nfloat32, {batch.min():.2f} to {batch.max():.2f}"
    sheet = contact_sheet([tiles[:4], tiles[4:]], captions=[captions[:4], captions[4:]], font_size=28)
    palette = Image.new("P", (1, 1))  # greys and the colour of the outline
    palette.putpalette(bytes(np.linspace(0, 255, 40).astype(np.uint8).repeat(3)) + bytes(TARGET))
    sheet.quantize(palette=palette, dither=Image.Dither.NONE).save("docs/img/pipeline.png", optimize=True)


if __name__ == "__main__":
    main()
