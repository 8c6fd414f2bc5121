"""Draw docs/img/refiner.png, refiner_network.png and refiner_pet.png: the way of a slice, what is added, and PET."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from shapes import BLUE, FRAME, GREEN, GREY, PINK, PURPLE, YELLOW, arrow, box, canvas, panels, plus, save, words

from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.pet import pet_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.draw import enlarge, font, to_rgb
from lungseg.refiner.crops import Crop, crop_at
from lungseg.refiner.judge import slice_map
from lungseg.refiner.proposals import propose

IMG = Path(__file__).resolve().parents[1] / "img"
SEED = 73
OPTIONS = {"num": 1, "size": 128, "diameter_mm": (7, 9), "kinds": ("solid", "part-solid")}
COLOURS = [(255, 140, 30), (90, 170, 255), (240, 220, 60)]  # of the candidates
SIZE, ZOOM, SCALE = 56, 3, 4  # of a crop; of its picture; of the slice's
SCORES = (-1.5, 2.5, -3.0)  # of the judge, chosen by hand: no network is trained here


def bright_blobs(grey: NDArray) -> NDArray:
    """A filter in place of a trained proposer: brighter than its surroundings, at the size of a nodule."""
    excess = gaussian_filter(grey, 2) - gaussian_filter(grey, 8)
    return 1 / (1 + np.exp(-40 * (excess - 0.16)))


def outlined(picture: Image.Image, corners: tuple[float, ...], scale: int, colour: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = corners
    edges = [scale * n for n in (x0, y0, x1 + 1, y1 + 1)]
    ImageDraw.Draw(picture).rectangle(edges, outline=colour, width=4)


def tinted(image: NDArray, chance: NDArray, scale: int) -> Image.Image:
    weight = 0.6 * enlarge(chance, scale)[..., None]
    return Image.fromarray(((1 - weight) * enlarge(to_rgb(image), scale) + weight * np.array(FRAME)).astype(np.uint8))


def way() -> Image.Image:
    """One slice from its proposals to its map."""
    slice_ = phantom_crops(np.random.default_rng(SEED), **OPTIONS)[0]
    grey, truth = hu_to_unit(slice_.hu), slice_.target.astype(float)
    proposals = propose(bright_blobs(grey), most=3)
    crops = [crop_at(grey, p.box, SIZE) for p in proposals]
    masks = [stand_in(c, grey, truth) for c in crops]
    first = Image.fromarray(enlarge(to_rgb(grey), SCALE))
    strip, prompted = (Image.new("RGB", (SIZE * ZOOM, 128 * SCALE), "white") for _ in range(2))
    gap = (128 * SCALE - 3 * SIZE * ZOOM) // 2
    for n, (p, c, m) in enumerate(zip(proposals, crops, masks, strict=True)):
        outlined(first, p.box, SCALE, COLOURS[n])
        tile, drawn = Image.fromarray(enlarge(to_rgb(c.pixels), ZOOM)), tinted(c.pixels, m, ZOOM)
        outlined(tile, c.box, ZOOM, COLOURS[n])
        at = (0, n * (SIZE * ZOOM + gap))
        strip.paste(tile, at)
        prompted.paste(drawn, at)
    final = slice_map([c.paste(m, grey.shape) >= 0.5 for c, m in zip(crops, masks, strict=True)], SCORES)
    tiles = [first, strip, prompted, tinted(grey, final, SCALE)]
    return panels_of(tiles, ["1. propose", "2. crop", "3. prompt", "4. judge"])


def stand_in(crop: Crop, grey: NDArray, truth: NDArray) -> NDArray:
    """A mask in place of a trained MedSAM's: the lesion, or else what is bright in the box."""
    lesion = crop.cut(truth)
    if lesion.max() > 0.5:
        return gaussian_filter(lesion, 1)
    x0, y0, x1, y1 = (round(n) for n in crop.box)
    bright = np.zeros_like(crop.pixels)
    bright[y0 : y1 + 1, x0 : x1 + 1] = crop.pixels[y0 : y1 + 1, x0 : x1 + 1] > grey.mean() + 0.2
    return gaussian_filter(bright, 1)


def panels_of(tiles: list[Image.Image], titles: list[str], gap: int = 60) -> Image.Image:
    """Pictures of different widths in a row, with arrows between them and scores under the third."""
    picture, draw = canvas(sum(t.width for t in tiles) + gap * (len(tiles) - 1), tiles[0].height + 50)
    left = 0
    for n, (tile, title) in enumerate(zip(tiles, titles, strict=True)):
        words(draw, left + tile.width / 2, 24, title, 30)
        picture.paste(tile, (left, 50))
        if n == 2:
            for row, score in enumerate(SCORES):
                draw.text((left + 8, 56 + row * 172), f"s = {score:+.1f}", "white", font(26))
        left += tile.width + gap
        if n + 1 < len(tiles):
            arrow(draw, (left - gap + 10, 50 + tile.height / 2), (left - 10, 50 + tile.height / 2))
    return picture


