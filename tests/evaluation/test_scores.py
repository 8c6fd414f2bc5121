"""The scores of an image, against published ones; and what survives of a data set."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scored_slices import only_scores, slices

from lungseg.data.manifest import ImageRecord
from lungseg.evaluation.lesions import SIZES_MM, SIZES_PX
from lungseg.evaluation.scores import known_spacings, score_all, score_image, scores_per_image, unit_remark
from lungseg.evaluation.strata import table_row, table_rows

CASES = torch.load(Path(__file__).parents[1] / "fixtures/metrics/metrics.pt", weights_only=True)["cases"]
few = settings(max_examples=25)


# ---- one slice ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_slice_of_the_table_equals_the_published_scores(name):
    case, ref = CASES[name], CASES[name]["ref"]
    score = score_image(case["pred"], case["gt"], id=name, group="g", spacing_mm=tuple(case["spacing"]))
    assert (score.tp, score.fp, score.fn, score.tn) == tuple(ref["counts"])
    got = {key: values.item() for key, values in scores_per_image([score]).items()}
    assert got["hd95_mm"] == pytest.approx(ref["monai_hd95"], rel=1e-6, nan_ok=True)
    assert got["rmse"] == pytest.approx(math.sqrt(1 - ref["tm_accuracy"]), abs=1e-6)
    if score.lesions:  # of an empty target each library says something else (docs/metrics.md)
        want = {"dice": ref["monai_dice"], "iou": ref["monai_iou"], "recall": ref["tm_recall"]}
        assert {key: got[key] for key in want} == pytest.approx(want, abs=1e-6)


def test_the_means_of_the_table_are_the_means_of_the_published_scores():
    scores = [score_image(c["pred"], c["gt"], id=n, group=n, spacing_mm=tuple(c["spacing"])) for n, c in CASES.items()]
    row = table_row(scores, draws=10)
    refs = [case["ref"] for case in CASES.values()]
    hd95 = [r["monai_hd95"] for r in refs if not math.isnan(r["monai_hd95"])]
    assert row["hd95_mm"] == pytest.approx(sum(hd95) / len(hd95), rel=1e-6)
    tp, fp, fn, tn = (sum(column) for column in zip(*(r["counts"] for r in refs), strict=True))
    assert row["pooled_dice"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert row["pooled_rmse"] == pytest.approx(math.sqrt((fp + fn) / (tp + fp + fn + tn)))


@few
@given(slices())
def test_turning_a_slice_round_changes_nothing(some):
    for pred, target, score in some:
        about = {"id": score.id, "group": score.group, "label": score.label, "spacing_mm": 0.7}
        here, there = (score_image(f(pred), f(target), **about) for f in (np.asarray, np.fliplr))
        assert sorted(here.lesions) == sorted(there.lesions)
        assert here.hd95 == pytest.approx(there.hd95, nan_ok=True)
        for name in ("tp", "fp", "fn", "tn", "false_positives", "diameter"):
            assert getattr(here, name) == getattr(there, name)


def test_without_a_spacing_sizes_and_distances_are_in_pixels():
    square = np.zeros((20, 20))
    square[2:11, 2:11] = 1
    score = score_image(np.roll(square, 3, axis=1), square, id="a", group="g")
    assert score.unit == "px" and score.hd95 == 3 and score.diameter == pytest.approx(2 * 9 / math.sqrt(math.pi))
    rows = table_rows([score], draws=2)
    assert [(row["stratum"], row["unit"]) for row in rows] == [("all", "px"), ("7-14 px", "px")]
    assert rows[0]["hd95_px"] == 3 and math.isnan(rows[0]["hd95_mm"])


@few
@given(slices(max_slices=1), st.floats(0.3, 3), st.floats(0.3, 3))
def test_pixels_are_millimetres_of_a_slice_of_1_mm_pixels(some, height, width):
    """Each counts in pixels of the original, which may be larger than those of the file, and not square."""
    ((pred, target, _),) = some
    px = score_image(pred, target, id="a", group="g", spacing_px=(height, width))
    mm = score_image(pred, target, id="a", group="g", spacing_mm=(height, width))
    assert (px.unit, mm.unit) == ("px", "mm")
    assert (px.lesions, px.hd95) == (mm.lesions, pytest.approx(mm.hd95, nan_ok=True))


@few
@given(slices(min_slices=2))
def test_mm_and_pixels_are_never_averaged_together(some):
    scores = only_scores(some)
    whole = table_row(scores, draws=2)
    for unit in ("mm", "px"):
        alone = [s for s in scores if s.unit == unit]
        assert whole[f"hd95_{unit}"] == pytest.approx(table_row(alone, draws=2)[f"hd95_{unit}"], nan_ok=True)
        rows = {r["stratum"]: r["slices"] for r in table_rows(scores, draws=2)}
        sizes = {"mm": SIZES_MM, "px": SIZES_PX}[unit]
        assert sum(rows.get(size, 0) for size in sizes) == sum(bool(s.lesions) for s in alone)
    assert whole["unit"] == ", ".join(sorted({s.unit for s in scores}))


def test_bad_maps_are_refused_with_the_name_of_the_slice():
    with pytest.raises(ValueError, match=r"^slice7: prediction \(4, 4\) and target \(8, 8\) must have the same shape"):
        score_image(np.zeros((4, 4)), np.zeros((8, 8)), id="slice7", group="g")
    with pytest.raises(ValueError, match="^slice7: the target holds values other than 0 and 1"):
        score_image(np.zeros((4, 4)), np.full((4, 4), 255), id="slice7", group="g")


@pytest.mark.parametrize("spacing", [0, -0.7, math.inf, (0.7, 0), (math.nan, -1), (1, 1, 1), (0.7,)])
def test_an_impossible_spacing_is_refused_with_the_name_of_the_slice(spacing):
    for target in (np.zeros((4, 4)), np.ones((4, 4))):  # even where there is nothing to measure
        with pytest.raises(ValueError, match="^slice7: spacing_mm=.* must be one positive number, or one for each"):
            score_image(target, target, id="slice7", group="g", spacing_mm=spacing)


class FewSlices(list):
    """A data set: items, and the row of the manifest of each."""

    def __init__(self, items, records):
        super().__init__(items)
        self.records = records


class FewVolumes(FewSlices):
    def spacing_mm(self, index):
        return (2.0, 1.0, 1.0)


def test_a_data_set_is_scored_in_its_order_with_the_patients_and_pixels_of_its_records():
    records = [ImageRecord(f"slice{i}", f"patient{i}", "test", "LR2", spacing_mm=0.5) for i in range(2)]
    target = torch.zeros(1, 4, 4)
    target[0, 1:3, 1:3] = 1
    data = FewSlices([(0.9 * target, target, "slice0"), (0.9 * (1 - target), target, "slice1")], records)
    found, missed = score_all(data, lambda image, record: (image > 0.5) & (record.id != "none"))
    assert found == score_image(target[0], target[0], id="slice0", group="patient0", label="LR2", spacing_mm=0.5)
    assert (missed.id, missed.group, missed.tp, missed.fp) == ("slice1", "patient1", 0, 12)
    stack = torch.cat([1 - target, target, 1 - target])  # with neighbours: the slice itself is predicted on
    assert score_all(FewSlices([(stack, target, "slice0")], records), lambda image, _: image > 0.5) == [found]
    volumes = FewVolumes([(target[None], target[None], "slice0")], records)
    (score,) = score_all(volumes, lambda image, _: image > 0.5)
    assert score.diameter == pytest.approx((6 * 4 * 2.0 / math.pi) ** (1 / 3)) and score.unit == "mm"


@dataclass(frozen=True)
class Scaled(ImageRecord):
    """A row of a manifest that says how large the slice was before it was scaled."""

    source_height: int = 0
    source_width: int = 0


def disc(shape, radius):
    row, col = (np.arange(n) - n / 2 + 0.5 for n in shape)
    return torch.from_numpy(row[:, None] ** 2 + col**2 < radius**2).float()[None]


def half_found(data):
    return score_all(data, lambda image, _: image > 0.5)


def test_pixels_are_those_of_the_original_slice():
    """A disc of 30 original pixels, once as it was and once after 2 : 1, is in one row, and equally far off."""
    whole, half = disc((96, 96), 15), disc((48, 48), 7.5)
    records = [Scaled("a", "p", "test"), Scaled("b", "q", "test", source_height=96, source_width=96)]
    moved = [(torch.roll(whole, 6, 1), whole, "a"), (torch.roll(half, 3, 1), half, "b")]
    a, b = half_found(FewSlices(moved, records))
    assert a.unit == b.unit == "px" and a.diameter == pytest.approx(30, rel=0.01) == pytest.approx(b.diameter, rel=0.02)
    assert a.hd95 == pytest.approx(b.hd95, abs=1)
    rows = table_rows([a, b], draws=2)
    assert [(row["stratum"], row["slices"]) for row in rows] == [("all", 2), (">=28 px", 2)]


@pytest.mark.parametrize(("known", "unit"), [((True, True), "mm"), ((True, False), "px"), ((False, False), "px")])
def test_a_data_set_has_one_unit_and_says_so(known, unit):
    spacings = [0.7 if x else math.nan for x in known]
    records = [ImageRecord(f"s{i}", f"p{i}", "test", spacing_mm=mm) for i, mm in enumerate(spacings)]
    data = FewSlices([(disc((9, 9), 3), disc((9, 9), 3), r.id) for r in records], records)
    assert known_spacings(data) == list(known)
    assert {score.unit for score in half_found(data)} == {unit}
    said = unit_remark(data, known)
    assert bool(said) == (unit == "px") and ("The spacing of 1 of 2 images is unknown" in said) == (sum(known) == 1)
    assert ("or of the files" in said) == (unit == "px")  # the manifest states no original size
    stated = FewSlices(data, [Scaled(r.id, r.group, "test", source_height=9, source_width=9) for r in records])
    assert "or of the files" not in unit_remark(stated, [False, False])


def test_a_volume_is_scaled_within_its_slices():
    record = Scaled("v", "p", "test", source_height=20, source_width=20)
    ball = torch.ones(1, 4, 10, 10)
    (score,) = half_found(FewSlices([(ball, ball, "v")], [record]))
    assert score.diameter == pytest.approx((6 * 4 * 20 * 20 / math.pi) ** (1 / 3))
