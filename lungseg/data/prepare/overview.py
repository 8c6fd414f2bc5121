"""A prepared data set in a dozen lines, to be read before anything is trained on it."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lungseg.data.manifest import SPLITS, ImageRecord
from lungseg.data.prepare.sources import Slice


def overview_lines(
    slices: Sequence[Slice], groups: Sequence[str], records: Sequence[ImageRecord], origin: str
) -> list[str]:
    """What to know before training: how many of what, how large, and from how many patients; one line each.

    Args:
        slices, groups: as they were read, and what belongs together.
        records: of all that was written, augmented copies too.
        origin: where it all came from, in words.
    """
    first, size = records[0], slices[0].image.shape[0]
    window = f"HU window {first.hu_low:g} to {first.hu_high:g}"
    lines = [f"{size} x {size} pixels, {first.bits} bits, {window}, {describe_spacing(records)}", f"from {origin}"]
    lines.append(f"{len(slices)} slices read, {len(records) - len(slices)} augmented copies added")
    counts = Counter((r.label or "(none)", r.split) for r in records)
    lines.append("label, with copies".ljust(20) + "".join(split.rjust(8) for split in SPLITS))
    for label in sorted({label for label, _ in counts}):
        lines.append(label[:19].ljust(20) + "".join(f"{counts[label, split]:8d}" for split in SPLITS))
    sizes = [int(np.count_nonzero(s.target)) for s in slices if s.target.any()]
    if sizes:
        low, q1, median, q3, high = np.quantile(sizes, [0, 0.25, 0.5, 0.75, 1])
        lines.append(f"lesion pixels: least {low:g}, quartiles {q1:g} / {median:g} / {q3:g}, most {high:g}")
    empty, vanished = len(slices) - len(sizes), sum(s.vanished for s in slices)
    lines.append(
        f"empty masks: {empty}" + (f", {vanished} of them by shrinking: use a larger --size" if vanished else "")
    )
    largest = Counter(groups).most_common(1)[0][1]
    kind = "patients" if all(s.record.group for s in slices) else "groups of like slices"
    lines.append(f"{kind}: {len(set(groups))}, the largest of {largest}")
    if largest > len(slices) / 2 and len(set(groups)) > 1 and kind != "patients":
        lines.append("More than half of all slices hang together: if they are many patients, raise --threshold.")
    return [*lines, *describe_sizes(slices)]


def describe_spacing(records: Sequence[ImageRecord]) -> str:
    """Of the pixels that are written."""
    known = [r.spacing_mm for r in records if r.spacing_mm == r.spacing_mm]  # nan != nan
    if not known:
        return "mm per pixel unknown (--spacing-mm states it)"
    span = f"{min(known):.3g}" if min(known) == max(known) else f"{min(known):.3g} to {max(known):.3g}"
    return f"{span} mm per pixel" + (f", unknown of {len(records) - len(known)}" if len(known) < len(records) else "")


def describe_sizes(slices: Sequence[Slice]) -> list[str]:
    """What resizing did, if it did not do the same to all."""
    sizes = Counter(s.record.source_size for s in slices)
    if len(sizes) == 1 and len(set(next(iter(sizes)))) == 1:
        return []
    shown = ", ".join(f"{n} of {height} x {width}" for (height, width), n in sizes.most_common(4))
    more, size = ", ..." if len(sizes) > 4 else "", slices[0].image.shape[0]
    told = f"The slices ({shown}{more} pixels) were each resized to {size} x {size}."
    if any(height != width for height, width in sizes):
        told += " Those that are not square were stretched, and the size of their pixels is given as unknown."
    return [told]
