"""Draw docs/img/evaluation.png: Dice by size on phantoms; intervals resampled by slice and by patient."""

from dataclasses import replace
from math import nan

import numpy as np

from lungseg.charts import bar_chart
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import contact_sheet
from lungseg.evaluation.lesions import SIZES_MM
from lungseg.evaluation.scores import score_image
from lungseg.evaluation.strata import Stratum, interval, table_row

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

by_size = {}  # size -> bar -> (value, low, high)
for size in SIZES_MM:
    row = table_row(scores, stratum=Stratum(size=size))
    name = f"{size}\n{row['slices']} slices,\n{row['patients']} patients"
    pooled = (row["pooled_dice"], row["pooled_dice_low"], row["pooled_dice_high"])
    by_size[name] = {"mean of slices": (row["dice"], row["dice_low"], row["dice_high"]), "pooled": pooled}
    print(size, {key: row[key] for key in ("slices", "patients", "dice", "dice_low", "dice_high", "pooled_dice")})
sizes = bar_chart(
    by_size,
    title="Dice of predictions that are 0 to 3 pixels off, with 95 % intervals",
    x_label="Dice",
    size=(700, 430),
    scale=2,
)

widths = {}  # slices of each patient -> bar -> width
for n in COUNTS:
    some = [score for of_patient in patients for score in of_patient[:n]]
    each_alone = [replace(score, group=score.id) for score in some]
    widths[n] = {}
    for name, chosen in (("resampled by patient (right)", some), ("resampled by slice (wrong)", each_alone)):
        low, high = interval(chosen)
        widths[n][name] = high - low
    print(n, {name: round(width, 3) for name, width in widths[n].items()})
evidence = bar_chart(
    {f"{n} slice{'s' * (n > 1)}\nof each": {name: (width, nan, nan) for name, width in bars.items()}
     for n, bars in widths.items()},
    title=f"Width of the 95 % interval of the mean Dice, {PATIENTS} patients",
    x_label="width",
    size=(700, 400),
    x_range=(0.0, 0.2),
    scale=2,
)  # fmt: skip
contact_sheet([[sizes], [evidence]]).quantize(64).save("docs/img/evaluation.png", optimize=True)
