"""Splits: whole groups, all rows, the requested fractions; and groups found where no patient is named."""

import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.data.ct import hu_to_grey
from lungseg.data.phantoms.scene import phantom_patient
from lungseg.data.splits import (
    Fold,
    affordable_fractions,
    check_disjoint,
    deal_folds,
    find_overlaps,
    find_similar_groups,
    fine_structure,
    fold_splits,
    group_slices,
    link_similar_slices,
    near_duplicate_groups,
    split_by_group,
)

FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
GROUPS = st.lists(st.integers(0, 12).map("patient{}".format), min_size=1, max_size=80)
REAL = Path(os.environ.get("LUNGSEG_DATA", "nowhere"), "lidc_slices")


# ---- split_by_group ----------------------------------------------------------------------------------------


@given(groups=GROUPS.filter(lambda g: len(set(g)) >= 3), seed=st.integers(0, 9))
def test_no_group_is_in_two_splits_and_no_split_is_empty(groups, seed):
    splits = split_by_group(groups, FRACTIONS, seed=seed)
    assert len(splits) == len(groups) and set(splits) == set(FRACTIONS)
    assert len({*zip(groups, splits, strict=True)}) == len(set(groups))
    check_disjoint([str(i) for i in range(len(groups))], groups, splits)


@given(groups=GROUPS.filter(lambda g: len(set(g)) >= 3), seed=st.integers(0, 9), data=st.data())
def test_the_order_of_the_rows_does_not_matter(groups, seed, data):
    shuffled = data.draw(st.permutations(groups))
    expected = dict(zip(groups, split_by_group(groups, FRACTIONS, seed=seed), strict=True))
    assert dict(zip(shuffled, split_by_group(shuffled, FRACTIONS, seed=seed), strict=True)) == expected


@given(groups=GROUPS.filter(lambda g: len(set(g)) >= 3), seed=st.integers(0, 9))
def test_no_split_misses_its_share_by_more_than_the_largest_groups(groups, seed):
    sizes = Counter(groups)
    counts = Counter(split_by_group(groups, FRACTIONS, seed=seed))
    for name, fraction in FRACTIONS.items():
        assert abs(counts[name] - fraction * len(groups)) <= 2 * max(sizes.values()) + 1


def test_many_small_groups_meet_the_fractions():
    groups = [f"p{i // 4}" for i in range(1200)]
    counts = Counter(split_by_group(groups, FRACTIONS, seed=0))
    assert {name: counts[name] / 1200 for name in FRACTIONS} == pytest.approx(FRACTIONS, abs=0.004)


@pytest.mark.parametrize("seed", range(5))
def test_a_large_group_is_placed_first_and_small_ones_fill_the_gaps(seed):
    groups = ["large"] * 60 + [f"p{i}" for i in range(40)]
    assert Counter(split_by_group(groups, {"train": 0.6, "test": 0.4}, seed=seed)) == {
        "train": 60,
        "test": 40,
    }


def test_another_seed_is_another_split_and_the_same_seed_the_same():
    groups = [f"p{i}" for i in range(30)]
    first, again, other = (split_by_group(groups, FRACTIONS, seed=s) for s in (0, 0, 1))
    assert first == again != other


def test_a_split_of_fraction_zero_gets_nothing():
    assert set(split_by_group(["a", "b", "c"], {"train": 0.5, "val": 0.5, "test": 0.0}, seed=0)) == {
        "train",
        "val",
    }


def test_what_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match=r"2 group\(s\) cannot fill the 3 splits train, val, test"):
        split_by_group(["a", "a", "b"], FRACTIONS, seed=0)
    for wrong in ({"train": 0.5}, {"train": 1.5, "val": -0.5}, {}):
        with pytest.raises(ValueError, match="sum to 1"):
            split_by_group(["a", "b"], wrong, seed=0)


def test_with_too_few_groups_the_first_splits_remain():
    assert affordable_fractions(FRACTIONS, 2) == pytest.approx({"train": 0.7 / 0.85, "val": 0.15 / 0.85})
    assert affordable_fractions(FRACTIONS, 1) == {"train": 1.0}
    assert affordable_fractions(FRACTIONS, 9) == pytest.approx(FRACTIONS)


# ---- check_disjoint ----------------------------------------------------------------------------------------


