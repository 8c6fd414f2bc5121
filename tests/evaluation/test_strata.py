"""Rows of tables, each number against a loop; intervals that say what the patients say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from scored_slices import only_scores, slices

from lungseg.data.classes import one_hot
from lungseg.data.manifest import ImageRecord
from lungseg.evaluation.lesions import SIZES_MM, SIZES_PX
from lungseg.evaluation.metrics import counts_from_pred, summarise
from lungseg.evaluation.scores import score_all, score_image, scores_per_image
from lungseg.evaluation.strata import (
    EVERYTHING,
    FEWEST_PATIENTS,
    Stratum,
    bootstrap,
    class_rows,
    confusion_rows,
    interval,
    intervals,
    strata,
    table_row,
    table_rows,
)

SIZE_NAMES = (*SIZES_MM, *SIZES_PX, "no lesion")
few = settings(max_examples=25)


def constant(dice_tenths, group, number):
    """A slice with a Dice of dice_tenths / 10: 10 pixels predicted, 10 lesion, dice_tenths of them the same."""
    pred, target = np.zeros((2, 20)), np.zeros((2, 20))
    target[0, :10] = 1
    pred[0, 10 - dice_tenths : 20 - dice_tenths] = 1
    return score_image(pred, target, id=f"{group}_{number}", group=group, spacing_mm=1.0)


# ---- sums --------------------------------------------------------------------------------------------------


@few
@given(slices())
def test_the_row_of_all_slices_is_what_summarise_says(some):
    maps = [torch.from_numpy(np.stack(x))[:, None] for x in list(zip(*some, strict=True))[:2]]  # (n, 1, 5, 6)
    want, row = summarise(counts_from_pred(*maps)), table_row(only_scores(some), draws=2)
    assert row["slices"] == want.pop("images") == len(some)
    assert {name: row[name] for name in want} == pytest.approx(want, nan_ok=True)


@few
@given(slices())
def test_each_slice_and_each_lesion_is_in_one_size_and_each_slice_in_one_label(some):
    scores = only_scores(some)
    rows = table_rows(scores, draws=2)
    everything = rows[0]
    parts = {
        "size": [r for r in rows if r["stratum"] in SIZE_NAMES],
        "label": [r for r in rows if "label" in r["stratum"]],
    }
    assert len(rows) == 1 + len(parts["size"]) + len(parts["label"])
    for rows_of_kind in filter(None, parts.values()):
        for name in ("slices", "lesions", "lesions_found", "false_positives", "empty_targets", "false_alarms"):
            assert sum(row[name] for row in rows_of_kind) == everything[name], name
    assert bool(parts["label"]) == any(s.label not in ("", "none") for s in scores)


def test_a_lesion_counts_by_its_own_size_and_its_slice_by_the_largest():
    target = np.zeros((30, 30))
    target[2, 2] = 1  # 1.1 mm
    target[10:25, 10:25] = 1  # 16.9 mm
    rows = {r["stratum"]: r for r in table_rows([score_image(0 * target, target, id="a", group="g", spacing_mm=1.0)])}
    assert list(rows) == ["all", "<5 mm", "10-20 mm"]
    assert [(r["slices"], r["patients"], r["lesions"]) for r in rows.values()] == [(1, 1, 2), (0, 0, 1), (1, 1, 1)]
    assert math.isnan(rows["<5 mm"]["dice"]) and rows["<5 mm"]["lesion_recall"] == 0 and rows["10-20 mm"]["dice"] == 0


def test_labels_are_rows_only_if_a_slice_has_one():
    maps = np.zeros((4, 4)), np.zeros((4, 4))
    unlabelled = [score_image(*maps, id=str(i), group="g", label=x) for i, x in enumerate(("", "none"))]
    assert [s.name for s in strata(unlabelled)] == ["all", "no lesion"]
    labelled = [*unlabelled, score_image(*maps, id="2", group="g", label="LR2")]
    assert [s.name for s in strata(labelled)] == ["all", "no lesion", "no label", "label LR2", "label none"]


@few
@given(slices())
def test_all_background_finds_nothing_and_its_rmse_is_the_root_of_the_lesion_share(some):
    blank = [
        score_image(np.zeros_like(target), target, id=s.id, group=s.group, label=s.label, spacing_mm=0.7)
        for _, target, s in some
    ]
    for row in table_rows(blank, draws=2):
        assert row["lesions_found"] == row["false_positives"] == row["false_alarms"] == 0
        assert row["empty_predictions"] == row["slices"]
    share = np.mean([target.mean() for _, target, _ in some])
    assert table_row(blank, draws=2)["pooled_rmse"] == pytest.approx(math.sqrt(share))


def test_slices_without_any_lesion_have_a_row_but_hardly_a_score():
    alarm = np.zeros((9, 9))
    alarm[1, 1] = alarm[5, 5] = 1
    preds = [alarm, 0 * alarm] * 3  # six patients
    scores = [score_image(p, 0 * alarm, id=str(i), group=str(i), spacing_mm=1.0) for i, p in enumerate(preds)]
    row = table_rows(scores)[-1]
    assert (row["stratum"], row["slices"], row["empty_targets"], row["false_alarms"]) == ("no lesion", 6, 6, 3)
    assert row["dice"] == 0 and row["false_positives_per_slice"] == 1.0
    assert all(math.isnan(row[name]) for name in ("recall", "hd95_mm", "lesion_recall", "pooled_recall", "dice_low"))
    low, high = (row[f"false_positives_per_slice_{end}"] for end in ("low", "high"))
    assert 0 <= low < 1 < high <= 2


def test_no_slices_make_a_table_without_rows_and_a_row_without_scores():
    assert table_rows([]) == []
    row = table_row([])
    assert row["slices"] == row["patients"] == 0 and math.isnan(row["dice"]) and math.isnan(row["pooled_rmse_low"])


# ---- intervals ---------------------------------------------------------------------------------------------


@few
@given(slices(max_slices=10, max_patients=8))
def test_each_interval_holds_its_score_and_exists_where_enough_patients_have_it(some):
    scores = only_scores(some)
    row = table_row(scores, draws=400)
    for name, values in scores_per_image(scores).items():
        patients = {s.group for s, value in zip(scores, values, strict=True) if not math.isnan(value)}
        assert math.isnan(row[f"{name}_low"]) == math.isnan(row[f"{name}_high"]) == (len(patients) < FEWEST_PATIENTS), (
            name
        )
    for name in intervals(scores, draws=2):
        if not math.isnan(row[f"{name}_low"]):
            assert row[f"{name}_low"] - 1e-9 <= row[name] <= row[f"{name}_high"] + 1e-9, name


@few
@given(slices(), st.randoms(use_true_random=False))
def test_the_order_of_the_slices_is_nothing(some, random):
    scores = only_scores(some)
    shuffled = random.sample(scores, len(scores))
    for a, b in zip(table_rows(scores, draws=20), table_rows(shuffled, draws=20), strict=True):
        assert a.pop("stratum") == b.pop("stratum")
        assert a == pytest.approx(b, nan_ok=True)


@few
@given(slices(min_slices=2), st.integers(2, 4))
def test_more_slices_of_the_same_patients_that_say_the_same_are_no_more_evidence(some, times):
    scores = only_scores(some)
    for name, bounds in intervals(scores, draws=50).items():
        assert interval(scores * times, name, draws=50) == pytest.approx(bounds, nan_ok=True)


def test_equal_slices_leave_nothing_uncertain():
    scores = [constant(6, f"p{i}", j) for i in range(5) for j in range(1 + i)]
    assert interval(scores, "dice") == pytest.approx((0.6, 0.6))
    assert interval(scores, "pooled_iou") == pytest.approx((6 / 14, 6 / 14))


def test_four_times_the_patients_halve_the_interval():
    def width(patients):
        low, high = interval([constant(i % 10, f"p{i}", 0) for i in range(patients)])
        return high - low

    assert width(160) == pytest.approx(width(40) / 2, rel=0.1)
    assert width(40) == pytest.approx(2 * 1.96 * np.std(np.arange(10) / 10) / math.sqrt(40), rel=0.1)  # as theory says


def test_two_patients_can_only_be_drawn_in_three_ways():
    scores = [constant(10, "a", 0), constant(0, "b", 0), constant(0, "b", 1), constant(3, "b", 2)]
    values, number = np.unique(bootstrap(scores)["dice"].round(9), return_counts=True)
    assert values == pytest.approx([0.1, 1.3 / 4, 1.0])  # b twice, both, a twice
    assert number / 2000 == pytest.approx([0.25, 0.5, 0.25], abs=0.04)


def test_five_patients_have_an_interval_and_four_with_any_number_of_slices_have_none():
    five = [constant(3 + p, f"p{p}", i) for p in range(5) for i in range(2)]
    assert all(math.isnan(x) for x in interval(five[:8])) and table_row(five[:8])["dice"] > 0
    low, high = interval(five)
    assert low < table_row(five)["dice"] < high


def test_without_draws_there_are_scores_and_no_intervals():
    scores = [constant(k, f"p{k}", k) for k in range(6)]
    row = table_row(scores, draws=0)
    assert row["dice"] == pytest.approx(table_row(scores, draws=10)["dice"])
    assert all(math.isnan(bound) for bounds in intervals(scores, draws=0).values() for bound in bounds)


def test_the_same_patients_are_drawn_for_two_networks_so_their_difference_is_paired():
    one = [constant(i % 8, f"p{i}", 0) for i in range(30)]
    other = [constant(i % 8 + 2, f"p{i}", 0) for i in range(30)]
    assert bootstrap(other)["dice"] - bootstrap(one)["dice"] == pytest.approx(0.2)
    assert not np.allclose(bootstrap(one, seed=1)["dice"], bootstrap(one)["dice"])


def test_two_thousand_draws_from_seed_0_and_other_draws_and_seeds_reach_every_interval():
    scores = [constant(i % 8, f"p{i}", 0) for i in range(12)]
    drawn = bootstrap(scores)
    assert all(len(values) == 2000 for values in drawn.values())
    assert np.array_equal(drawn["dice"], bootstrap(scores, draws=2000, seed=0)["dice"])
    for options in ({}, {"draws": 60}, {"seed": 3}, {"draws": 60, "seed": 3}):
        low, high = np.percentile(bootstrap(scores, **options)["dice"], [2.5, 97.5])
        assert interval(scores, **options) == intervals(scores, **options)["dice"] == (low, high)
        for row in (table_row(scores, **options), table_rows(scores, **options)[0]):
            assert (row["dice_low"], row["dice_high"]) == (low, high)


def test_an_interval_can_be_asked_of_a_stratum():
    scores = [constant(i, f"p{i}", 0) for i in range(10)]  # each lesion is 10 mm2, so 3.6 mm
    assert interval(scores, stratum=Stratum(size="<5 mm")) == interval(scores, stratum=EVERYTHING)
    assert all(math.isnan(x) for x in interval(scores, stratum=Stratum(size=">=20 mm")))


# ---- lesion classes ----------------------------------------------------------------------------------------


class LabelMaps:
    """A data set of label maps, as those of slices and volumes."""

    def __init__(self, targets, num_classes):
        self.targets, self.num_classes = targets, num_classes
        self.records = [ImageRecord(f"s{i}", f"p{i // 2}", "test", spacing_mm=1.0) for i in range(len(targets))]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        image = torch.full((1, *self.targets[i].shape), i / 10)  # so that `predict` knows which it is
        return image, torch.from_numpy(one_hot(self.targets[i], self.num_classes)), self.records[i].id


@st.composite
def label_maps(draw):
    """(predictions, targets): a few small maps of 0 and two or three classes."""
    num = draw(st.integers(1, 4))
    maps = hnp.arrays(np.uint8, (2, num, 4, 5), elements=st.sampled_from([0, 0, 1, 2, 3]))
    return tuple(map(list, draw(maps)))


@few
@given(label_maps())
def test_each_class_is_scored_as_a_binary_task_and_lesion_is_any_of_them(maps):
    preds, targets = maps

    def predict(image, record):
        return preds[round(float(image[0, 0]) * 10)]

    scores = score_all(LabelMaps(targets, 3), predict, by_class=True)
    whole = [str(replace(s, classes=(), called_as=())) for s in scores]  # as text, in which NaN equals NaN
    assert list(map(str, score_all(LabelMaps(targets, 3), predict))) == whole

    def binary(k):  # as a folder of this class alone would be scored
        data = LabelMaps([t == k if k else t > 0 for t in targets], 1)
        return score_all(data, lambda image, record: predict(image, record) == k if k else predict(image, record) > 0)

    assert list(map(str, binary(0))) == whole
    rows = class_rows(scores, ("a", "b", "c"), draws=3)
    assert [row["stratum"] for row in rows] == ["class a", "class b", "class c"]
    for k, row in enumerate(rows, start=1):
        assert [str(s.classes[k - 1]) for s in scores] == list(map(str, binary(k)))
        want = table_row(binary(k), draws=3) | {"stratum": row["stratum"]}
        assert row.keys() == want.keys() and all(row[x] == want[x] or row[x] != row[x] for x in row)


def test_the_right_place_with_the_wrong_class_is_found_for_any_and_missed_for_each():
    target = np.zeros((6, 6), np.uint8)
    target[2:4, 2:4] = 1
    [score] = score_all(LabelMaps([target], 2), lambda *_: 2 * target, by_class=True)
    assert score.tp == 4 and score.lesions[0].found and score.false_positives == 0
    right, wrong = score.classes
    assert (right.tp, right.fn) == (0, 4) and not right.lesions[0].found
    assert (wrong.tp, wrong.fp, wrong.false_positives) == (0, 4, 1) and not wrong.lesions
    assert confusion_rows([score, score], ("a", "b")) == [
        {"class": "a", "lesions": 2, "missed": 0, "called a": 0, "called b": 2},
        {"class": "b", "lesions": 0, "missed": 0, "called a": 0, "called b": 0},
    ]