def network() -> Image.Image:
    """MedSAM in the middle, what is added around it."""
    picture, draw = canvas(1600, 760)
    box(draw, 150, 330, 240, 90, "CT crop", BLUE)
    box(draw, 150, 120, 240, 90, "further scans,\nif there", PINK)
    box(draw, 150, 520, 240, 70, "box", BLUE)
    box(draw, 150, 640, 240, 90, "the proposer's\nlogits", BLUE)
    box(draw, 700, 330, 250, 90, "image encoder\n(LoRA on q, v)", GREEN)
    box(draw, 700, 580, 250, 150, "prompt\nencoder", GREEN)
    box(draw, 700, 120, 250, 90, "BiomedCLIP\n(frozen)", PURPLE)
    box(draw, 1240, 450, 200, 120, "mask\ndecoder", GREEN)
    for y, text in ((400, "mask"), (500, "IoU")):
        box(draw, 1500, y, 160, 70, text, YELLOW)
        arrow(draw, (1340, y), (1420, y))
    box(draw, 1500, 120, 160, 90, "similarity\nto texts", YELLOW)
    # tokens
    arrow(draw, (270, 330), (430, 330))
    arrow(draw, (150, 165), (150, 230), (450, 230), (450, 310))
    plus(draw, 450, 330)
    words(draw, 165, 252, "PE_k, begins at 0", 24, "lm")
    arrow(draw, (470, 330), (575, 330))
    arrow(draw, (380, 330), (380, 120), (575, 120))
    arrow(draw, (270, 520), (575, 520))
    arrow(draw, (270, 640), (575, 640))
    # additions of BiomedCLIP
    arrow(draw, (825, 330), (980, 330))
    plus(draw, 1000, 330)
    arrow(draw, (1000, 120), (1000, 310))
    words(draw, 1010, 230, "W_v, begins at 0", 24, "lm")
    arrow(draw, (1020, 330), (1240, 330), (1240, 390))
    words(draw, 1130, 308, "E'", 26)
    draw.line((825, 120, 1200, 120), fill=(40, 40, 40), width=3)
    arrow(draw, (1200, 120), (1420, 120))
    arrow(draw, (940, 120), (940, 500))
    words(draw, 930, 440, "W_z, begins at 0", 24, "rm")
    plus(draw, 940, 520)
    arrow(draw, (825, 520), (920, 520))
    arrow(draw, (960, 520), (1050, 520), (1050, 470), (1140, 470))
    words(draw, 1060, 540, "sparse'", 26)
    arrow(draw, (825, 640), (1240, 640), (1240, 510))
    words(draw, 1050, 665, "dense", 26)
    words(draw, 800, 730, "green: MedSAM        circles: sums, which change nothing before training", 26)
    return picture


def pet() -> Image.Image:
    """Ground glass of four sizes in CT and PET."""
    tiles, titles = [], []
    for diameter in (4, 6, 9, 15):
        options = {"num": 1, "kinds": ("ground-glass",), "diameter_mm": (diameter, diameter), "pet": True}
        crop = phantom_crops(np.random.default_rng(21), **options)[0]
        pair = Image.new("RGB", (380, 760))
        for n, image in enumerate((hu_to_unit(crop.hu), pet_to_unit(crop.pet, highest=3.0))):
            tile = Image.fromarray(to_rgb(image)).resize((380, 380), Image.Resampling.NEAREST)
            y, x = np.nonzero(crop.target)
            corners = [380 / 64 * v for v in (x.min() - 4, y.min() - 4, x.max() + 5, y.max() + 5)]
            ImageDraw.Draw(tile).rectangle(corners, outline=COLOURS[0], width=3)
            pair.paste(tile, (0, 380 * n))
        ImageDraw.Draw(pair).line((0, 380, 380, 380), fill=GREY, width=4)
        tiles.append(pair)
        titles.append(f"{diameter} mm")
    return panels(tiles, titles, columns=4, gap=16, size=30)


def main() -> int:
    way().quantize(256, dither=Image.Dither.NONE, method=Image.Quantize.MAXCOVERAGE).save(
        IMG / "refiner.png", optimize=True
    )
    save(network(), IMG / "refiner_network.png")
    save(pet(), IMG / "refiner_pet.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
