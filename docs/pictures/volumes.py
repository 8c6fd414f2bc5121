"""Draw docs/img/volumes.png: slices of a phantom volume, and crops drawn anywhere, on lesions, and varied."""

import tempfile
from pathlib import Path

import numpy as np

from lungseg.data.augment import Augmentation
from lungseg.data.phantoms.folders import write_phantom_volumes
from lungseg.data.volumes import CropDataset, VolumeDataset
from lungseg.draw import contact_sheet, overlay

CROPS, SIZE = 7, (8, 32, 32)


def fullest(target: np.ndarray) -> int:
    """The slice of (D, H, W) with most lesion, the middle one if there is none."""
    areas = target.sum(axis=(1, 2))
    return int(areas.argmax()) if areas.any() else len(areas) // 2


with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch, "phantoms")
    write_phantom_volumes(folder, num_patients=3, seed=7)
    image, target, _ = VolumeDataset(folder, "train")[0]
    numbers = range(2, 32, 6)  # of the slices shown
    whole = [overlay(image[0, z].numpy(), target[0, z].numpy(), scale=1) for z in numbers]
    rows = []
    for foreground, augment in ((0.0, None), (1.0, None), (1.0, Augmentation(elastic_probability=1))):
        data = CropDataset(
            folder, "train", crop_size=SIZE, crops_per_volume=CROPS, foreground=foreground, augment=augment, seed=2
        )
        row = []
        for i in range(CROPS):
            crop, lesion, _ = data[i]
            z = fullest(lesion[0].numpy())
            row.append(overlay(crop[0, z].numpy(), lesion[0, z].numpy(), scale=2))
        rows.append(row)

slices = contact_sheet(
    [whole],
    captions=[[f"slice {z} of 32" for z in numbers]],
    row_labels=["one volume,\none lung"],
    scale=3,
    font_size=28,
)
crops = contact_sheet(
    rows, row_labels=["crops\nanywhere", "crops\non a lesion", "the same,\nturned\nand bent"], scale=3, font_size=28
)
sheet = contact_sheet([[slices], [crops]])
sheet.quantize(160).save("docs/img/volumes.png", optimize=True)
