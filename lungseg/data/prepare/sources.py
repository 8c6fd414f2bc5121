"""What users have, rows of a pickled table or pairs of pictures, converted to slices that the folder can hold.

Every slice is clipped to its range of values, resized to one size, and recorded with what is known about it: patient,
label, pixel size, and its original size in pixels.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lungseg.data.ct import HU_WINDOW, hu_to_grey, resize_image, resize_target
from lungseg.data.headers import cell_text
from lungseg.data.manifest import ImageRecord
from lungseg.data.pickles.table import read_table
from lungseg.data.prepare.columns import read_patients, read_spacings
from lungseg.data.prepare.order import compile_order_pattern, find_place, read_places
from lungseg.data.prepare.pictures import (
    ALL_HU,
    compile_patient_pattern,
    find_pairs,
    find_patient,
    read_image,
    read_mask,
    shared_range,
)
from lungseg.data.splits import comparison_grid, fine_structure

Range = tuple[float, float]  # (low, high), of HU or of grey levels


@dataclass
class Slice:
    """One slice, ready to be written."""

    record: ImageRecord  # its group is the patient, "" if unknown; its split is not decided yet
    image: NDArray  # (size, size) uint8 or uint16
    target: NDArray[np.uint8]  # (size, size) in {0, 1}, or labels of lesion classes
    pattern: NDArray[np.float32]  # to find similar slices: lungseg.data.splits.fine_structure
    vanished: bool  # its lesion is smaller than half a pixel of the new size

    @property
    def source_size(self) -> tuple[int, int]:
        """(H, W) in pixels before it was resized."""
        size = self.record.source_size
        assert size is not None  # `SliceFormat.make` has recorded it
        return size


@dataclass(frozen=True)
class SliceFormat:
    """The size and depth that all slices are converted to."""

    size: int  # side in pixels
    bits: int  # 8 or 16

    def make(
        self,
        values: NDArray,
        mask: NDArray,
        value_range: Range,
        spacing_mm: float,
        *,
        id: str,
        group: str,
        label: str = "",
    ) -> Slice:
        """Clip, resize and convert one slice.

        Clipping comes first, so that -2048 outside the scanner's circle cannot bleed into its neighbours.

        Args:
            values, mask: (H, W), HU or grey levels, and a map that is above 0 in the lesion.
            value_range: the values of black and white.
            spacing_mm: side of a pixel of `values`; NaN if unknown.
            id, group, label: of the record.

        Raises:
            ValueError: unless both arrays are (H, W) with the same shape.
        """
        if np.ndim(values) != 2 or np.shape(values) != np.shape(mask):
            raise ValueError(
                f"expected an image and a mask of one shape (H, W), got {np.shape(values)} and {np.shape(mask)}."
            )
        (height, width), size = values.shape, self.size
        clipped = np.clip(np.asarray(values, dtype=np.float32), *value_range)
        image = hu_to_grey(resize_image(clipped, (size, size)), value_range, self.bits)
        lesion = (np.asarray(mask) > 0).astype(np.uint8)
        target = resize_target(lesion, (size, size))
        spacing = spacing_mm * height / size if height == width else math.nan  # stretched: no single number is right
        source = {"source_height": height, "source_width": width}
        record = ImageRecord(id, group, "", label, spacing, bits=self.bits, **source)
        return Slice(record, image, target, fine_structure(clipped), bool(lesion.any() and not target.any()))


# ---- tables -----------------------------------------------------------------------------------------------------


def read_table_slices(
    path: str | Path,
    slice_format: SliceFormat,
    *,
    prefix: str,
    start: int,
    column: str,
    group: str | None,
    spacing: str | None,
    series: str | None = None,
    slice_index: str | None = None,
) -> tuple[list[Slice], list[str]]:
    """All rows of one table as slices, and a sentence for each column that was used or ignored.

    The cells of a row are freed once it is converted.

    Args:
        prefix, start: a slice's id is the prefix and the number of its row, counted from `start`.
        column: the column with HU.
        group, spacing: the columns with patients and pixel sizes, see `read_patients` and `read_spacings`.
        series, slice_index: the columns with the scan and the number of the slice, see `read_places`.

    Raises:
        ValueError: in one sentence that names the file, and the row if a single row is wrong.
    """
    table = read_table(path, required=("mask", column))
    if not table["mask"]:
        raise ValueError(f"{path} holds no rows. Give a table with at least one slice.")
    patients, notes = read_patients(path, table, group)
    spacings, more_notes = read_spacings(path, table, spacing)
    places, order_notes = read_places(path, table, series, slice_index)
    hus, masks = table.pop(column), table.pop("mask")
    labels = table.pop("label1", [""] * len(hus))
    del table  # frees the other HU column, half of the memory
    slices = []
    for row in tqdm(range(len(hus)), desc=Path(path).name, unit="slice", disable=None):
        hu, mask = hus[row], masks[row]
        hus[row] = masks[row] = None
        about = {"id": f"{prefix}{start + row:04d}", "group": patients[row], "label": cell_text(labels[row])}
        try:
            made = slice_format.make(hu, mask, HU_WINDOW, spacings[row], **about)
        except ValueError as error:
            raise ValueError(f"{path}, row {row}: {error}") from None
        made.record = replace(made.record, series=places[row][0], slice_index=places[row][1])
        slices.append(made)
    return slices, notes + more_notes + order_notes


# ---- pictures ---------------------------------------------------------------------------------------------------


def read_picture_slices(
    folder: str | Path,
    slice_format: SliceFormat,
    *,
    images: str,
    masks: str,
    patient_from: str | None = None,
    order_from: str | None = None,
    hu_window: Range | None = None,
    spacing_mm: float = math.nan,
) -> tuple[list[Slice], list[str]]:
    """All pairs that `lungseg.data.prepare.pictures.find_pairs` finds, and sentences about what was found and decided.

    Args:
        patient_from: a regular expression whose first group is the patient, searched for in the path of the image.
        order_from: one whose two groups are the scan and the number of the slice, likewise.
        hu_window: HU of black and white, if known. It is recorded, and changes no picture.
        spacing_mm: side of a pixel of all pictures.

    Raises:
        ValueError: in one sentence that names the file.
    """
    folder = Path(folder)
    pattern = None if patient_from is None else compile_patient_pattern(patient_from)
    order = None if order_from is None else compile_order_pattern(order_from)
    pairs, alone = find_pairs(folder, images, masks)
    patients = ["" if pattern is None else find_patient(image.relative_to(folder), pattern) for _, image, _ in pairs]
    places = [("", None) if order is None else find_place(image.relative_to(folder), order) for _, image, _ in pairs]
    deep_range = shared_range([image for _, image, _ in pairs])
    if deep_range == ALL_HU and hu_window:
        raise ValueError(f"{folder}: the pictures hold HU, so --hu-window is not needed. Leave it out.")
    low, high = hu_window or HU_WINDOW
    slices, findings = [], PictureFindings()
    bar = tqdm(pairs, desc=folder.name, unit="slice", disable=None)
    for (name, image, mask), patient, (series, number) in zip(bar, patients, places, strict=True):
        values, target = findings.read(image, mask)
        value_range = black_and_white(values, deep_range)
        try:
            made = slice_format.make(values, target, value_range, spacing_mm, id=make_id(name), group=patient)
        except ValueError as error:
            raise ValueError(f"{image} and {mask}: {error}") from None
        made.record = replace(made.record, hu_low=low, hu_high=high, series=series, slice_index=number)
        slices.append(made)
    findings.refuse_swapped(folder, len(pairs))
    return slices, [*findings.describe(folder, alone), *describe_ranges(deep_range, hu_window)]


def black_and_white(values: NDArray, deep_range: Range | None) -> Range:
    """The values of black and white in a picture; `deep_range` comes from `shared_range`."""
    if values.dtype == np.uint8:
        return 0.0, 255.0
    assert deep_range is not None  # this picture has more than 8 bits
    return HU_WINDOW if deep_range == ALL_HU else deep_range


def make_id(name: str) -> str:
    """The name of a pair as an id, without characters that a file name cannot have."""
    return re.sub(r"[^\w.()+ -]", "_", name).strip(" .") or "slice"


@dataclass
class PictureFindings:
    """What was noticed while pairs of pictures were read."""

    coloured: list[Path] = field(default_factory=list)  # images
    shaded: list[Path] = field(default_factory=list)  # masks with shades of grey
    two_valued: int = 0  # images with only two values, as masks have

    def read(self, image: Path, mask: Path) -> tuple[NDArray, NDArray[np.uint8]]:
        """Read one pair (grey levels, lesion map), and remember what is unusual about it."""
        values, has_colours = read_image(image)
        target, has_shades = read_mask(mask)
        self.coloured += [image] if has_colours else []
        self.shaded += [mask] if has_shades else []
        self.two_valued += len(np.unique(values)) == 2
        return values, target

    def refuse_swapped(self, folder: Path, num_pairs: int) -> None:
        """Raise a ValueError if most images look like masks and most masks look like images."""
        if min(self.two_valued, len(self.shaded)) > num_pairs / 2:
            raise ValueError(
                f"{folder}: most images have two values, as masks have, and most masks have shades of grey, as images "
                f"have. Are --images and --masks swapped?"
            )

    def describe(self, folder: Path, alone: list[str]) -> list[str]:
        """A sentence each on files without a partner, images with colours, and masks with shades."""
        notes = []
        if alone:
            shown = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            notes.append(f"{folder}: files without a partner, left out: {len(alone)} ({shown}).")
        if self.coloured:
            notes.append(
                f"Coloured images, converted to grey: {len(self.coloured)}, such as {self.coloured[0]}. Check them for "
                f"marks that somebody has drawn: a network would learn these."
            )
        if self.shaded:
            notes.append(
                f"Masks with shades between black and their brightest value: {len(self.shaded)}, such as "
                f"{self.shaded[0]}. Everything above half of that value is lesion."
            )
        return notes


def describe_ranges(deep_range: Range | None, hu_window: Range | None) -> list[str]:
    """Sentences on what black and white mean in the pictures."""
    if deep_range == ALL_HU:
        return ["Pictures with numbers below 0 were read as HU."]
    notes = [] if deep_range is None else [f"In pictures of more than 8 bits, white is {deep_range[1]:g}."]
    if hu_window is None:
        notes.append(
            f"The HU of black and white are unknown: the manifest says {HU_WINDOW[0]:g} and {HU_WINDOW[1]:g}, which is "
            f"a guess (state them with --hu-window LOW HIGH). A network trained on these pictures knows grey levels, "
            f"not HU."
        )
    return notes


# ---- all slices --------------------------------------------------------------------------------------------------


def comparison_patterns(slices: Sequence[Slice]) -> tuple[list[NDArray[np.float32]], tuple[int, int]]:
    """Patterns on one grid, to find similar slices, and the grid. If the slices had several sizes, of their images."""
    sizes = {s.source_size for s in slices}
    if len(sizes) == 1:
        return [s.pattern for s in slices], comparison_grid(sizes.pop())
    return [fine_structure(s.image) for s in slices], comparison_grid(slices[0].image.shape)


def make_ids_unique(slices: Sequence[Slice]) -> None:
    """Append _2, _3, ... to ids that occur again: pictures in two folders may have the same name.

    Ids that differ only in case count as equal, since some systems treat them as one file.
    """
    used: set[str] = set()
    for s in slices:
        id_, number = s.record.id, 1
        while id_.casefold() in used:
            number += 1
            id_ = f"{s.record.id}_{number}"
        s.record = replace(s.record, id=id_)
        used.add(id_.casefold())
