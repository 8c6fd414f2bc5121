"""Draw docs/img/negatives.png: false positives in a phantom slice, and the windows cut there and anywhere."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lungseg.data.ct import hu_to_unit
from lungseg.data.manifest import ImageRecord
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.draw import contact_sheet, enlarge, font, outline, overlay
from lungseg.mining import Source, random_windows, wrong_windows

SIDE, WINDOWS = 48, 4
GREEN, ORANGE, WHITE = (0, 158, 115), (230, 159, 0), (255, 255, 255)
piece = phantom_patient(np.random.default_rng(5), num_slices=1, size=384, diameter_mm=(20, 24))[0]
grey, seen = hu_to_unit(piece.hu), piece.target > 0  # (384, 384)
# In place of a network: what is bright and small (a top-hat filter), as vessels and nodules are, and no bone.
smooth = ndimage.gaussian_filter(grey, 1.0)
opened = ndimage.grey_opening(smooth, footprint=np.hypot(*np.mgrid[-8:9, -8:9]) <= 8)
probs = np.clip(1.8 * (smooth - opened), 0, 1) * (ndimage.grey_dilation(grey, 7) < 0.93)
probs[ndimage.binary_dilation(seen, iterations=2)] = 0
probs[seen] = 1

rng = np.random.default_rng(1)
source = Source(ImageRecord("phantom", "phantom", "train"), piece.hu[None], seen[None], (0.9, 0.9), None)
wrong = wrong_windows(probs[None], seen[None], (SIDE, SIDE), WINDOWS, rng)
anywhere = random_windows(source, (SIDE, SIDE), WINDOWS, rng, wrong)


def whole_slice() -> Image.Image:
    """The slice, twice enlarged: outlined lesion, false positives, and the windows with their numbers."""
    picture = overlay(grey, seen, scale=2)
    labels, _ = ndimage.label(probs > 0.5, np.ones((3, 3)))
    false = (labels > 0) & ~np.isin(labels, np.unique(labels[seen]))
    picture[outline(enlarge(false, 2), outside=False)] = ORANGE
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    for number, window in enumerate([*wrong, *anywhere], start=1):
        colour = ORANGE if number <= len(wrong) else WHITE
        top, left = 2 * window.top, 2 * window.left
        draw.rectangle((left, top, left + 2 * SIDE, top + 2 * SIDE), outline=colour, width=3)
        draw.text((left + 8, top + 2), str(number), fill=colour, font=font(30))
    return image


tiles = [grey[w.top : w.top + SIDE, w.left : w.left + SIDE] for w in [*wrong, *anywhere]]
captions = [[f"{i + 1}: wrong, {w.score:.2f}" for i, w in enumerate(wrong)],
            [f"{i + 1 + len(wrong)}: anywhere" for i in range(len(anywhere))]]  # fmt: skip
sheet = contact_sheet([tiles[:WINDOWS], tiles[WINDOWS:]], captions=captions, scale=4, font_size=26)
left = whole_slice()
picture = Image.new("RGB", (left.width + sheet.width + 12, max(left.height, sheet.height)), WHITE)
picture.paste(left, (0, 0))
picture.paste(sheet, (left.width + 12, (picture.height - sheet.height) // 2))
picture.quantize(128, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
    "docs/img/negatives.png", optimize=True
)
