"""Draw docs/img/folder.png: slices of a folder of phantoms with their outlines."""

import tempfile
from pathlib import Path

from lungseg.data.manifest import read_manifest
from lungseg.data.phantoms.folders import write_phantom_folder
from lungseg.data.slices import read_slice
from lungseg.draw import contact_sheet, overlay

with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch, "phantoms")
    write_phantom_folder(folder, num_patients=8, slices_per_patient=1, size=176, seed=2, diameter_mm=(12.0, 30.0))
    tiles, captions = [], []
    for record in read_manifest(folder):
        image, target = read_slice(folder, record)
        tiles.append(overlay(image, target))
        captions.append(f"{record.id}, {record.split}\n{record.label}, {target.sum()} px")
sheet = contact_sheet([tiles[:4], tiles[4:]], captions=[captions[:4], captions[4:]], scale=2, font_size=26)
sheet.quantize(160).save("docs/img/folder.png", optimize=True)
