"""Draw docs/img/diagnose.png: phantoms with one thing broken in each, and what the examination says about it."""

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw

from lungseg.data.ct import hu_to_unit
from lungseg.data.phantoms.scene import phantom_crops
from lungseg.doctor.finding import FAULT, OK
from lungseg.doctor.fit import fit_finding
from lungseg.doctor.values import image_finding, target_finding, token_finding
from lungseg.draw import INK, TARGET, contact_sheet, enlarge, font, overlay, to_rgb

TILE, TEXT, PATCH = 512, 24, 16
COLOURS = {OK: (0, 120, 60), FAULT: (190, 30, 30)}


def crops(diameter_mm):
    """Images and targets of 24 phantom patients: (24, 1, 64, 64) each."""
    drawn = [
        phantom_crops(np.random.default_rng([7, p]), num=1, size=64, diameter_mm=diameter_mm)[0] for p in range(24)
    ]
    images = np.stack([hu_to_unit(s.hu) for s in drawn])
    return torch.from_numpy(images)[:, None], torch.from_numpy(np.stack([s.target for s in drawn])).float()[:, None]


def panel(title, images, targets, finding, grid=0):
    """The first image with what counts as lesion in green; below it the title, the verdict and the cause."""
    grey, lesion = images[0, 0].numpy(), targets[0, 0].numpy() > 0.5
    rgb = to_rgb(grey)
    rgb[lesion] = 0.8 * rgb[lesion] + 0.2 * np.array(TARGET)
    tile = Image.fromarray(enlarge(overlay(rgb, lesion, scale=TILE // 128), 2))
    sheet = Image.new("RGB", (TILE, TILE + 5 * 32), "white")
    sheet.paste(tile, (0, 0))
    draw, large = ImageDraw.Draw(sheet), font(TEXT)
    for x in range(0, TILE, grid * TILE // 64) if grid else ():
        draw.line((x, 0, x, TILE), (86, 180, 233), 2)
        draw.line((0, x, TILE, x), (86, 180, 233), 2)
    draw.text((0, TILE + 6), title, INK, large)
    colour = COLOURS.get(finding.verdict, (170, 90, 0))
    says = f"{finding.verdict}: {finding.name}" + (f"; {finding.cause}" if finding.cause else "")
    draw.multiline_text((0, TILE + 38), "\n".join(textwrap.wrap(says, 42)[:4]), colour, large)
    return sheet


images, targets = crops((12.0, 22.0))
small = crops((4.0, 6.0))
mirrored = targets.flip(-1)
panels = [
    panel("as it should be", images, targets, fit_finding(images, targets)),
    panel("levels 0 to 255", 255 * images, targets, image_finding(255 * images)),
    panel("air is white", 1 - images, targets, fit_finding(1 - images, targets)),
    panel("0 is lesion", images, 1 - targets, target_finding(1 - targets)),
    panel("masks mirrored", images, mirrored, fit_finding(images, mirrored)),
    panel(f"tokens of {PATCH} x {PATCH} pixels", *small, token_finding(small[1], PATCH), grid=PATCH),
]
sheet = contact_sheet([panels[:3], panels[3:]])
sheet.quantize(224).save("docs/img/diagnose.png", optimize=True)
