"""What users have, as slices that the folder can take: rows of a pickled table, or pairs of pictures.

Every slice is clipped to its window, resized to one size and written down with what is known of it: its patient, its
label, the size of its pixels, and how many of them it had before.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.data.ct import HU_WINDOW, hu_to_grey, resize_image, resize_target
from lungseg.data.manifest import ImageRecord
from lungseg.data.pickles.table import read_table
from lungseg.data.prepare.columns import cell_text, read_patients, read_spacings
from lungseg.data.prepare.pictures import find_pairs, find_patient, read_image, read_mask, shared_range
from lungseg.data.splits import cells_of, fine_structure

Window = tuple[float, float]


@dataclass
class Slice:
    """One slice, ready to be written."""

    record: ImageRecord  # its group is the patient, "" if not named; its split is not known yet
    image: NDArray  # (size, size) uint8 or uint16
    target: NDArray[np.uint8]  # (size, size) in {0, 1}, or labels of lesion classes
    pattern: NDArray[np.float32]  # to find its like: lungseg.data.splits.fine_structure
    vanished: bool  # its lesion is smaller than half a pixel of the new size


@dataclass(frozen=True)
class SliceFormat:
    """What all slices are brought to."""

    size: int  # side in pixels
    bits: int  # 8 or 16

    def make(self, values: NDArray, mask: NDArray, window: Window, spacing_mm: float, **about: str) -> Slice:
        """Clip to the window first, so that -2048 outside the scanner's circle cannot bleed into the rest."""
        if np.ndim(values) != 2 or np.shape(values) != np.shape(mask):
            raise ValueError(f"the image is {np.shape(values)} and the mask {np.shape(mask)}; both must be one (H, W).")
        (height, width), size = values.shape, self.size
        clipped = np.clip(np.asarray(values, dtype=np.float32), *window)
        image = hu_to_grey(resize_image(clipped, (size, size)), window, self.bits)
        lesion = (np.asarray(mask) > 0).astype(np.uint8)
        target = resize_target(lesion, (size, size))
        spacing = spacing_mm * height / size if height == width else math.nan  # stretched: no one number is right
        size_ = {"source_height": height, "source_width": width}
        record = ImageRecord(split="", spacing_mm=spacing, bits=self.bits, **size_, **about)
        return Slice(record, image, target, fine_structure(clipped), bool(lesion.any() and not target.any()))


# ---- tables -----------------------------------------------------------------------------------------------------


def read_table_slices(
    path: str | Path, form: SliceFormat, *, prefix: str, start: int, column: str, group: str | None, spacing: str | None
) -> tuple[list[Slice], list[str]]:
    """All the rows of one table; each is let go once it is converted, so the memory needed only shrinks.

    Args:
        prefix, start: the slices are called by them and their row.
        column: the one with HU.
        group: the column that names the patient, "none" for none; None looks for one of a usual name.
        spacing: side of a pixel in mm, or the column that holds it, "none" for unknown; None looks for a column.

    Returns:
        The slices, and a sentence for each column that was used or could not be.

    Raises:
        ValueError: in one sentence that names the file, and the row if it is one row that is wrong.
    """
    table = read_table(path, required=("mask", column))
    if not table["mask"]:
        raise ValueError(f"{path} holds no rows. Give a table with at least one slice.")
    patients, told = read_patients(path, table, group)
    spacings, told_too = read_spacings(path, table, spacing)
    hus, masks = table.pop(column), table.pop("mask")
    labels = table.pop("label1", [""] * len(hus))
    del table  # drops the other HU column, half of the memory
    slices = []
    for row in tqdm(range(len(hus)), desc=Path(path).name, unit="slice", disable=None):
        hu, mask = hus[row], masks[row]
        hus[row] = masks[row] = None
        about = {"id": f"{prefix}{start + row:04d}", "group": patients[row], "label": cell_text(labels[row])}
        try:
            slices.append(form.make(hu, mask, HU_WINDOW, spacings[row], **about))
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
    return slices, told + told_too


# ---- pictures ---------------------------------------------------------------------------------------------------


