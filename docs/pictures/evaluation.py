"""Draw docs/img/evaluation.png: Dice by size on phantoms; intervals resampled by slice and by patient."""

from dataclasses import replace

import numpy as np

from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet, line_chart
from lungseg.evaluation.lesions import SIZES_MM
from lungseg.evaluation.scores import Stratum, interval, score_image, table_row

PATIENTS, SLICES = 60, 8
COUNTS = (1, 2, 4, 8)


def scores_of_patient(p: int) -> list:
    """Scores of predictions that are the target, moved by 0 to 3 pixels: the same for all slices of a patient."""
    rng = np.random.default_rng(p)
    shift, axis = int(rng.integers(0, 4)), int(rng.integers(0, 2))
    return [
        score_image(np.roll(s.target, shift, axis), s.target, id=f"{p}_{i}", group=f"p{p}", spacing_mm=s.spacing_mm)
        for i, s in enumerate(phantom_crops(rng, num=SLICES))
    ]


patients = [scores_of_patient(p) for p in range(PATIENTS)]
scores = [score for of_patient in patients for score in of_patient]

by_size = {"per slice": [], "pooled": [], "95 % high": [], "95 % low": []}
for x, size in enumerate(SIZES_MM):
    row = table_row(scores, stratum=Stratum(size=size))
    for name, key in zip(by_size, ("dice", "pooled_dice", "dice_high", "dice_low"), strict=True):
        by_size[name].append((x, row[key]))
    print(size, {key: row[key] for key in ("slices", "patients", "dice", "dice_low", "dice_high", "pooled_dice")})
sizes = line_chart(
    by_size,
    title="Dice of predictions that are 0 to 3 pixels off",
    x_label="size of the largest lesion (0: <5 mm, 1: 5-10 mm, 2: 10-20 mm, 3: >=20 mm)",
    y_label="Dice",
    y_range=(0, 1),
    size=(680, 330),
)

widths = {"resampled by patient (right)": [], "resampled by slice (wrong)": []}
for n in COUNTS:
    some = [score for of_patient in patients for score in of_patient[:n]]
    each_alone = [replace(score, group=score.id) for score in some]
    for name, chosen in zip(widths, (some, each_alone), strict=True):
        low, high = interval(chosen)
        widths[name].append((n, high - low))
    print(n, {name: round(line[-1][1], 3) for name, line in widths.items()})
evidence = line_chart(
    widths,
    title=f"Width of the 95 % interval of the mean Dice, {PATIENTS} patients",
    x_label="slices of each patient",
    y_label="width",
    size=(680, 330),
)
contact_sheet([[sizes], [evidence]]).quantize(64).save("docs/img/evaluation.png", optimize=True)
