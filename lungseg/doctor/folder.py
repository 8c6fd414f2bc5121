"""Findings about a folder of slices: what its check says, the splits, and slices that are nearly alike."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lungseg.data.classes import read_classes
from lungseg.data.manifest import SPLITS, ImageRecord, parse_manifest
from lungseg.data.slices import check_folder, read_slice
from lungseg.data.splits import comparison_grid, find_overlaps, fine_structure, link_similar_slices
from lungseg.doctor.finding import FAULT, OK, WARNING, Finding, counted
from lungseg.doctor.samples import spread_out

MOST_COMPARED = 300  # slices in the search for near-duplicates, whose cost grows with the square
MOST_SHOWN = 5  # sentences of the check


def examine_folder(folder: str | Path) -> tuple[list[Finding], list[ImageRecord], tuple[str, ...]]:
    """The findings, and the records and classes of what can be read.

    Raises:
        ValueError: if nothing can be read, so that there is nothing to examine.
    """
    folder = Path(folder)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        records, problems = parse_manifest(folder, "slices")
    if not records:
        raise ValueError(problems[0] if problems else f"{folder} holds no slice.")
    findings = [folder_finding(folder), split_finding(records), leak_finding(records)]
    try:
        classes = read_classes(folder)
    except ValueError:  # the check has named it
        classes = ()
    return [*findings, near_duplicate_finding(folder, records, classes)], records, classes


def folder_finding(folder: Path) -> Finding:
    """What `check_folder` says: its problems are faults, as training refuses them; its warnings are warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        problems = check_folder(folder)
    said = problems + [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    if not said:
        return Finding("folder", OK, "files, sizes, values and manifest fit together")
    details = [f"- {sentence}" for sentence in said[:MOST_SHOWN]]
    details += [f"- and {len(said) - MOST_SHOWN} more"] if len(said) > MOST_SHOWN else []
    verdict = FAULT if problems else WARNING
    measured = f"{counted(problems, 'problem')} and {counted(said[len(problems) :], 'warning')} of the check"
    return Finding("folder", verdict, measured, "see each line", "each line says what to do", tuple(details))


def split_finding(records: Sequence[ImageRecord]) -> Finding:
    """Slices and patients of each split; training needs train and val."""
    parts = []
    for split in SPLITS:
        of_split = [r for r in records if r.split == split]
        parts.append(f"{split} {len(of_split)} slices of {len({r.group for r in of_split})} patients")
    counts = Counter(r.split for r in records)
    measured = ", ".join(parts)
    if not (counts["train"] and counts["val"]):
        cure = "Put whole patients into train, val and test (column split of manifest.csv)."
        return Finding("splits", FAULT, measured, "a split that training needs is empty", cure)
    few = [s for s in SPLITS if counts[s] and len({r.group for r in records if r.split == s}) < 3]
    if few:
        cause = f"{' and '.join(few)} with one or two patients: the score depends on whom the split happened to take"
        return Finding("splits", WARNING, measured, cause, "Add patients, or repeat with other splits.")
    return Finding("splits", OK, measured)


def leak_finding(records: Sequence[ImageRecord]) -> Finding:
    """Patients (groups) in two splits."""
    groups = sorted({(r.group, r.split) for r in records})
    overlaps = find_overlaps([str(i) for i in range(len(groups))], *zip(*groups, strict=True))
    if not overlaps:
        return Finding("leak", OK, f"none of {len(groups)} patients is in two splits")
    twice = len({group for group, n in Counter(g for g, _ in groups).items() if n > 1})
    return Finding(
        "leak",
        FAULT,
        f"{twice} patient{'s are' if twice > 1 else ' is'} in two splits",
        f"{overlaps[0].split('. ')[0]}",
        "Split by patient before anything else (lungseg.data.splits.split_by_group).",
    )


def near_duplicate_finding(folder: Path, records: Sequence[ImageRecord], classes: Sequence[str]) -> Finding:
    """Slices of different splits and different groups that look alike: perhaps one patient under two names."""
    chosen = spread_out(records, MOST_COMPARED)
    patterns, kept, shape = [], [], None
    for record in chosen:
        try:
            image, _ = read_slice(folder, record, classes)
        except (ValueError, OSError):
            continue  # named by check_folder
        shape = shape or image.shape
        if image.shape == shape:
            patterns.append(fine_structure(image))
            kept.append(record)
    if shape is None or len(kept) < 2:
        return Finding("near-duplicates", WARNING, "not examined", "no two slices of one size could be read", "")
    linked = link_similar_slices(patterns, comparison_grid(shape))
    pairs = [
        (kept[i], kept[j])
        for i, j in np.argwhere(np.triu(linked, 1))
        if kept[i].split != kept[j].split and kept[i].group != kept[j].group
    ]
    of_how_many = f"{len(kept)} of {len(records)} slices compared"
    if not pairs:
        return Finding("near-duplicates", OK, f"none across splits ({of_how_many})")
    a, b = pairs[0]
    return Finding(
        "near-duplicates",
        WARNING,
        f"{counted(pairs, 'pair')} across splits ({of_how_many})",
        f"such as {a.id} in {a.split} and {b.id} in {b.split}: perhaps one patient under two names",
        "Look at both; if they show one patient, give them one group (docs/data/splits.md).",
    )
