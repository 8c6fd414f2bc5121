"""Draw docs/img/draw_predictions.png, draw_chart.png and draw_labels.png."""

import numpy as np
from scipy.ndimage import gaussian_filter

from lungseg.charts import line_chart
from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, label_map, prediction_sheet

rows = []
for seed, shift, words in ((3, 0, "a good one"), (4, 4, "off by four pixels"), (6, 60, "in the wrong place")):
    s = phantom_patient(np.random.default_rng(seed), num_slices=1, size=160, diameter_mm=(18.0, 28.0))[0]
    probs = gaussian_filter(np.roll(s.target, shift, axis=1).astype(float), 1.5)
    pred = probs > 0.5
    dice = 2 * (pred & (s.target > 0)).sum() / (pred.sum() + s.target.sum())
    rows.append((f"{words}\nDice {dice:.2f}", hu_to_grey(s.hu), s.target, probs))
prediction_sheet(rows, scale=2, font_size=28).quantize(200).save("docs/img/draw_predictions.png", optimize=True)

rng = np.random.default_rng(0)
loss = [(e, np.exp(-e / 8) + 0.02 * rng.standard_normal()) for e in range(40)]
dice = [(e, 0.9 * (1 - np.exp(-e / 7)) + 0.02 * rng.standard_normal()) for e in range(40)]
loss[12] = (12, float("nan"))
chart = line_chart(
    {"loss": loss, "Dice": dice},
    title="A training run",
    x_label="epoch",
    y_label="loss, Dice",
    y_range=(0, 1),
    scale=2,
)
chart.quantize(64).save("docs/img/draw_chart.png", optimize=True)

windows = np.arange(4).reshape(2, 2).repeat(4, 0).repeat(4, 1)
edge = np.array([0, 0, 1, 1, 1, 1, 2, 2])  # cells of the grid shifted by 2
labels = [label_map(windows, cell=52), label_map(3 * edge[:, None] + edge, cell=52)]
contact_sheet([labels], column_labels=["windows of 4 x 4", "the grid shifted by 2"], font_size=28).save(
    "docs/img/draw_labels.png"
)