def read_picture_slices(
    folder: str | Path,
    form: SliceFormat,
    *,
    images: str,
    masks: str,
    patient_from: str | None = None,
    hu_window: Window | None = None,
    spacing_mm: float = math.nan,
) -> tuple[list[Slice], list[str]]:
    """All pairs of `lungseg.data.prepare.pictures.find_pairs`, with the names found there as their ids.

    Args:
        patient_from: a regular expression whose first group is the patient, found in the path of the image.
        hu_window: HU of black and white, if known. It is written down and changes no picture.
        spacing_mm: side of a pixel, of all pictures.

    Returns:
        The slices, and sentences about what was found and decided.

    Raises:
        ValueError: in one sentence that names the file.
    """
    folder = Path(folder)
    pattern = None if patient_from is None else compile_patient_pattern(patient_from)
    pairs, alone = find_pairs(folder, images, masks)
    patients = ["" if pattern is None else find_patient(image.relative_to(folder), pattern) for _, image, _ in pairs]
    deep_window = shared_range([image for _, image, _ in pairs])
    in_hu = deep_window == (-math.inf, math.inf)
    if in_hu and hu_window:
        raise ValueError(f"{folder}: its pictures hold HU, so black and white need no HU. Leave --hu-window out.")
    written = hu_window or HU_WINDOW
    slices, coloured, shaded, flat = [], [], [], 0
    bar = tqdm(pairs, desc=folder.name, unit="slice", disable=None)
    for (name, image, mask), patient in zip(bar, patients, strict=True):
        values, colours = read_image(image)
        target, shades = read_mask(mask)
        coloured += [image] if colours else []
        shaded += [mask] if shades else []
        flat += len(np.unique(values)) == 2
        window = (0.0, 255.0) if values.dtype == np.uint8 else HU_WINDOW if in_hu else deep_window
        id_ = re.sub(r"[^\w.()+ -]", "_", name).strip(" .") or "slice"
        about = {"id": id_, "group": patient, "label": ""}
        try:
            made = form.make(values, target, window, spacing_mm, **about)
        except ValueError as error:
            raise ValueError(f"{image} and {mask}: {error}") from None
        made.record = replace(made.record, hu_low=written[0], hu_high=written[1])
        slices.append(made)
    if min(flat, len(shaded)) > len(pairs) / 2:
        raise ValueError(
            f"{folder}: most images have two values, as masks have, and most masks have shades of grey, as images "
            f"have. Are --images and --masks exchanged?"
        )
    notes = describe_files(folder, alone, coloured, shaded)
    if in_hu:
        return slices, [*notes, "Pictures with numbers below 0 were taken for HU."]
    if deep_window:
        notes.append(f"In pictures of more than 8 bits, white is {deep_window[1]:g}.")
    if hu_window is None:
        notes.append(
            f"What HU black and white are is unknown: the manifest says {HU_WINDOW[0]:g} and {HU_WINDOW[1]:g}, which "
            f"is a guess (--hu-window LOW HIGH states it). A network trained on these knows their grey levels, not HU."
        )
    return slices, notes


def compile_patient_pattern(text: str) -> re.Pattern:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(f"--patient-from {text} is no regular expression ({error}).") from None
    if not pattern.groups:
        raise ValueError(f"--patient-from {text} has no group. Put the patient in parentheses: 'images/([^_]+)_'.")
    return pattern


def describe_files(folder: Path, alone: list[str], coloured: list[Path], shaded: list[Path]) -> list[str]:
    """Files without a partner, images with colours, masks with shades."""
    notes = []
    if alone:
        shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        notes.append(f"{folder}: {len(alone)} files have no partner and were left out: {shown}.")
    if coloured:
        notes.append(
            f"{len(coloured)} images are coloured, such as {coloured[0]}, and were made grey. Marks that are drawn "
            f"into a picture would be learned: look for them."
        )
    if shaded:
        notes.append(
            f"{len(shaded)} masks have shades between black and their brightest value, such as {shaded[0]}: lesion is "
            f"what is above half of it."
        )
    return notes


# ---- all of them ------------------------------------------------------------------------------------------------


def comparison_patterns(slices: Sequence[Slice]) -> tuple[list[NDArray[np.float32]], tuple[int, int]]:
    """Patterns on one grid, and the grid. Where slices had several sizes, those of what will be written."""
    sizes = {s.record.source_size for s in slices}
    if len(sizes) == 1:
        return [s.pattern for s in slices], cells_of(sizes.pop())
    return [fine_structure(s.image) for s in slices], cells_of(slices[0].image.shape)


def make_ids_unique(slices: Sequence[Slice]) -> None:
    """Where an id stands twice, the later slice gets _2, _3, ...: pictures of two folders may have one name.

    Ids that differ only in capitals are one file on some systems.
    """
    used: set[str] = set()
    for s in slices:
        id_, number = s.record.id, 1
        while id_.casefold() in used:
            number += 1
            id_ = f"{s.record.id}_{number}"
        s.record = replace(s.record, id=id_)
        used.add(id_.casefold())
