"""Draw docs/img/elastic.png: from noise to a field to a bent slice, and what alpha and sigma do."""

import numpy as np

from lungseg.data.elastic import elastic_displacement, warp
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, heatmap

SIDE = 208
piece = phantom_patient(np.random.default_rng(4), num_slices=1, size=SIDE, field_of_view_mm=330)[0]
image = ((piece.hu + 1000.0) / 1400).clip(0, 1).astype(np.float32)
image[::16, :] = image[:, ::16] = 0.9  # a grid makes the bending visible


def field(alpha: float, sigma: float) -> np.ndarray:
    return elastic_displacement((SIDE, SIDE), alpha=alpha, sigma=sigma, rng=np.random.default_rng(1))


down, along = field(alpha=3, sigma=24)
steps = [image, heatmap(down, -8, 8), heatmap(along, -8, 8), warp(image, np.stack([down, along]), order=1)]
settings = [(1, 8), (3, 48), (6, 48)]
bent = [warp(image, field(alpha, sigma), order=1) for alpha, sigma in settings]
folded = warp(image, 5 * field(3, 24), order=1)

contact_sheet(
    [steps, [*bent, folded]],
    captions=[
        [
            "a slice with a grid",
            "rows move by -8 to 8 px",
            "columns move by -8 to 8 px",
            "bent: alpha 3, sigma 24",
        ],
        [*(f"alpha {a} px, sigma {s} px" for a, s in settings), "3 and 24, times 5: it folds"],
    ],
    scale=2,
    font_size=28,
).quantize(96).save("docs/img/elastic.png", optimize=True)
