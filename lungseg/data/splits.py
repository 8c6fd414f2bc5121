"""Training, validation and test sets that share no patient.

Neighbouring slices of one scan are nearly the same picture. If one is trained on and the other tested on, the
score measures memory. So whole groups (a patient, or a cluster of near-duplicates) go to one side, before any
augmentation.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

CELLS = 128  # a slice is compared as a grid of 128 x 128 cells: 2.8 mm each on a usual chest CT
BLUR_CELLS = 1.0  # what is smoother than this is taken away: it is what all chests have in common


def split_by_group(groups: Sequence[str], fractions: Mapping[str, float], *, seed: int) -> list[str]:
    """Give every row a split, whole groups at a time, as close to the fractions as whole groups allow.

    Groups are visited in a random order, then from large to small, and each goes to the split that lacks most
    rows (largest first is the classic greedy rule for filling bins evenly). A split that would stay empty
    takes precedence once there are only as many groups left as empty splits.

    Args:
        groups: the group of each row.
        fractions: split name -> share of the rows, e.g. {"train": 0.7, "val": 0.3}; they sum to 1.
        seed: the only source of randomness; the order of the rows does not matter.

    Returns:
        The split of each row, in row order.

    Raises:
        ValueError: if the fractions do not sum to 1, or there are fewer groups than splits.
    """
    wanted = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    if min(fractions.values(), default=0) < 0 or abs(sum(wanted.values()) - 1) > 1e-6:
        raise ValueError(f"split_by_group: fractions must be >= 0 and sum to 1, got {dict(fractions)}.")
    names, sizes = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    if len(names) < len(wanted):
        raise ValueError(
            f"split_by_group: {len(names)} group(s) cannot fill the {len(wanted)} splits "
            f"{', '.join(wanted)}. Ask for fewer splits, or bring more patients."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large to small, equal sizes in random order
    lacking = {name: fraction * len(groups) for name, fraction in wanted.items()}  # rows
    empty = set(wanted)
    split_of = {}
    for position, g in enumerate(order):
        must_fill = len(empty) >= len(order) - position
        open_splits = [name for name in wanted if name in empty] if must_fill else list(wanted)
        split = max(open_splits, key=lacking.__getitem__)
        split_of[str(names[g])] = split
        lacking[split] -= sizes[g]
        empty.discard(split)
    return [split_of[str(group)] for group in groups]


def affordable_fractions(fractions: Mapping[str, float], num_groups: int) -> dict[str, float]:
    """The first `num_groups` splits only, scaled to sum to 1: with two patients there is no third side."""
    kept = dict([(name, f) for name, f in fractions.items() if f > 0][:num_groups])
    return {name: f / sum(kept.values()) for name, f in kept.items()}


def check_disjoint(ids: Sequence[str], groups: Sequence[str], splits: Sequence[str]) -> None:
    """Raise a ValueError that names the first id met twice, or the first group met in two splits."""
    problems = overlaps(ids, groups, splits)
    if problems:
        raise ValueError(problems[0])


def overlaps(ids: Sequence[str], groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """One sentence for each id that stands twice and each group that stands in two splits; [] is clean."""
    seen_ids, split_of_group, problems = {}, {}, {}
    for id_, group, split in zip(ids, groups, splits, strict=True):
        if id_ in seen_ids:
            problems[id_, None] = (
                f"id {id_!r} stands twice (in {seen_ids[id_]} and {split}). Give every slice its own id."
            )
        first = split_of_group.setdefault(group, split)
        if first != split:
            problems[group, split] = (
                f"group {group!r} is in {first} and in {split}, so the scores would measure memory. "
                f"Move all its rows to one split."
            )
        seen_ids[id_] = split
    return list(problems.values())


def near_duplicate_groups(images: Sequence[NDArray], *, threshold: float = 0.4) -> list[str]:
    """Cluster whole slices that show nearly the same place of the same patient, where no patients are named.

    Each slice becomes a pattern of its fine structure (`fine_structure`). Two slices are linked if their
    patterns correlate above `threshold`, also if one is first mirrored or turned by 90, 180 or 270 degrees: such
    copies are still the same place. A group is everything that links connect. Neighbouring slices of one
    scan link like a chain, so a scan without large gaps is one group. A wrong link only makes a group larger;
    a missed link can put two slices of one patient on two sides, hence a threshold far below that of equal
    pictures. docs/data/splits.md shows what was measured.

    Args:
        images: slices (H, W) of one size and one scale of grey or HU, clipped to one window, in any order.
        threshold: least correlation of a link, between 0 and 1. For two slices that follow each other in
            `images` 0.7 of it is enough: tables are often saved scan by scan, and there are only n - 1 such
            pairs, so chance has few of them to link wrongly.

    Returns:
        The group of each slice: "cluster0000", "cluster0001", ... in order of first appearance.
    """
    shapes = sorted({np.shape(image) for image in images})
    if not shapes:
        return []
    if len(shapes) > 1:
        raise ValueError(f"near_duplicate_groups: slices of one size are expected, got {shapes[0]} and {shapes[1]}.")
    linked = like_pairs([fine_structure(image) for image in images], cells_of(shapes[0]), threshold=threshold)
    return group_slices([""] * len(images), linked)


def like_pairs(
    patterns: Sequence[NDArray], grid: tuple[int, int] | None = None, *, threshold: float = 0.4
) -> NDArray[np.bool_]:
    """(n, n), symmetric: which slices are linked, for callers that cannot keep all images: see `near_duplicate_groups`.

    Args:
        patterns: `fine_structure` of each slice, all of one length.
        grid: (rows, columns) of the patterns, `cells_of` the slices; None leaves out mirrored and turned copies.
    """
    stacked = np.stack(patterns)  # (n, cells)
    correlation = stacked @ stacked.T  # (n, n)
    follow = np.eye(len(stacked), k=1, dtype=bool)  # pairs (i, i + 1)
    linked = (correlation > threshold) | follow & (correlation > 0.7 * threshold)
    for copy in mirrored_and_turned(stacked.reshape(-1, *grid)) if grid else ():
        linked |= copy.reshape(stacked.shape) @ stacked.T > threshold
    return linked | linked.T


def mirrored_and_turned(grids: NDArray) -> Iterator[NDArray]:
    """The other symmetries of a rectangle, or of a square, applied to (n, rows, columns); a turn's inverse left out.

    If a slice is like another one turned to the left, that one is like it turned to the right.
    """
    yield grids[:, :, ::-1]
    yield grids[:, ::-1]
    yield grids[:, ::-1, ::-1]
    if grids.shape[1] == grids.shape[2]:
        transposed = grids.transpose(0, 2, 1)
        yield transposed
        yield transposed[:, ::-1, ::-1]
        yield transposed[:, ::-1]  # turned by 90 degrees


def group_slices(patients: Sequence[str], linked: NDArray[np.bool_]) -> list[str]:
    """The group of each slice: its patient, or what it is linked to where no patient is named.

    Links between slices of two named patients are left alone: the names are what is known (`like_strangers` tells
    of them). A slice without a name joins what it is linked to, and so may join two patients to one group.

    Args:
        patients: of each slice, "" = not named; names that differ only in capitals are one.
        linked: (n, n), symmetric, from `like_pairs`.

    Returns:
        Names of patients, joined by "+" where need be, or "cluster0000", ... in order of first appearance.
    """
    spelling: dict[str, str] = {}
    patients = [spelling.setdefault(patient.casefold(), patient) for patient in patients]
    names, number = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    unnamed = names[number] == ""  # (n,)
    linked = linked & unnamed  # of each link one end, at least, has no name
    linked |= (number[:, None] == number) & ~unnamed
    _, labels = connected_components(linked, directed=False)  # numbered in order of first appearance
    named: dict[int, set[str]] = {}
    for label, patient in zip(labels, patients, strict=True):
        named.setdefault(label, set()).update([patient] if patient else [])
    return ["+".join(sorted(named[label])) or f"cluster{label:04d}" for label in labels]


def like_strangers(groups: Sequence[str], linked: NDArray[np.bool_]) -> list[tuple[str, str]]:
    """The pairs of groups with slices that look alike all the same: one patient of two names, or mere chance."""
    pairs = {tuple(sorted((groups[i], groups[j]))) for i, j in np.argwhere(linked) if groups[i] != groups[j]}
    return sorted(pairs)


def cells_of(shape: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the grid on which a slice is compared."""
    return min(CELLS, shape[0]), min(CELLS, shape[1])


def fine_structure(image: NDArray) -> NDArray[np.float32]:
    """A slice as a flat vector of length 1, whose products are correlations; zeros if it is blank.

    Averages over a coarse grid do away with noise. All chests are alike in the large (two lungs in a bright
    oval), so the smooth part is subtracted: ribs, vessels and the edges of heart and lungs tell patients
    apart.
    """
    means = np.asarray(image, dtype=np.float64)
    for axis, cells in enumerate(cells_of(means.shape)):
        size = means.shape[axis]
        edges = np.rint(np.linspace(0, size, cells + 1)).astype(int)  # the same from either end
        sums = np.add.reduceat(means, edges[:-1], axis=axis)  # (cells, W), then (cells, cells)
        means = sums / np.expand_dims(np.diff(edges), 1 - axis)
    fine = (means - gaussian_filter(means, BLUR_CELLS)).ravel()  # (cells * cells,)
    fine -= fine.mean()
    length = np.linalg.norm(fine)
    blank = length <= 1e-9 * (1 + np.abs(means).sum())  # nothing but rounding errors
    return (np.zeros_like(fine) if blank else fine / length).astype(np.float32)
