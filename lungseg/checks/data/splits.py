"""Check of any split of rows into training, validation and test sets that keeps groups (patients) whole."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lungseg.checks.calling import call
from lungseg.checks.data.augment import CHANCE, global_chance
from lungseg.checks.lessons import Lesson, Wrong

SPLIT = Lesson(
    "split_by_group",
    "split_by_group(groups, fractions, *, seed) -> list with the split of each row, e.g. "
    'split_by_group(["a", "a", "b"], {"train": 0.7, "test": 0.3}, seed=0)',
    "all rows of a group (a patient) go to one split, since neighbouring slices are nearly the same image; the splits "
    "hold about the given fractions of the rows, none is empty, and only the seed decides which group goes where.",
    "docs/data/splits.md",
    {
        "by row": "the rows are split one by one, so a patient is in training and in test: split the groups.",
        "not shuffled": "the groups are taken in their order (of appearance, or of the alphabet), and the seed "
        "decides nothing: names often encode date, hospital or diagnosis. Shuffle the groups first.",
        "seed ignored": "the seed decides nothing: every seed gives the same split.",
        "fractions of groups": "the fractions are those of the groups, not of the rows, though groups differ in size.",
        "an empty split": "a split has no group: give every split at least one.",
        "a row left out": "the result is shorter than the rows: rounding down leaves the last groups without a split.",
        "row without a split": "a row has no split: rounding down leaves the last groups out.",
        "order of the rows": "the order of the rows decides which group goes where: sort the groups before shuffling "
        "them.",
        "order of a set": "the groups are taken in the order of a set, which differs from one run of Python to the "
        "next: sort them before shuffling.",
        "indices": "expected the name of a split for each row, in row order, not lists of indices.",
        "global generator": CHANCE["global generator"].replace("argument `rng`", "generator made from `seed`"),
        "not repeatable": "two calls with the same seed differ: make the generator from the seed in every call.",
    },
)
THREE, TWO = {"train": 0.7, "val": 0.15, "test": 0.15}, {"train": 0.5, "test": 0.5}


class Rows(NamedTuple):
    """The sizes of the groups, and the fractions."""

    sizes: tuple[int, ...]
    fractions: Mapping[str, float]

    def __str__(self) -> str:
        sizes = f"{self.sizes[:6]}{' and more' if len(self.sizes) > 6 else ''}"
        return f"{len(self.sizes)} groups of {sizes} rows, fractions {dict(self.fractions)}"

    def groups(self) -> list[str]:
        """The group of each row; the rows of a group follow one another."""
        return [f"patient{g:03d}" for g, size in enumerate(self.sizes) for _ in range(size)]


CASES = [
    Rows((1, 1), TWO), Rows((2, 1), TWO), Rows((2, 2, 2, 2), TWO), Rows((1, 2, 3), THREE),
    Rows((4, 4, 4, 4, 4, 4), THREE),
    Rows((3,) * 10, {"a": 0.2, "b": 0.8}), Rows((6,) * 40, THREE),
    Rows((1, 7, 2, 5, 3, 4, 6, 2, 8, 1, 5, 3) * 4, THREE),
    Rows((1,) * 50 + (9,) * 50, {"train": 0.8, "test": 0.2}), Rows((5, 3, 4), {"all": 1.0}),
]  # fmt: skip
SEEDS = range(8)


class Salted(str):
    """A name whose hash, and with it its place in a set, can be changed as a new run of Python changes it."""

    salt = 0

    def __hash__(self) -> int:
        return hash((str(self), Salted.salt))


def check_split_by_group(split_by_group: Callable[..., Sequence[str]]) -> None:
    """Fail unless `split_by_group(groups, fractions, seed=seed)` gives every row a split, and each group one split.

    Whatever the rule, the rows of a split may differ from its fraction by two of the largest groups, and by two
    standard deviations of what chance does if whole groups are drawn by number. Every split gets a group. The same seed
    gives the same result, in whatever order the rows are; other seeds give other results; nothing else is random.
    """

    def split(case: Rows, seed: int = 0, groups: Sequence[str] = ()) -> list[str]:
        names = list(groups or case.groups())
        chance = global_chance()
        result = call(SPLIT, split_by_group, names, dict(case.fractions), seed=seed)
        if global_chance() != chance:
            raise Wrong(SPLIT, f"{case}: a global random generator was used.", slip="global generator")
        return rows_of(case, names, result)

    for case in CASES:
        check_groups(case, case.groups(), split(case))
    if split(CASES[6]) != split(CASES[6]):
        raise Wrong(SPLIT, f"{CASES[6]}: two calls with seed 0 gave two different results.", slip="not repeatable")
    for case in CASES:  # all of them first: in a set of two names, another order of the rows can show instead
        check_runs(case, split)
    for case in CASES:
        check_order(case, split)
    check_seeds(CASES[6], split)
    misses = [(case, seed, miss) for case in CASES for seed in SEEDS[:3] if (miss := off(case, split(case, seed)))]
    if misses:
        case, seed, miss = misses[0]
        of_groups = all(fractions_of_groups(c, split(c, s)) for c, s, _ in misses)
        raise Wrong(SPLIT, f"{case}, seed {seed}: {miss}.", slip="fractions of groups" if of_groups else "")


def rows_of(case: Rows, groups: Sequence[str], result: Any) -> list[str]:
    """The result as a list of names, one per row; or Wrong."""
    if isinstance(result, (Mapping, tuple)) and len(result) == len(case.fractions) != len(groups):
        raise Wrong(SPLIT, f"{case}: the result is a {type(result).__name__} with an entry per split.", slip="indices")
    try:
        rows = [name if name is None else str(name) for name in result]
    except TypeError:
        raise Wrong(SPLIT, f"{case}: the result is a {type(result).__name__}, expected a list.") from None
    if len(rows) != len(groups):
        raise Wrong(SPLIT, f"{case}: {len(groups)} rows were given and {len(rows)} came back; expected a split for "
                    f"each.",
                    slip="a row left out" if len(rows) < len(groups) else "")  # fmt: skip
    for i, name in enumerate(rows):
        if name not in case.fractions:
            slip = "row without a split" if name in (None, "", "None") else ""
            raise Wrong(SPLIT, f"{case}: row {i} (of {groups[i]}) has the split {name!r}; expected one of "
                        f"{', '.join(case.fractions)}.", slip=slip)  # fmt: skip
    return [str(name) for name in rows]


def check_groups(case: Rows, groups: Sequence[str], splits: Sequence[str]) -> None:
    """Whole groups, and no empty split."""
    first: dict[str, tuple[int, str]] = {}
    for i, (group, split) in enumerate(zip(groups, splits, strict=True)):
        j, other = first.setdefault(group, (i, split))
        if split != other:
            raise Wrong(SPLIT, f"{case}: {group} is in {other} (row {j}) and in {split} (row {i}): training and test "
                        f"share a patient.", slip="by row")  # fmt: skip
    for name in case.fractions:
        if name not in splits:
            raise Wrong(SPLIT, f"{case}: {name} got no row, although there are {len(case.sizes)} groups for "
                        f"{len(case.fractions)} splits.", slip="an empty split")  # fmt: skip


def off(case: Rows, splits: Sequence[str]) -> str:
    """Which split misses its fraction by more than is reasonable; "" if none."""
    for name, fraction in case.fractions.items():
        rows, want = Counter(splits)[name], fraction * len(splits)
        chance = math.sqrt(fraction * (1 - fraction) * len(case.sizes)) * statistics.pstdev(case.sizes)
        give = 2 * max(case.sizes) + 2 * chance
        if abs(rows - want) > give and len(case.sizes) > 2 * len(case.fractions):
            return f"{name} got {rows} of {len(splits)} rows, expected about {want:g}, give or take {give:.0f}"
    return ""


def fractions_of_groups(case: Rows, splits: Sequence[str]) -> bool:
    group_splits = dict(zip(case.groups(), splits, strict=True))
    counts = Counter(group_splits.values())
    return all(abs(counts[name] - f * len(group_splits)) <= 2 for name, f in case.fractions.items())


def check_runs(case: Rows, split: Callable[..., list[str]]) -> None:
    """The same seed gives the same result in another run of Python."""
    results = []
    for Salted.salt in range(4):  # as in four runs of Python
        results.append(split(case, groups=[Salted(g) for g in case.groups()]))
    if any(result != results[0] for result in results):
        raise Wrong(
            SPLIT, f"{case}: another run of Python gives another result with the same seed.", slip="order of a set"
        )


def check_order(case: Rows, split: Callable[..., list[str]]) -> None:
    """The same seed gives each group the same split, also with the rows in another order."""
    groups = case.groups()
    of_group = dict(zip(groups, split(case), strict=True))
    for other in (groups[::-1], groups[1::2] + groups[::2]):
        for group, name in zip(other, split(case, groups=other), strict=True):
            if name != of_group[group]:
                raise Wrong(SPLIT, f"{case}, seed 0: {group} is in {of_group[group]}, but in {name} once the rows are "
                            f"in another order.", slip="order of the rows")  # fmt: skip


def check_seeds(case: Rows, split: Callable[..., list[str]]) -> None:
    """Other seeds give other results."""
    results = [split(case, seed) for seed in SEEDS]
    if all(result == results[0] for result in results):
        group_splits = list(dict(zip(case.groups(), results[0], strict=True)).values())
        changes = sum(a != b for a, b in zip(group_splits, group_splits[1:], strict=False))
        raise Wrong(SPLIT, f"{case}: seeds 0 to {SEEDS[-1]} all give the same result.",
                    numbers=f"the groups in order: {' '.join(group_splits[:12])} ...",
                    slip="not shuffled" if changes < len(case.fractions) else "seed ignored")  # fmt: skip