def test_an_id_twice_and_a_group_in_two_splits_are_named():
    with pytest.raises(ValueError, match="'s1' appears twice .in train and test"):
        check_disjoint(["s1", "s1"], ["a", "b"], ["train", "test"])
    with pytest.raises(ValueError, match="'a' is in train and in val"):
        check_disjoint(["s1", "s2"], ["a", "a"], ["train", "val"])
    assert len(find_overlaps(["s1", "s2", "s3", "s1"], ["a", "a", "a", "b"], ["train", "val", "val", "val"])) == 2


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), st.sampled_from(["train", "val"])), max_size=12))
def test_rows_pass_exactly_when_ids_are_unique_and_groups_have_one_split(rows):
    ids, groups, splits = ([row[i] for row in rows] for i in range(3))
    clean = len(set(ids)) == len(ids) and len({(g, s) for _, g, s in rows}) == len(set(groups))
    assert (find_overlaps(ids, groups, splits) == []) == clean


# ---- folds -------------------------------------------------------------------------------------------------


@given(groups=GROUPS, folds=st.integers(2, 6), seed=st.integers(0, 99))
def test_folds_are_of_whole_groups_of_nearly_equal_numbers_whatever_the_order_of_the_rows(groups, folds, seed):
    rows = Counter(groups)
    if len(rows) < folds:
        with pytest.raises(ValueError, match=f"expected 2 to {len(rows)} folds for {len(rows)} patients, got {folds}"):
            deal_folds(groups, folds)
        return
    dealt = dict(zip(groups, deal_folds(groups, folds), strict=True))
    assert [dealt[group] for group in groups] == deal_folds(groups, folds)  # whole groups
    number = [sum(k == fold for k in dealt.values()) for fold in range(folds)]
    size = [sum(rows[group] for group, k in dealt.items() if k == fold) for fold in range(folds)]
    assert min(number) >= 1 and max(number) - min(number) <= 1
    assert max(size) - min(size) <= max(rows.values())
    order = np.random.default_rng(seed).permutation(len(groups))
    shuffled = [groups[i] for i in order]
    assert deal_folds(shuffled, folds) == [dealt[group] for group in shuffled]
    assert deal_folds([g.upper() if i % 2 else g for i, g in enumerate(groups)], folds) == deal_folds(groups, folds)


def test_names_in_order_are_not_dealt_in_order():
    """Ten patients of each of two hospitals: with five folds in the order of the names, all folds would be alike."""
    names = [f"{hospital}{i}" for hospital in "ab" for i in range(10)]
    dealt = deal_folds(names, 5)
    assert dealt != [*range(5), *reversed(range(5))] * 2 and Counter(dealt) == dict.fromkeys(range(5), 4)
    # Fixed for ever: a resumed run, and a fold trained next year, must find the same patients.
    assert dealt == [1, 0, 2, 1, 4, 0, 0, 0, 3, 1, 4, 2, 3, 1, 2, 4, 3, 2, 3, 4]


@given(groups=GROUPS, folds=st.integers(2, 4))
def test_each_group_outside_the_test_split_validates_once(groups, folds):
    splits = ["test" if group.endswith(("1", "4")) else "train" for group in groups]
    if len({g for g, s in zip(groups, splits, strict=True) if s != "test"}) < folds:
        return
    by_fold = [fold_splits(groups, splits, Fold(k, folds)) for k in range(folds)]
    for was, *now in zip(splits, *by_fold, strict=True):
        assert now == ["test"] * folds if was == "test" else sorted(now) == ["train"] * (folds - 1) + ["val"]
    assert find_overlaps([str(i) for i in range(len(groups))], groups, by_fold[0]) == []


# ---- near-duplicates ---------------------------------------------------------------------------------------


def phantom_rows(patients, slices=4):
    """Grey slices 5 mm apart, and the number of the patient of each."""
    rows = []
    for p in range(patients):
        rng = np.random.default_rng([7, p])
        rows += [(hu_to_grey(s.hu), p) for s in phantom_patient(rng, num_slices=slices, size=256, slice_spacing_mm=5.0)]
    return [image for image, _ in rows], [p for _, p in rows]


@pytest.fixture(scope="module")
def phantoms():
    return phantom_rows(6)


def agreement(groups, patients):
    """(number of patients cut in pieces, largest number of patients in one group)."""
    pairs = set(zip(groups, patients, strict=True))
    per_patient = Counter(p for _, p in pairs)
    per_group = Counter(g for g, _ in pairs)
    return sum(n > 1 for n in per_patient.values()), max(per_group.values())


