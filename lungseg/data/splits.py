"""Training, validation and test sets that share no patient.

Neighbouring slices of one scan are nearly identical. If one is used for training and the other for testing, the score
measures memorisation. So a whole group (a patient, or a cluster of near-duplicates) goes into one split, before any
augmentation.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

CELLS = 128  # slices are compared on a grid of 128 x 128 cells, 2.8 mm each in a typical chest CT
BLUR_CELLS = 1.0  # structure smoother than this is subtracted: all chests have it in common


def split_by_group(groups: Sequence[str], fractions: Mapping[str, float], *, seed: int) -> list[str]:
    """Assign every row to a split, whole groups at a time, as close to the fractions as whole groups allow.

    Groups are visited from large to small (equal sizes in random order). Each goes to the split that still lacks the
    most rows; largest first is the classic greedy rule for filling bins evenly. Once only as many groups are left as
    there are empty splits, the empty splits take precedence.

    Args:
        groups: the group of each row.
        fractions: split name -> fraction of the rows, e.g. {"train": 0.7, "val": 0.3}; they sum to 1.
        seed: the only source of randomness; the order of the rows does not matter.

    Returns:
        The split of each row, in row order.

    Raises:
        ValueError: if the fractions do not sum to 1, or there are fewer groups than splits.
    """
    splits = {name: fraction for name, fraction in fractions.items() if fraction > 0}
    if min(fractions.values(), default=0) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
        raise ValueError(f"split_by_group: expected fractions >= 0 that sum to 1, got {dict(fractions)}.")
    names, sizes = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    if len(names) < len(splits):
        raise ValueError(
            f"split_by_group: {len(names)} group(s) cannot fill the {len(splits)} splits "
            f"{', '.join(splits)}. Use fewer splits, or add patients."
        )
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # large to small, equal sizes in random order
    lacking = {name: fraction * len(groups) for name, fraction in splits.items()}  # rows
    empty = set(splits)
    group_splits = {}
    for position, g in enumerate(order):
        must_fill = len(empty) >= len(order) - position
        open_splits = [name for name in splits if name in empty] if must_fill else list(splits)
        split = max(open_splits, key=lacking.__getitem__)
        group_splits[str(names[g])] = split
        lacking[split] -= sizes[g]
        empty.discard(split)
    return [group_splits[str(group)] for group in groups]


class Fold(NamedTuple):
    """One fold of a cross-validation: Fold(0, 5) is the first of five."""

    number: int  # from 0; its groups validate, those of the other folds train
    of: int


def deal_folds(groups: Sequence[str], folds: int) -> list[int]:
    """Deal the groups into folds of nearly equal numbers of groups and of rows.

    Groups are dealt like cards, those with many rows first, to folds 0, 1, ..., n - 1, n - 1, ..., 1, 0, 0, 1, ...
    So two folds differ by at most one group, and by no more rows than the largest group has. Equal sizes are in the
    order of a digest of the name, which means nothing: names in their own order would deal hospital by hospital. There
    is no seed, and the order of the rows does not matter, so every run of every network has the same folds.

    Args:
        groups: the group of each row; capitals are ignored, because "p1" and "P1" may be one patient.

    Returns:
        The fold of each row, 0 to folds - 1.

    Raises:
        ValueError: if there are fewer groups than folds, or fewer than two folds.
    """
    names, rows = np.unique(np.asarray([group.casefold() for group in groups], dtype=str), return_counts=True)
    if not 2 <= folds <= len(names):
        raise ValueError(f"expected 2 to {len(names)} folds for {len(names)} patients, got {folds}. Use fewer folds.")
    digests = [hashlib.sha256(str(name).encode(errors="surrogatepass")).digest() for name in names]
    order = sorted(range(len(names)), key=lambda g: (-rows[g], digests[g]))
    there_and_back = [*range(folds), *reversed(range(folds))]
    dealt = {names[g]: there_and_back[place % len(there_and_back)] for place, g in enumerate(order)}
    return [dealt[group.casefold()] for group in groups]


def fold_splits(groups: Sequence[str], splits: Sequence[str], fold: Fold) -> list[str]:
    """The split of each row in one fold of a cross-validation: "test" stays, the others become "train" or "val"."""
    dealt = iter(deal_folds([g for g, s in zip(groups, splits, strict=True) if s != "test"], fold.of))
    return [s if s == "test" else "val" if next(dealt) == fold.number else "train" for s in splits]


def affordable_fractions(fractions: Mapping[str, float], num_groups: int) -> dict[str, float]:
    """Keep only the first `num_groups` splits, scaled to sum to 1: two patients cannot fill three splits."""
    kept = dict([(name, f) for name, f in fractions.items() if f > 0][:num_groups])
    return {name: f / sum(kept.values()) for name, f in kept.items()}


def check_disjoint(ids: Sequence[str], groups: Sequence[str], splits: Sequence[str]) -> None:
    """Raise a ValueError that names the first id that appears twice, or the first group that is in two splits."""
    problems = find_overlaps(ids, groups, splits)
    if problems:
        raise ValueError(problems[0])


def find_overlaps(ids: Sequence[str], groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """One sentence for each id that appears twice and each group that is in two splits; [] if there are none."""
    id_splits: dict[str, str] = {}
    group_splits: dict[str, str] = {}
    problems: dict[tuple[str, str | None], str] = {}
    for id_, group, split in zip(ids, groups, splits, strict=True):
        if id_ in id_splits:
            problems[id_, None] = (
                f"id {id_!r} appears twice (in {id_splits[id_]} and {split}). Give every slice its own id."
            )
        first = group_splits.setdefault(group, split)
        if first != split:
            problems[group, split] = (
                f"group {group!r} is in {first} and in {split}, so the scores would measure memorisation. "
                f"Move all its rows to one split."
            )
        id_splits[id_] = split
    return list(problems.values())


def near_duplicate_groups(images: Sequence[NDArray], *, threshold: float = 0.4) -> list[str]:
    """Cluster whole slices that show nearly the same position in the same patient, if patients are not named.

    Each slice becomes a pattern of its fine structure (`fine_structure`). Two slices are linked if their patterns
    correlate above `threshold`, also after mirroring one of them or rotating it by 90, 180 or 270 degrees, because such
    copies still show the same anatomy. A group is everything that links connect. Neighbouring slices of one scan form a
    chain, so a scan without large gaps is one group. A wrong link only makes a group larger, but a missed one can put
    two slices of one patient into two splits. Hence the threshold is far below the correlation of identical images; the
    documentation page on splits shows measurements.

    Args:
        images: slices (H, W) of one size and one scale of grey or HU, clipped to one HU window, in any order.
        threshold: least correlation of a link, between 0 and 1. For consecutive slices in `images` 0.7 of it is enough:
            tables are often saved scan by scan, and there are only n - 1 such pairs, so few can be linked by chance.

    Returns:
        The group of each slice: "cluster0000", "cluster0001", ... in order of first appearance.
    """
    shapes = sorted({np.shape(image) for image in images})
    if not shapes:
        return []
    if len(shapes) > 1:
        raise ValueError(f"near_duplicate_groups: expected slices of one size, got {shapes[0]} and {shapes[1]}.")
    patterns = [fine_structure(image) for image in images]
    linked = link_similar_slices(patterns, comparison_grid(shapes[0]), threshold=threshold)
    return group_slices([""] * len(images), linked)


def link_similar_slices(
    patterns: Sequence[NDArray], grid: tuple[int, int] | None = None, *, threshold: float = 0.4
) -> NDArray[np.bool_]:
    """(n, n), symmetric: which pairs of slices are linked, as described in `near_duplicate_groups`.

    For callers that cannot keep all images in memory.

    Args:
        patterns: `fine_structure` of each slice, all of one length.
        grid: (rows, columns) of the patterns, the `comparison_grid` of the slices; None skips mirrored and rotated
            copies.
        threshold: least correlation of a link.
    """
    stacked = np.stack(patterns)  # (n, cells)
    correlation = stacked @ stacked.T  # (n, n)
    consecutive = np.eye(len(stacked), k=1, dtype=bool)  # pairs (i, i + 1)
    linked = (correlation > threshold) | consecutive & (correlation > 0.7 * threshold)
    for copy in mirror_and_rotate(stacked.reshape(-1, *grid)) if grid else ():
        linked |= copy.reshape(stacked.shape) @ stacked.T > threshold
    return linked | linked.T


def mirror_and_rotate(grids: NDArray) -> Iterator[NDArray]:
    """Apply the other symmetries of a rectangle, or of a square, to (n, rows, columns).

    Rotation by 270 degrees is left out: if one slice matches another rotated to the left, that one matches the first
    rotated to the right.
    """
    yield grids[:, :, ::-1]
    yield grids[:, ::-1]
    yield grids[:, ::-1, ::-1]
    if grids.shape[1] == grids.shape[2]:
        transposed = grids.transpose(0, 2, 1)
        yield transposed
        yield transposed[:, ::-1, ::-1]
        yield transposed[:, ::-1]  # rotated by 90 degrees


def group_slices(patients: Sequence[str], linked: NDArray[np.bool_]) -> list[str]:
    """Find the group of each slice: its patient, or the slices it is linked to if the patient is not named.

    Links between slices of two named patients are ignored, because the names are taken to be right
    (`find_similar_groups` reports such links). A slice without a name joins the slices it is linked to, and so may join
    two patients into one group.

    Args:
        patients: the patient of each slice, "" if not named; capitals are ignored.
        linked: (n, n), symmetric, from `link_similar_slices`.

    Returns:
        Names of patients, joined by "+" if necessary, or "cluster0000", ... in order of first appearance.
    """
    spelling: dict[str, str] = {}
    patients = [spelling.setdefault(patient.casefold(), patient) for patient in patients]
    names, number = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    unnamed = names[number] == ""  # (n,)
    linked = linked & unnamed  # keep links with at least one end that has no name
    linked |= (number[:, None] == number) & ~unnamed
    _, labels = connected_components(linked, directed=False)  # numbered in order of first appearance
    named: dict[int, set[str]] = {}
    for label, patient in zip(labels, patients, strict=True):
        named.setdefault(label, set()).update([patient] if patient else [])
    return ["+".join(sorted(named[label])) or f"cluster{label:04d}" for label in labels]


def find_similar_groups(groups: Sequence[str], linked: NDArray[np.bool_]) -> list[tuple[str, str]]:
    """Find the pairs of groups with slices that are linked: one patient under two names, or chance."""
    pairs = ((groups[i], groups[j]) for i, j in np.argwhere(linked) if groups[i] != groups[j])
    return sorted({(min(pair), max(pair)) for pair in pairs})


def comparison_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of the grid on which slices of this shape are compared."""
    return min(CELLS, shape[0]), min(CELLS, shape[1])


def fine_structure(image: NDArray) -> NDArray[np.float32]:
    """Describe a slice by a flat unit vector, whose dot products are correlations; zeros for a blank slice.

    Averages over a coarse grid suppress noise. All chests share a coarse structure, two lungs in a bright oval, so
    the smooth part is subtracted: ribs, vessels and the edges of heart and lungs distinguish patients.
    """
    means = np.asarray(image, dtype=np.float64)
    for axis, cells in enumerate(comparison_grid(means.shape)):
        size = means.shape[axis]
        edges = np.rint(np.linspace(0, size, cells + 1)).astype(int)  # the same from either end
        sums = np.add.reduceat(means, edges[:-1], axis=axis)  # (cells, W), then (cells, cells)
        means = sums / np.expand_dims(np.diff(edges), 1 - axis)
    fine = (means - gaussian_filter(means, BLUR_CELLS)).ravel()  # (cells * cells,)
    fine -= fine.mean()
    length = np.linalg.norm(fine)
    blank = length <= 1e-9 * (1 + np.abs(means).sum())  # nothing but rounding errors
    return (np.zeros_like(fine) if blank else fine / length).astype(np.float32)
