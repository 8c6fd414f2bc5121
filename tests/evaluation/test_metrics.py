"""Metrics: the shared checks, laws for any image, cases by hand, and the published implementations."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lungseg.checks.scores.distances import Pair, check_hausdorff95, distance_by_pairs
from lungseg.checks.scores.metrics import (
    COUNTED,
    SCORES,
    SUMMARY,
    Batch,
    check_confusion_counts,
    check_per_image,
    check_summarise,
    counts_by_loops,
    scores_by_formula,
    summary_by_loops,
)
from lungseg.checks.scores.scores import Counts
from lungseg.evaluation.metrics import (
    class_counts,
    confusion_counts,
    counts_from_pred,
    hausdorff95,
    per_image,
    pooled,
    summarise,
    summarise_classes,
    worst_median_best,
)

CASES = torch.load(Path(__file__).parents[1] / "fixtures/metrics/metrics.pt", weights_only=True)["cases"]


# Far enough from the logits of the thresholds (-0.85, 0, 2.2) that rounding decides nothing; 0.3 is in (0, 0.5), where
# a threshold on the logit and one on the probability differ.
LOGITS = st.sampled_from([-50.0, -2.0, -0.5, 0.3, 1.0, 3.0, 50.0])


@st.composite
def batches(draw):
    """Images with their targets, which are often empty or full, and a threshold."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=3)))
    images, pixels = draw(st.integers(1, 3)), math.prod(shape)

    def exactly(n, element):
        return st.lists(element, min_size=n, max_size=n)

    target = st.one_of(st.just([0] * pixels), st.just([1] * pixels), exactly(pixels, st.integers(0, 1)))
    logits = draw(exactly(images, exactly(pixels, LOGITS)))
    return Batch(logits, draw(exactly(images, target)), shape, draw(st.sampled_from([0.5, 0.3, 0.9])))