def test_neighbouring_slices_of_one_phantom_are_one_group_and_a_chain_does_not_swallow_all():
    images, patients = phantom_rows(16)
    in_pieces, most_together = agreement(near_duplicate_groups(images), patients)
    assert in_pieces == 0
    assert most_together <= 4  # of 16: a wrong link now and then does no harm, a chain of them would


def test_the_order_of_the_rows_is_a_help_but_not_needed(phantoms):
    images, patients = phantoms
    order = np.random.default_rng(0).permutation(len(images))
    groups = near_duplicate_groups([images[i] for i in order])
    assert agreement(groups, [patients[i] for i in order])[0] == 0


def link_patterns(patterns, **how):
    return group_slices([""] * len(patterns), link_similar_slices(patterns, **how))


def test_groups_are_numbered_in_order_of_first_appearance():
    patterns = np.eye(3)[[2, 0, 2, 1]]
    assert link_patterns(patterns) == ["cluster0000", "cluster0001", "cluster0000", "cluster0002"]


def test_links_form_chains_and_consecutive_rows_link_more_easily():
    angle = np.deg2rad([0, 50, 100])  # correlations cos 50 = 0.64 and cos 100 < 0
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert len(set(link_patterns(ring))) == 1
    assert len(set(link_patterns(ring, threshold=0.8))) == 1  # 0.64 > 0.7 * 0.8, and the rows are consecutive
    assert len(set(link_patterns(ring[[0, 2, 1]], threshold=0.8))) == 2  # only one of the two pairs is consecutive
    assert len(set(link_patterns(ring, threshold=0.95))) == 3


@pytest.mark.parametrize(
    ("correlation", "apart", "consecutive"), [(0.41, 1, 1), (0.39, 2, 1), (0.29, 2, 1), (0.27, 2, 2)]
)
def test_the_threshold_is_0_4_and_0_7_of_it_for_consecutive_rows(correlation, apart, consecutive):
    a, spacer = np.eye(3)[[0, 2]]
    b = np.array([correlation, math.sqrt(1 - correlation**2), 0])
    assert len(set(link_patterns(np.stack([a, b])))) == consecutive
    assert len(set(link_patterns(np.stack([a, spacer, b])))) == 1 + apart  # the spacer resembles neither


def test_the_threshold_reaches_the_links():
    images, _ = phantom_rows(2, slices=2)
    patterns = [fine_structure(image) for image in images]
    similarity = (patterns[0] @ patterns[1]).item()
    for threshold in (similarity / 0.7 - 0.01, similarity / 0.7 + 0.01):
        groups = near_duplicate_groups(images[:2], threshold=threshold)
        assert groups == link_patterns(patterns[:2], threshold=threshold)
        assert len(set(groups)) == 1 + (threshold > similarity / 0.7)


@pytest.mark.parametrize("value", [0.0, 0.1, 137.0, -1000.0])
def test_blank_slices_are_similar_to_nothing(value):
    assert not fine_structure(np.full((60, 70), value)).any()
    assert len(set(near_duplicate_groups([np.full((60, 70), value)] * 3))) == 3


@given(
    gain=st.floats(0.1, 10),
    offset=st.floats(-1000, 1000),
    sides=st.tuples(st.integers(3, 200), st.integers(3, 200)),
)
def test_a_pattern_ignores_brightness_and_contrast(gain, offset, sides):
    image = np.random.default_rng(0).random(sides)
    pattern = fine_structure(image)
    assert np.linalg.norm(pattern) == pytest.approx(1, abs=1e-5)
    assert pattern @ fine_structure(gain * image + offset) == pytest.approx(1, abs=1e-4)


SYMMETRIES = {
    "left to right": lambda image: image[:, ::-1], "upside down": lambda image: image[::-1],
    "rotated by 90": np.rot90, "by 180": lambda image: np.rot90(image, 2), "by 270": lambda image: np.rot90(image, 3),
    "transposed": np.transpose, "about the other diagonal": lambda image: np.rot90(image, 2).T,
}  # fmt: skip


@given(side=st.integers(20, 300), name=st.sampled_from(sorted(SYMMETRIES)))
@settings(max_examples=25)
def test_a_mirrored_or_rotated_copy_is_in_the_same_group(side, name):
    images = [np.random.default_rng(p).random((side, side)) for p in range(3)]
    groups = near_duplicate_groups([*images, SYMMETRIES[name](images[1])])
    assert groups == ["cluster0000", "cluster0001", "cluster0002", "cluster0001"]


