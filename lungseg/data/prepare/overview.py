"""A prepared data set in about a dozen lines and one picture, to be looked at before training."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lungseg.data.manifest import SPLITS, ImageRecord
from lungseg.data.prepare.sources import Slice
from lungseg.data.slices import SliceWriter, read_slice
from lungseg.draw import contact_sheet, overlay, with_legend


def overview_lines(
    slices: Sequence[Slice], groups: Sequence[str], records: Sequence[ImageRecord], origin: str
) -> list[str]:
    """What to know before training, one fact per line: slices, labels, lesion sizes, patients.

    Args:
        slices: as they were read.
        groups: the group of each slice.
        records: of everything that was written, including augmented copies.
        origin: a description of where the slices come from.
    """
    first, size = records[0], slices[0].image.shape[0]
    hu_window = f"HU window {first.hu_low:g} to {first.hu_high:g}"
    return [
        f"{size} x {size} pixels, {first.bits} bits, {hu_window}, {describe_spacing(records)}",
        f"from {origin}",
        f"{len(slices)} slices read, {len(records) - len(slices)} augmented copies added",
        *count_labels(records),
        *describe_lesions(slices),
        *describe_groups(slices, groups),
        *describe_sizes(slices),
    ]


def count_labels(records: Sequence[ImageRecord]) -> list[str]:
    """A table of the number of slices with each label in each split."""
    counts = Counter((r.label or "(none)", r.split) for r in records)
    lines = ["label, with copies".ljust(20) + "".join(split.rjust(8) for split in SPLITS)]
    for label in sorted({label for label, _ in counts}):
        lines.append(label[:19].ljust(20) + "".join(f"{counts[label, split]:8d}" for split in SPLITS))
    return lines


def describe_lesions(slices: Sequence[Slice]) -> list[str]:
    """How large the lesions are, and how many slices have none."""
    lines = []
    sizes = [int(np.count_nonzero(s.target)) for s in slices if s.target.any()]
    if sizes:
        low, q1, median, q3, high = np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1])
        lines.append(f"lesion pixels: minimum {low:g}, quartiles {q1:g} / {median:g} / {q3:g}, maximum {high:g}")
    vanished = sum(s.vanished for s in slices)
    reason = f", {vanished} of them lost by shrinking: use a larger --size" if vanished else ""
    return [*lines, f"empty masks: {len(slices) - len(sizes)}{reason}"]


def describe_groups(slices: Sequence[Slice], groups: Sequence[str]) -> list[str]:
    """How many patients or groups there are, and a warning if one group of similar slices holds most slices."""
    largest = Counter(groups).most_common(1)[0][1]
    named = all(s.record.group for s in slices)
    kind = "patients" if named else "groups of similar slices"
    lines = [f"{kind}: {len(set(groups))}, the largest with {largest} slices"]
    if largest > len(slices) / 2 and len(set(groups)) > 1 and not named:
        lines.append("More than half of all slices form one group: if they show many patients, raise --threshold.")
    return lines


def describe_spacing(records: Sequence[ImageRecord]) -> str:
    """The pixel sizes of the written images."""
    known = [r.spacing_mm for r in records if r.spacing_mm == r.spacing_mm]  # nan != nan
    if not known:
        return "mm per pixel unknown (state it with --spacing-mm)"
    span = f"{min(known):.3g}" if min(known) == max(known) else f"{min(known):.3g} to {max(known):.3g}"
    unknown = len(records) - len(known)
    return f"{span} mm per pixel" + (f", unknown for {unknown}" if unknown else "")


def describe_sizes(slices: Sequence[Slice]) -> list[str]:
    """A sentence on the effect of resizing, unless all slices had one square size."""
    sizes = Counter(s.source_size for s in slices)
    if len(sizes) == 1 and all(height == width for height, width in sizes):
        return []
    shown = ", ".join(f"{n} of {height} x {width}" for (height, width), n in sizes.most_common(4))
    more, size = ", ..." if len(sizes) > 4 else "", slices[0].image.shape[0]
    sentence = f"The slices ({shown}{more} pixels) were each resized to {size} x {size}."
    if any(height != width for height, width in sizes):
        sentence += " Slices that are not square were stretched, and their pixel size is recorded as unknown."
    return [sentence]


def draw_sheet(out: SliceWriter, count: int = 24, columns: int = 6) -> Image.Image:
    """Slices from the whole folder, read back from disk, with lesions outlined in green (or by class)."""
    chosen = np.unique(np.linspace(0, len(out.records) - 1, count).round().astype(int))
    tiles, captions = [], []
    for record in (out.records[i] for i in chosen):
        image, target = read_slice(out.path, record, out.classes)
        tiles.append(overlay(image / (2**record.bits - 1), target, by_class=len(out.classes) > 1))
        captions.append(f"{record.id}, {record.split}\n{record.label or 'no label'}, {np.count_nonzero(target)} px")
    rows = [range(i, min(i + columns, len(tiles))) for i in range(0, len(tiles), columns)]
    sheet = contact_sheet([[tiles[i] for i in r] for r in rows], captions=[[captions[i] for i in r] for r in rows])
    return with_legend(sheet, out.classes) if len(out.classes) > 1 else sheet
