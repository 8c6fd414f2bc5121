"""Draw docs/img/dataframe.png: how the blocks of a DataFrame become its columns."""

import numpy as np
from PIL import Image, ImageDraw

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import font

SIDE, GAP = 144, 16
BLUE, GREEN, ORANGE, GREY = (190, 212, 240), (190, 226, 190), (250, 214, 165), (110, 110, 110)
COLUMNS = ["label1", "mask", "hu_array_old", "spacing_mm"]
COLOURS = [GREEN, ORANGE, ORANGE, BLUE]

patients = [phantom_patient(np.random.default_rng(seed), num_slices=5, size=144) for seed in (3, 5, 8)]
slices = [max(patient, key=lambda s: s.target.sum()) for patient in patients]
ct = [Image.fromarray(hu_to_grey(s.hu)).resize((SIDE, SIDE)) for s in slices]
mask = [Image.fromarray(255 * s.target).resize((SIDE, SIDE)) for s in slices]
TABLE = [["LR2", "LR3", "LR4A"], mask, ct, ["0.70", "0.62", "0.78"]]

image = Image.new("RGB", (2020, 840), "white")
draw = ImageDraw.Draw(image)


def cells(column: int, left: int, top: int, step: tuple[int, int]) -> None:
    """Draw one column, cell by cell; `step` says whether it runs to the right or down."""
    for i, cell in enumerate(TABLE[column]):
        x, y = left + i * step[0], top + i * step[1]
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), fill=COLOURS[column], outline="white")
        if isinstance(cell, str):
            draw.text((x + SIDE / 2, y + SIDE / 2), cell, (0, 0, 0), font(32), anchor="mm")
        else:
            image.paste(cell.resize((SIDE - 20, SIDE - 20)), (x + 10, y + 10))


draw.text((40, 44), "three blocks (columns, rows)", (0, 0, 0), font(34), anchor="lm")
blocks = [("texts, place 0", [0]), ("objects, places 1 and 2", [1, 2]), ("float64, place 3", [3])]
top = 124
for title, members in blocks:
    draw.text((40, top - 20), title, GREY, font(26), anchor="lm")
    for member in members:
        cells(member, 40, top, (SIDE, 0))
        top += SIDE
    top += 44
draw.text((640, 380), "frame_columns", (0, 0, 0), font(30), anchor="mm")
draw.line((524, 412, 744, 412), (0, 0, 0), 4)
draw.polygon([(744, 400), (768, 412), (744, 424)], (0, 0, 0))

draw.text((820, 44), "the columns of the table, row i in place i", (0, 0, 0), font(34), anchor="lm")
for column, name in enumerate(COLUMNS):
    left = 900 + column * (SIDE + 128)
    draw.text((left + SIDE / 2, 112), name, (0, 0, 0), font(30), anchor="mm")
    cells(column, left, 152, (0, SIDE + GAP))
for row in range(3):
    draw.text((840, 152 + row * (SIDE + GAP) + SIDE / 2), str(row), GREY, font(30), anchor="mm")
image.quantize(128).save("docs/img/dataframe.png", optimize=True)