@pytest.mark.parametrize("name", SYMMETRIES)
def test_a_rotated_phantom_joins_the_neighbours_of_its_slice_and_no_one_else(name, phantoms):
    images, patients = phantoms
    groups = near_duplicate_groups([*images, SYMMETRIES[name](images[5])])
    assert groups[-1] == groups[5] and agreement(groups[:-1], patients) == (0, 1)


def test_links_go_both_ways_and_each_slice_is_linked_to_itself():
    image = np.random.default_rng(0).random((50, 50))
    patterns = [fine_structure(a) for a in (image, np.rot90(image), np.random.default_rng(1).random((50, 50)))]
    linked = link_similar_slices(patterns, (50, 50))
    assert linked.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    linked = link_similar_slices(patterns)  # without mirrored and rotated copies
    assert linked.tolist() == np.eye(3, dtype=bool).tolist()


def test_no_slices_have_no_groups():
    assert near_duplicate_groups([]) == []


def test_oblong_slices_have_mirrored_copies_too():
    image = np.random.default_rng(0).random((40, 70))
    others = [np.random.default_rng(1).random((40, 70)), image[::-1], image[:, ::-1], image[::-1, ::-1]]
    assert near_duplicate_groups([image, *others]) == ["cluster0000", "cluster0001", *["cluster0000"] * 3]
    with pytest.raises(ValueError, match=r"expected slices of one size, got \(40, 70\) and \(70, 40\)"):
        near_duplicate_groups([image, image.T])


# ---- named patients ----------------------------------------------------------------------------------------


LINKS = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from(["", "", "a", "b", "c"]), min_size=n, max_size=n),
        st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=6),
    )
)


@given(LINKS)
def test_the_slices_of_a_patient_are_together_and_unnamed_ones_are_with_similar_slices(drawn):
    """The oracle pulls groups together, one reason at a time, until nothing changes."""
    patients, pairs = drawn
    n = len(patients)
    linked = np.zeros((n, n), bool)
    for i, j in pairs:
        linked[i, j] = linked[j, i] = True
    groups = group_slices(patients, linked)
    together = list(range(n))
    for _ in range(n):
        for i in range(n):
            for j in range(n):
                by_name = patients[i] == patients[j] != ""
                if by_name or (linked[i, j] and "" in (patients[i], patients[j])):
                    together[i] = together[j] = min(together[i], together[j])
    assert [groups.index(g) for g in groups] == [together.index(t) for t in together]
    for group in set(groups):
        names = {p for p, g in zip(patients, groups, strict=True) if g == group} - {""}
        assert group == "+".join(sorted(names)) if names else group.startswith("cluster")


def test_capitals_make_no_new_patient():
    assert group_slices(["P1", "p1", "P2", "p1"], np.eye(4, dtype=bool)) == ["P1", "P1", "P2", "P1"]


def test_named_patients_that_look_alike_stay_apart_and_are_reported():
    linked = np.zeros((5, 5), bool)
    linked[0, 2] = linked[2, 0] = linked[1, 3] = linked[3, 1] = linked[0, 1] = True
    groups = group_slices(["a", "a", "b", "b", "c"], linked)
    assert groups == ["a", "a", "b", "b", "c"] and find_similar_groups(groups, linked) == [("a", "b")]


@pytest.mark.skipif(not REAL.is_dir(), reason="LUNGSEG_DATA names no folder with LIDC-IDRI slices")
@pytest.mark.parametrize("shuffle", [False, True])
def test_real_slices_up_to_10_mm_apart_are_together_and_two_patients_never(shuffle):
    rows = []
    for number, file in enumerate(sorted(REAL.glob("*.npz"))):
        with np.load(file) as scan:
            rows += [(hu_to_grey(hu), number, z) for hu, z in zip(scan["hu"], scan["z_mm"], strict=True)]
    if shuffle:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    groups = near_duplicate_groups([image for image, _, _ in rows])
    number_of_groups = 11 if shuffle else 2  # as docs/data/splits.md says
    assert len(set(groups)) == number_of_groups
    near = [
        groups[i] == groups[j]
        for i in range(len(rows))
        for j in range(i)
        if rows[i][1] == rows[j][1] and abs(rows[i][2] - rows[j][2]) <= 10
    ]
    assert len(near) > 200 and all(near)
    assert agreement(groups, [number for _, number, _ in rows])[1] == 1
