"""Draw docs/img/lesions.png: which lesions count as found, and which detections as false positives."""

import numpy as np

from lungseg.draw import contact_sheet, overlay
from lungseg.evaluation.lesions import match_lesions

y, x = np.mgrid[:44, :64]


def disc(row: float, col: float, radius: float) -> np.ndarray:
    return (y - row) ** 2 + (x - col) ** 2 <= radius**2


target = disc(16, 18, 7) | disc(16, 44, 5) | disc(36, 32, 4)
predictions = {
    "each on its own": disc(17, 19, 6) | disc(15, 44, 5) | disc(36, 31, 4),
    "one detection over two lesions": disc(16, 18, 6) | disc(16, 44, 5) | ((abs(y - 16) < 2) & (x > 18) & (x < 44)),
    "one lesion in two pieces": (disc(16, 18, 6) & (abs(x - 18) % 5 > 1)) | disc(8, 56, 3),
    "one pixel is enough": disc(21, 26, 4) | disc(36, 37, 2) | disc(36, 50, 3) | disc(8, 34, 3),
}
tiles, captions = [], []
for pred in predictions.values():
    lesions, false_positives = match_lesions(pred, target, 0.7)
    tiles.append(overlay(0.15 + 0.25 * target, target, pred, scale=5))
    captions.append(f"found {sum(x.found for x in lesions)} of {len(lesions)}, false positives {false_positives}")
names = list(predictions)
rows = [tiles[:2], tiles[2:]]
words = [[f"{n}:\n{c}" for n, c in zip(names[i : i + 2], captions[i : i + 2], strict=True)] for i in (0, 2)]
contact_sheet(rows, captions=words, scale=2, font_size=28).quantize(64).save("docs/img/lesions.png", optimize=True)
