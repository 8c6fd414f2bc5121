"""Draw docs/img/inference_weights.png and inference_seams.png: how sliding windows overlap, and how seams fade."""

import numpy as np
import torch
from torch import nn

from lungseg.charts import line_chart
from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, heatmap
from lungseg.inference import blending_weights, sliding_window, window_starts

side, window = 160, 64
starts = window_starts(side, window, overlap=0.5)
weights = blending_weights(side, window, starts)
lines = {
    f"from pixel {start}": [(start + x, w) for x, w in enumerate(row.tolist())]
    for start, row in zip(starts, weights, strict=True)
}
chart = line_chart(
    lines,
    title="Weights along a side of 160 pixels",
    x_label="pixel",
    y_label="weight",
    size=(640, 300),
    y_range=(0, 1),
    scale=2,
)
chart.save("docs/img/inference_weights.png", optimize=True)

# A "network" that looks 20 pixels around and treats what it cannot see as air: the mean over a square.
blur = nn.Conv2d(1, 1, 41, padding=20, bias=False)
nn.init.constant_(blur.weight, 1 / 41**2)
hu = phantom_patient(np.random.default_rng(0), num_slices=1, size=224)[0].hu
image = torch.from_numpy(hu_to_unit(hu))[None, None]  # (1, 1, 224, 224)
with torch.no_grad():
    whole = blur(image)
ways = {
    "windows side by side": sliding_window(blur, image, 56, overlap=0.0),
    "overlap 0.5": sliding_window(blur, image, 56, overlap=0.5),
    "overlap 0.75": sliding_window(blur, image, 56, overlap=0.75),
}
errors = [(result - whole).abs()[0, 0].numpy() for result in ways.values()]
tiles = [
    [heatmap(a[0, 0].numpy()) for a in (whole, *ways.values())],
    [image[0, 0].numpy(), *(heatmap(error, high=0.3) for error in errors)],
]
sheet = contact_sheet(
    tiles,
    column_labels=["the whole slice at once", *ways],
    row_labels=["output", "slice, and\ndifference\nfrom the whole"],
    captions=[[""] * 4, ["", *(f"mean {error.mean():.3f}" for error in errors)]],
    scale=2,
    font_size=28,
)
sheet.quantize(128).save("docs/img/inference_seams.png", optimize=True)
