"""Draw docs/img/leak.png: which samples of three phantoms are for training and which for the test, in two ways."""

import runpy

import numpy as np
from PIL import Image, ImageDraw

from lungseg.data.augment import Augmentation
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import INK, SERIES, contact_sheet, font, to_rgb

PATIENTS, SLICES, COPIES, SEED = 3, 3, 2, 2
TILE, FRAME, GAP, TOP, LEFT = 112, 9, 8, 100, 120  # pixels
TRAINING, TEST = SERIES[0], SERIES[1]
demo = runpy.run_path("examples/leak_demo.py")  # no package: the function that the example splits with
augment, rng = Augmentation(), np.random.default_rng(SEED)

samples = {}  # (slice, copy) -> image
for p in range(PATIENTS):
    for s in phantom_crops(np.random.default_rng(p + 7), num=SLICES, diameter_mm=(10.0, 20.0)):
        i = p * SLICES + s.slice_index
        samples[i, 0] = hu_to_unit(s.hu)
        samples[i, 1], _ = augment(samples[i, 0], s.target, rng)
patients = [f"patient {i // SLICES + 1}" for i in range(PATIENTS * SLICES)]


def panel(procedure: str, title: str) -> Image.Image:
    """The samples of every patient, one patient per row, framed by the side they are on."""
    training, test = demo["divide"](procedure, patients, COPIES, SEED)
    side = TILE + 2 * FRAME
    columns = SLICES * COPIES
    picture = Image.new("RGB", (LEFT + columns * (side + GAP), TOP + PATIENTS * (side + GAP)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((LEFT + columns * (side + GAP) / 2, 0), title, INK, font(32), anchor="ma")
    for s in range(SLICES):
        x = LEFT + (s + 0.5) * COPIES * (side + GAP)
        draw.text((x, TOP - 12), f"slice {s + 1}, its copy", INK, font(24), anchor="md")
    for p in range(PATIENTS):
        y = TOP + p * (side + GAP)
        draw.text((0, y + side / 2), f"patient {p + 1}", INK, font(26), anchor="lm")
        for column in range(columns):
            sample = p * SLICES + column // COPIES, column % COPIES
            x = LEFT + column * (side + GAP)
            if procedure == demo["LEAKY"] or sample in training + test:  # copies of test slices are not made
                draw.rectangle((x, y, x + side, y + side), TRAINING if sample in training else TEST)
                tile = Image.fromarray(to_rgb(samples[sample])).resize((TILE, TILE), Image.Resampling.BICUBIC)
                picture.paste(tile, (x + FRAME, y + FRAME))
    return picture


def legend(width: int) -> Image.Image:
    picture = Image.new("RGB", (width, 50), "white")
    draw = ImageDraw.Draw(picture)
    for x, colour, words in ((LEFT, TRAINING, "training"), (LEFT + 240, TEST, "test")):
        draw.rectangle((x, 10, x + 36, 40), colour)
        draw.text((x + 50, 25), words, INK, font(28), anchor="lm")
    return picture


panels = [
    panel(demo["LEAKY"], "augment, then split: every patient is on both sides"),
    panel(demo["BY_PATIENT"], "split by patient, then augment: no patient is on both sides"),
]
sheet = contact_sheet([[p] for p in (*panels, legend(panels[0].width))])
sheet.quantize(200).save("docs/img/leak.png", optimize=True)
