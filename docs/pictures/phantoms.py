"""Draw docs/img/phantoms.png and phantoms_*.png: synthetic chests, their parts and their nodules."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.anatomy import sample_thorax
from lungseg.data.phantoms.nodules import KINDS
from lungseg.data.phantoms.painting import paint_thorax
from lungseg.data.phantoms.raster import Grid, reconstruction_noise, rods_coverage
from lungseg.data.phantoms.scene import MIDDLE, phantom_crops, phantom_patient
from lungseg.draw import PRED, TARGET, contact_sheet, heatmap, overlay

IMG = Path(__file__).resolve().parents[1] / "img"


def save(sheet: Image.Image, name: str, greys: int = 40) -> None:
    """As a small PNG: this many greys and the two outline colours."""
    palette = Image.new("P", (1, 1))
    levels = np.linspace(0, 255, greys).astype(np.uint8)
    palette.putpalette(bytes(np.repeat(levels, 3)) + bytes(TARGET) + bytes(PRED))
    sheet.quantize(palette=palette, dither=Image.Dither.NONE).save(IMG / name, optimize=True)


def slices() -> None:
    """Three slices of one patient, with the outline of the lesion; below, three other patients."""
    stack = phantom_patient(np.random.default_rng(4), size=208, field_of_view_mm=350, diameter_mm=(18, 26))
    top = [overlay(hu_to_grey(s.hu), s.target) for s in stack[1::2]]
    bottom = []
    for seed in (1, 9, 23):
        other = phantom_patient(np.random.default_rng(seed), num_slices=1, size=208, field_of_view_mm=350)[0]
        bottom.append(overlay(hu_to_grey(other.hu), other.target))
    captions = [[f"patient A, slice {s.slice_index}" for s in stack[1::2]], [f"patient {p}" for p in "BCD"]]
    save(contact_sheet([top, bottom], captions=captions, scale=2, font_size=28), "phantoms.png")


def nodules() -> None:
    """Five kinds, small to large."""
    rows = []
    for k, kind in enumerate(KINDS):
        row = []
        for i, diameter in enumerate((4, 7, 11, 16, 22, 28)):
            rng = np.random.default_rng([k, i])
            window = phantom_crops(rng, num=1, diameter_mm=(diameter, diameter), kinds=[kind])[0]
            row.append(overlay(hu_to_grey(window.hu), window.target if i % 2 else None))
        rows.append(row)
    sizes = [f"{d} mm" for d in (4, 7, 11, 16, 22, 28)]
    save(contact_sheet(rows, row_labels=KINDS, column_labels=sizes, scale=3, font_size=28), "phantoms_nodules.png")


def heights() -> None:
    """One patient without noise at six heights."""
    thorax, grid = sample_thorax(np.random.default_rng(3)), Grid((190, 190), 1.9, MIDDLE)
    zs = (40, 70, 95, 120, 145, 185)
    tiles = [hu_to_grey(paint_thorax(thorax, grid, float(z))) for z in zs]
    names = [f"z = {z} mm" for z in zs]
    save(
        contact_sheet([tiles[:3], tiles[3:]], captions=[names[:3], names[3:]], scale=2, font_size=28),
        "phantoms_heights.png",
    )


def lungs() -> None:
    """The signed distance to the lungs: purple inside, yellow far outside, white the border."""
    thorax, grid = sample_thorax(np.random.default_rng(3)), Grid((190, 190), 1.9, MIDDLE)
    tiles = []
    for z in (60.0, 110.0, 165.0):
        d = thorax.lung_distance(grid.x, grid.y, z)
        picture = heatmap(d, -50, 60)
        picture[np.abs(d) < grid.spacing / 2] = 255
        tiles.append(picture)
    sheet = contact_sheet([tiles], column_labels=["z = 60 mm", "z = 110 mm", "z = 165 mm"], scale=2, font_size=28)
    sheet.quantize(128).save(IMG / "phantoms_lungs.png", optimize=True)


def tree() -> None:
    """All vessels seen from the front, and what a slice meets of them."""
    thorax, scale = sample_thorax(np.random.default_rng(3)), 3
    front = Image.new("L", (270 * scale, 270 * scale), 0)
    pen = ImageDraw.Draw(front)
    v = thorax.vessels
    for i in np.argsort(-v.start[:, 1]):  # from the back to the front
        ends = [((p[0] + 135) * scale, (p[2] - 5) * scale) for p in (v.start[i], v.stop[i])]
        shade = int(np.clip(190 - 1.1 * v.start[i, 1], 70, 255))
        pen.line([*ends[0], *ends[1]], fill=shade, width=max(1, round(2 * v.r0[i] * scale)))
    front = front.resize((540, 540), Image.Resampling.LANCZOS)
    grid = Grid((540, 540), 1 / 2, (0.0, 0.0))
    tiles = [front, *(heatmap(rods_coverage(grid, z, v)) for z in (80.0, 110.0))]
    names = ["from the front", "cut at z = 80 mm", "cut at z = 110 mm"]
    contact_sheet([tiles], column_labels=names, font_size=28).quantize(64).save(
        IMG / "phantoms_tree.png", optimize=True
    )


def noise() -> None:
    """White noise, and the noise of a soft and of a sharp reconstruction kernel, equally strong."""
    white = np.random.default_rng(0).normal(0, 30, (160, 160))
    tiles = [white]
    for peak in (0.1, 0.26):
        tiles.append(reconstruction_noise((160, 160), 0.7, hu=30, peak=peak, rng=np.random.default_rng(0)))
    tiles = [np.clip(t / 200 + 0.5, 0, 1) for t in tiles]
    names = ["white", "peak 0.1 cycles per mm", "peak 0.26 cycles per mm"]
    save(contact_sheet([tiles], column_labels=names, scale=3, font_size=28), "phantoms_noise.png")


def main() -> int:
    for draw in (slices, nodules, heights, lungs, tree, noise):
        draw()
    return 0


if __name__ == "__main__":
    sys.exit(main())