@st.composite
def pairs(draw):
    """Two maps of a few boxes each, in a slice or a volume."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))

    def box(side):
        return st.tuples(st.integers(0, side), st.integers(0, side)).map(lambda ends: tuple(sorted(ends)))

    boxes = st.lists(st.tuples(*map(box, shape)), max_size=3).map(tuple)
    spacing = tuple(draw(st.sampled_from([0.5, 1.0, 2.5])) for _ in shape)
    return Pair(shape, draw(boxes), draw(boxes), spacing)


def count_tables():
    """Lists of rows (tp, fp, fn, tn), most of them small, many with zeros, none all zero."""
    number = st.sampled_from([0, 1, 2, 5, 10**10])
    row = st.tuples(number, number, number, number).filter(any)
    return st.lists(row, min_size=1, max_size=4)


def same(got, expected):
    """Whether two numbers agree, both NaN included."""
    return math.isnan(got) if math.isnan(expected) else math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12)


@given(case=batches())
def test_counts_are_those_of_a_loop(case):
    logits, target = case.tensors()
    counts = confusion_counts(logits, target, threshold=case.threshold)
    assert counts.dtype == torch.int64 and counts.tolist() == counts_by_loops(case).tolist()


@given(rows=count_tables())
def test_each_image_has_the_scores_of_its_formula(rows):
    got = per_image(torch.tensor(rows))
    assert set(got) == set(SCORES)
    for i, row in enumerate(rows):
        for name, expected in scores_by_formula(Counts(*row, 1)).items():
            assert same(got[name][i].item(), expected), (row, name)


@given(rows=count_tables())
def test_the_summary_is_that_of_a_loop(rows):
    got = summarise(torch.tensor(rows))
    for name, expected in zip(SUMMARY, summary_by_loops([Counts(*row, 1) for row in rows]).tolist(), strict=True):
        assert same(got[name], expected), name
    assert all(isinstance(got[name], int) for name in COUNTED)


@given(case=pairs())
def test_the_distance_is_that_between_all_pairs_of_outline_pixels(case):
    assert same(hausdorff95(*case.maps(), case.spacing), distance_by_pairs(case).item())


def test_our_counts_pass_the_shared_check():
    check_confusion_counts(confusion_counts)


def test_our_scores_per_image_pass_the_shared_check():
    check_per_image(per_image)


def test_our_summary_passes_the_shared_check():
    check_summarise(summarise)


def test_our_hausdorff_distance_passes_the_shared_check():
    check_hausdorff95(hausdorff95)


# ---- laws --------------------------------------------------------------------------------------------------


@given(rows=count_tables())
def test_dice_and_iou_of_one_image_are_one_number_said_twice(rows):
    scores = per_image(torch.tensor(rows))
    torch.testing.assert_close(scores["dice"], 2 * scores["iou"] / (1 + scores["iou"]), equal_nan=True)


@given(rows=count_tables())
def test_mean_dice_is_between_mean_iou_and_its_curve(rows):
    s = summarise(torch.tensor(rows))
    if not math.isnan(s["dice"]):
        assert s["iou"] - 1e-12 <= s["dice"] <= 2 * s["iou"] / (1 + s["iou"]) + 1e-12


@given(rows=count_tables(), cut=st.integers(0, 4))
def test_processes_may_count_apart_and_concatenate(rows, cut):
    counts = torch.tensor(rows)
    joined = torch.cat([counts[cut:], counts[:cut]])  # as two processes would gather them, in any order
    assert summarise(joined) == pytest.approx(summarise(counts), nan_ok=True)


@given(rows=count_tables())
def test_pooled_scores_are_those_of_one_large_image(rows):
    whole = torch.tensor([[sum(column) for column in zip(*rows, strict=True)]])
    assert pooled(torch.tensor(rows)) == pytest.approx(
        {name: score.item() for name, score in per_image(whole).items()}, nan_ok=True
    )


@pytest.mark.parametrize("shape", [(7, 9), (3, 7, 9)])
def test_counts_are_the_same_on_slices_and_volumes_and_add_up_to_the_image(shape):
    logits, target = torch.randn(4, 1, *shape), torch.randint(2, (4, 1, *shape))
    counts = confusion_counts(logits, target)
    assert torch.equal(counts.sum(1), torch.full((4,), math.prod(shape)))
    assert torch.equal(counts, confusion_counts(logits.flatten(2), target.flatten(2)))
    assert torch.equal(counts, counts_from_pred(logits > 0, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_counts_do_not_depend_on_the_dtype_of_the_logits(dtype):
    logits, target = torch.randn(2, 1, 50, 50).bfloat16(), torch.randint(2, (2, 1, 50, 50))
    for threshold in (0.2, 0.5, 0.95):
        want = confusion_counts(logits.float(), target, threshold=threshold)
        assert torch.equal(confusion_counts(logits.to(dtype), target, threshold=threshold), want)


# ---- by hand -----------------------------------------------------------------------------------------------


def test_two_by_three_pixels_by_hand():
    logits = torch.tensor([[2.0, 2.0, 2.0], [-2.0, -2.0, -2.0]]).reshape(1, 1, 2, 3)
    target = torch.tensor([[1, 1, 0], [1, 0, 0]]).reshape(1, 1, 2, 3)
    counts = confusion_counts(logits, target)
    assert counts.tolist() == [[2, 1, 1, 2]]
    scores = {name: score.item() for name, score in per_image(counts).items()}
    assert scores == pytest.approx(
        {"dice": 4 / 6, "iou": 2 / 4, "precision": 2 / 3, "recall": 2 / 3, "rmse": math.sqrt(2 / 6)}
    )


def test_a_probability_exactly_at_the_threshold_is_background_and_so_is_nan():
    logits = torch.tensor([0.0, 0.01, -0.01, torch.nan]).reshape(1, 1, 2, 2)
    assert confusion_counts(logits, torch.ones(1, 1, 2, 2)).tolist() == [[1, 0, 3, 0]]


def test_the_rule_for_0_0_on_four_kinds_of_image():
    counts = torch.tensor([[0, 0, 0, 100], [0, 7, 0, 93], [0, 0, 7, 93], [6, 2, 2, 90]])
    silent, false_alarm, missed, found = range(4)
    scores = per_image(counts)
    undefined = {name: [i for i in range(4) if scores[name][i].isnan()] for name in scores}
    assert undefined == {
        "dice": [silent],
        "iou": [silent],
        "precision": [silent, missed],
        "recall": [silent, false_alarm],
        "rmse": [],
    }
    assert scores["dice"][false_alarm] == scores["dice"][missed] == 0
    summary = summarise(counts)
    assert summary["dice"] == pytest.approx((0 + 0 + 12 / 16) / 3)
    assert summary["recall"] == pytest.approx((0 + 6 / 8) / 2)
    assert (summary["images"], summary["empty_targets"], summary["empty_predictions"]) == (4, 2, 2)
    assert summary["false_alarms"] == 1


def test_pooling_favours_the_large_lesion():
    summary = summarise(torch.tensor([[1000, 0, 0, 0], [0, 0, 10, 990]]))
    assert summary["dice"] == 0.5
    assert summary["pooled_dice"] == pytest.approx(2000 / 2010)


def test_all_background_has_an_rmse_that_looks_excellent():
    target = torch.zeros(1, 1, 200, 200)
    target[..., 100, 90:110] = 1  # 20 of 40,000 pixels: 0.05 %
    summary = summarise(counts_from_pred(torch.zeros_like(target), target))
    assert round(summary["rmse"], 4) == 0.0224
    assert summary["dice"] == summary["recall"] == 0 and math.isnan(summary["precision"])


def test_no_images_have_no_scores():
    summary = summarise(torch.zeros(0, 4, dtype=torch.int64))
    assert summary["images"] == 0 and math.isnan(summary["dice"]) and math.isnan(summary["pooled_rmse"])


def test_two_pixels_three_and_four_apart_are_five_apart():
    pred, target = np.zeros((9, 9), bool), np.zeros((9, 9), np.uint8)
    pred[1, 2], target[4, 6] = True, 1
    assert hausdorff95(pred, target, 1.0) == 5.0
    assert hausdorff95(pred, target, (2.0, 0.5)) == pytest.approx(math.hypot(6, 2))


def test_one_stray_pixel_in_a_hundred_does_not_move_the_95th_percentile():
    target = torch.zeros(60, 60, dtype=torch.bool)
    target[5:30, 5:30] = True
    pred = target.clone()
    pred[55, 55] = True
    assert hausdorff95(pred, target, 0.7) == 0.0


# ---- published implementations -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_counts_and_scores_equal_the_published_ones(name):
    case, ref = CASES[name], CASES[name]["ref"]
    counts = counts_from_pred(case["pred"][None, None], case["gt"][None, None])
    assert tuple(counts[0].tolist()) == ref["counts"]
    got = {score: value.item() for score, value in per_image(counts).items()}
    no_lesion, nothing_said = not case["gt"].any(), not case["pred"].any()
    want = {  # MONAI leaves out every image without a lesion; we leave out only those that are 0/0
        "dice": 0.0 if no_lesion and not nothing_said else ref["monai_dice"],
        "iou": 0.0 if no_lesion and not nothing_said else ref["monai_iou"],
        "precision": math.nan if nothing_said else ref["tm_precision"],  # torchmetrics says 0 for 0/0
        "recall": math.nan if no_lesion else ref["tm_recall"],
        "rmse": math.sqrt(1 - ref["tm_accuracy"]),
    }
    assert got == pytest.approx(want, abs=1e-6, nan_ok=True)
    assert got["dice"] == pytest.approx(ref["smp_f1"], abs=1e-6, nan_ok=True)  # smp needs no exception
    assert got["iou"] == pytest.approx(ref["smp_iou"], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("name", CASES)
def test_the_hausdorff_distance_equals_monais(name):
    case = CASES[name]
    got = hausdorff95(case["pred"], case["gt"], case["spacing"])
    assert got == pytest.approx(case["ref"]["monai_hd95"], rel=1e-6, nan_ok=True)


# ---- classes -----------------------------------------------------------------------------------------------


@given(classes=st.integers(1, 4), threshold=st.sampled_from([0.3, 0.5, 0.9]), seed=st.integers(0, 99))
def test_each_class_is_counted_as_if_it_were_alone(classes, threshold, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 4, 5, generator=g)
    target = torch.randint(2, logits.shape, generator=g)
    counts = class_counts(logits, target, threshold=threshold)
    assert counts.shape == (3, classes, 4) and counts.dtype == torch.int64
    for k in range(classes):
        alone = confusion_counts(logits[:, k : k + 1], target[:, k : k + 1], threshold=threshold)
        assert torch.equal(counts[:, k], alone)


@given(rows=st.lists(count_tables(), min_size=1, max_size=3))
def test_the_summary_of_classes_is_the_mean_over_those_that_occur(rows):
    n = min(map(len, rows))
    counts = torch.stack([torch.tensor(of_class[:n]) for of_class in rows], dim=1)  # (n, K, 4)
    got = summarise_classes(counts)
    alone = [summarise(counts[:, k]) for k in range(len(rows))]
    occurs = [k for k in range(len(rows)) if any(tp + fn for tp, _, fn, _ in rows[k][:n])]
    for name in ("dice", "iou", "precision", "recall", "rmse", "pooled_dice"):
        values = [alone[k][name] for k in occurs if not math.isnan(alone[k][name])]
        want = sum(values) / len(values) if values else math.nan
        assert got[name] == pytest.approx(want, nan_ok=True), name
        for k in range(len(rows)):
            want = alone[k][name] if k in occurs else math.nan
            assert got[f"{name} of class {k + 1}"] == pytest.approx(want, nan_ok=True)
    for k in range(len(rows)):
        assert got[f"false_alarms of class {k + 1}"] == alone[k]["false_alarms"]
    assert got["images"] == n


def test_an_image_is_empty_where_no_class_is_there():
    #                  class "a"      class "b"
    counts = torch.tensor([[[5, 0, 1, 94], [0, 0, 0, 100]],  # a is found
                           [[0, 0, 0, 100], [0, 3, 0, 97]],  # b is a false alarm in an image without any lesion
                           [[0, 2, 0, 98], [0, 0, 4, 96]],  # a where b is
                           [[0, 0, 0, 100], [0, 0, 0, 100]]])  # rightly empty  # fmt: skip
    s = summarise_classes(counts, ["a", "b"])
    assert (s["images"], s["empty_targets"], s["empty_predictions"], s["false_alarms"]) == (4, 2, 1, 1)
    assert s["false_alarms of a"] == 1 and s["false_alarms of b"] == 1
    assert s["dice of a"] == pytest.approx((10 / 11 + 0) / 2) and s["dice of b"] == 0
    assert s["dice"] == pytest.approx((s["dice of a"] + 0) / 2)


def test_a_class_that_never_occurs_takes_no_part_in_the_mean_but_its_false_alarms_count():
    counts = torch.tensor([[[5, 1, 1, 93], [0, 9, 0, 91]], [[5, 1, 1, 93], [0, 0, 0, 100]]])
    s = summarise_classes(counts, ["seen", "never"])
    assert s["dice"] == s["dice of seen"] == pytest.approx(10 / 12) and s["rmse"] == s["rmse of seen"]
    assert math.isnan(s["dice of never"]) and math.isnan(s["pooled_rmse of never"]) and s["false_alarms of never"] == 1
    nothing = summarise_classes(0 * counts[:1] + torch.tensor([0, 0, 0, 100]))
    assert math.isnan(nothing["dice"])


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 1), (1, 1, 8, 8)])
def test_a_target_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"must both be \(B, 1, \*spatial\)"):
        confusion_counts(torch.zeros(2, 1, 8, 8), torch.zeros(shape))


def test_maps_without_a_spatial_axis_are_refused():
    with pytest.raises(ValueError, match=r"must both be \(B, 1, \*spatial\)"):
        counts_from_pred(torch.ones(8, 1, dtype=torch.bool), torch.ones(8, 1))


def test_maps_of_classes_of_two_shapes_are_refused():
    for shape in ((2, 1, 8, 8), (2, 3, 8, 1), (2, 3)):
        with pytest.raises(ValueError, match=r"must both be \(B, K, \*spatial\)"):
            class_counts(torch.zeros(2, 3, 8, 8), torch.zeros(shape))
    with pytest.raises(ValueError, match=r"must be \(n, K, 4\)"):
        summarise_classes(torch.zeros(2, 4).long())


def test_several_channels_are_counted_one_at_a_time():
    logits, target = torch.randn(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"x\[:, k : k \+ 1\]"):
        confusion_counts(logits, target)
    assert confusion_counts(logits[:, 1:2], target[:, 1:2]).shape == (2, 4)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 128])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match="must be a probability between 0 and 1"):
        confusion_counts(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), threshold=threshold)


@pytest.mark.parametrize("value", [255.0, 0.5, -1.0, math.nan])
def test_a_target_with_other_values_than_0_and_1_is_refused(value):
    with pytest.raises(ValueError, match="the target holds values other than 0 and 1"):
        confusion_counts(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), value))


def test_probabilities_are_no_prediction():
    with pytest.raises(ValueError, match="the prediction holds values other than 0 and 1"):
        counts_from_pred(torch.full((1, 1, 2, 2), 0.3), torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("counts", [torch.zeros(4).long(), torch.zeros(2, 4), torch.zeros(2, 3).long()])
def test_anything_but_a_table_of_counts_is_refused(counts):
    for f in (per_image, pooled, summarise):
        with pytest.raises(ValueError, match=r"must be \(n, 4\) torch.int64"):
            f(counts)


@pytest.mark.parametrize("spacing", [0.0, (1.0, 1.0, 1.0), (1.0, -1.0)])
def test_a_spacing_that_does_not_fit_is_refused(spacing):
    with pytest.raises(ValueError, match="one positive number, or one for each"):
        hausdorff95(np.ones((3, 3), bool), np.ones((3, 3), bool), spacing)


def test_two_maps_of_different_shapes_have_no_distance():
    with pytest.raises(ValueError, match="must have the same shape"):
        hausdorff95(np.ones((3, 3), bool), np.ones((3, 4), bool), 1.0)


# ---- which images to show ----------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.just(math.nan), st.floats(0, 1)), min_size=1, max_size=15))
def test_worst_median_and_best_are_those_of_the_images_that_have_a_dice(dice):
    chosen = worst_median_best(dice)
    assert [name for name, _ in chosen] == ["worst", "median", "best"]
    known = sorted(d for d in dice if not math.isnan(d))
    if known:
        assert [dice[i] for _, i in chosen] == [known[0], known[len(known) // 2], known[-1]]
    else:
        assert [i for _, i in chosen] == [0, 0, 0]


def test_the_distance_in_a_large_volume_needs_little_memory():
    """Two spots in its corners; a map of distances takes some 40 bytes a voxel."""
    pred, target = np.zeros((2, 64, 128, 128), bool)
    pred[:2, :2, :2], target[-2:, -2:, -2:] = True, True
    tracemalloc.start()
    distance = hausdorff95(pred, target, (2.0, 1.0, 1.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.9 < distance / math.hypot(2 * 62, 126, 126) <= 1 and peak < 8 * pred.size
