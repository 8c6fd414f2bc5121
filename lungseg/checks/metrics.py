"""What any count of pixels, and any score made from it, must satisfy: slow loops in Python are the oracle."""

import math
from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, strategies as st

from lungseg.checks.running import learner_settings

SCORES = ("dice", "iou", "precision", "recall", "rmse")
# Not near the thresholds' own logits (-0.85, 0, 2.2), so that rounding decides nothing; 0.3 lies in (0, 0.5).
LOGITS = st.sampled_from([-50.0, -2.0, -0.5, 0.3, 1.0, 3.0, 50.0])


@st.composite
def maps(draw):
    """(logits, target), each a nested list: images x pixels; and the spatial shape the pixels fold into."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=3)))
    images, pixels = draw(st.integers(1, 3)), math.prod(shape)

    def exactly(n, element):
        return st.lists(element, min_size=n, max_size=n)

    logits = draw(exactly(images, exactly(pixels, LOGITS)))
    any_target = exactly(pixels, st.integers(0, 1))
    target = st.one_of(st.just([0] * pixels), st.just([1] * pixels), any_target)  # empty and full ones often
    return logits, draw(exactly(images, target)), shape


def counted(logits: list[float], target: list[int], threshold: float) -> list[int]:
    """tp, fp, fn, tn of one image, pixel by pixel."""
    tp = fp = fn = tn = 0
    for x, lesion in zip(logits, target, strict=True):
        said = 1 / (1 + math.exp(-x)) > threshold
        tp += said and lesion == 1
        fp += said and lesion == 0
        fn += not said and lesion == 1
        tn += not said and lesion == 0
    return [int(tp), int(fp), int(fn), int(tn)]


def check_confusion_counts(confusion_counts: Callable, *, max_examples: int = 100) -> None:
    """Fail unless `confusion_counts(logits, target, threshold=p)` counts each image exactly.

    logits and target are (B, 1, *spatial), the result (B, 4) int64: tp, fp, fn, tn. p bounds the probability,
    not the logit.
    """

    @learner_settings(max_examples)
    @given(case=maps(), threshold=st.sampled_from([0.5, 0.3, 0.9]))
    def counts_are_those_of_a_loop(case, threshold):
        logits, target, shape = case
        counts = confusion_counts(
            torch.tensor(logits).reshape(-1, 1, *shape),
            torch.tensor(target).reshape(-1, 1, *shape).float(),
            threshold=threshold,
        )
        assert counts.dtype == torch.int64, f"counts are {counts.dtype}; int64 alone is exact for any volume"
        B, found = len(logits), tuple(counts.shape)
        assert found == (B, 4), f"the shape for {B} images is {found}, not (B, 4) = ({B}, 4)"
        for x, t, got in zip(logits, target, counts.tolist(), strict=True):
            want = counted(x, t, threshold)
            assert got == want, (
                f"logits {x} with target {t} at probability {threshold}: (tp, fp, fn, tn) is {got}, "
                f"a loop over the pixels counts {want}"
            )

    counts_are_those_of_a_loop()
    big = torch.ones(1, 1, 300, 300)
    got = confusion_counts(20 * big, big, threshold=0.5).tolist()
    assert got == [[90_000, 0, 0, 0]], f"300 x 300 pixels, all lesion, all found: counted {got}, not 90000 tp"


def scores(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """The five scores of one image, by their formulas; 0/0 is NaN."""

    def ratio(top, bottom):
        return top / bottom if bottom else math.nan

    return {
        "dice": ratio(2 * tp, (tp + fp) + (tp + fn)),  # 2 |A and B| / (|A| + |B|)
        "iou": ratio(tp, tp + fp + fn),  # |A and B| / |A or B|
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "rmse": math.sqrt((fp + fn) / (tp + fp + fn + tn)),
    }


def same(got: float, want: float) -> bool:
    return math.isnan(got) if math.isnan(want) else math.isclose(got, want, rel_tol=1e-9, abs_tol=1e-12)


def count_tables():
    """Rows of (tp, fp, fn, tn), most of them small, many with zeros, none all zero."""
    number = st.sampled_from([0, 1, 2, 5, 10**10])
    row = st.tuples(number, number, number, number).filter(any)
    return st.lists(row, min_size=1, max_size=4)


def check_per_image(per_image: Callable, *, max_examples: int = 200) -> None:
    """Fail unless `per_image(counts)` scores each image by itself, with NaN exactly where the formula is 0/0.

    counts is (n, 4) int64: tp, fp, fn, tn. The result maps "dice", "iou", "precision", "recall", "rmse" to
    (n,).
    """

    @learner_settings(max_examples)
    @given(rows=count_tables())
    def each_image_has_the_scores_of_its_formula(rows):
        got = per_image(torch.tensor(rows))
        for name in SCORES:
            shape = tuple(got[name].shape)
            assert shape == (len(rows),), f"{name} has shape {shape}, not ({len(rows)},)"
        for i, row in enumerate(rows):
            for name, want in scores(*row).items():
                value = got[name][i].item()
                assert same(value, want), f"(tp, fp, fn, tn) = {row}: {name} is {value}, not {want}"

    each_image_has_the_scores_of_its_formula()


def check_summarise(summarise: Callable, *, max_examples: int = 200) -> None:
    """Fail unless `summarise(counts)` averages over the images that have a score, and counts the others."""

    @learner_settings(max_examples)
    @given(rows=count_tables())
    def the_summary_is_that_of_a_loop(rows):
        got = summarise(torch.tensor(rows))
        each = [scores(*row) for row in rows]
        whole = scores(*(sum(column) for column in zip(*rows, strict=True)))
        want = {f"pooled_{name}": whole[name] for name in SCORES}
        for name in SCORES:
            defined = [s[name] for s in each if not math.isnan(s[name])]
            want[name] = sum(defined) / len(defined) if defined else math.nan
        want["images"] = len(rows)
        want["empty_targets"] = sum(tp + fn == 0 for tp, _, fn, _ in rows)
        want["empty_predictions"] = sum(tp + fp == 0 for tp, fp, _, _ in rows)
        want["false_alarms"] = sum(tp + fn == 0 and fp > 0 for tp, fp, fn, _ in rows)
        for name, value in want.items():
            assert name in got, f"the summary lacks {name!r}"
            assert same(got[name], value), f"(tp, fp, fn, tn) = {rows}: {name} is {got[name]}, not {value}"

    the_summary_is_that_of_a_loop()


def outline(lesion: np.ndarray) -> list[tuple[int, ...]]:
    """The lesion pixels that have a background pixel, or the outside, as a direct neighbour."""
    inside = {tuple(int(i) for i in p) for p in np.argwhere(lesion)}

    def neighbours(p):
        for axis in range(len(p)):
            for step in (-1, 1):
                yield (*p[:axis], p[axis] + step, *p[axis + 1 :])

    return [p for p in sorted(inside) if any(n not in inside for n in neighbours(p))]


def check_hausdorff95(hausdorff95: Callable, *, max_examples: int = 100) -> None:
    """Fail unless `hausdorff95(pred, target, spacing_mm)` is the larger directed 95th percentile."""

    @learner_settings(max_examples)
    @given(case=maps(), spacing=st.lists(st.sampled_from([0.5, 1.0, 2.5]), min_size=3, max_size=3))
    def distance_is_that_between_all_pairs_of_outline_pixels(case, spacing):
        logits, target, shape = case
        a, b = np.array(logits[0]).reshape(shape) > 0, np.array(target[0]).reshape(shape) == 1
        spacing = tuple(spacing[: len(shape)])
        got = hausdorff95(a, b, spacing)
        want = math.nan
        if a.any() and b.any():
            mm = [np.array(outline(x)) * spacing for x in (a, b)]  # (pixels, axes) each
            pairs = np.linalg.norm(mm[0][:, None] - mm[1][None], axis=-1)  # (pixels of a, pixels of b)
            want = max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95))
        assert same(got, float(want)), (
            f"prediction {a.astype(int).tolist()}, target {b.astype(int).tolist()}, spacing {spacing} mm: "
            f"distance is {got} mm, all pairs of outline pixels give {want} mm"
        )

    distance_is_that_between_all_pairs_of_outline_pixels()
