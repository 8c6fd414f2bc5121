"""FROC against one threshold after the other, tried by loops; and what must hold for any candidates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from lungseg.candidates import find_candidates
from lungseg.data.manifest import ImageRecord
from lungseg.data.volumes import VolumeDataset, VolumeWriter
from lungseg.evaluation.froc import (
    RATES,
    Froc,
    ScanMatches,
    bootstrap_froc,
    draw_froc,
    exact_interval,
    froc_rows,
    froc_text,
    match_all,
    match_candidates,
)

# ---- what a candidate hits --------------------------------------------------------------------------------------


def candidates(**scores):
    """Candidates in an empty scan of 4 x 20 x 20: a at (0, 0), b at (0, 10), c at (10, 0), d at (10, 10), 3 x 3 x 3."""
    probs = np.zeros((4, 20, 20), np.float32)
    places = {"a": (0, 0), "b": (0, 10), "c": (10, 0), "d": (10, 10)}
    for name, score in scores.items():
        y, x = places[name]
        probs[:3, y : y + 3, x : x + 3] = score
    return find_candidates(probs > 0, probs, (20, 20, 20))  # so large that smoothing by 2 mm changes nothing


def test_one_voxel_on_a_lesion_is_a_hit_and_its_highest_score_counts_once():
    target = np.zeros((4, 20, 20), np.uint8)
    target[2, 2, 2:12] = 1  # reaches from a to b
    target[3, 19, 19] = 1  # is hit by nothing
    found = candidates(a=0.3, b=0.8, c=0.5, d=0.2)
    matches = match_candidates(found, target, id="x", group="p")
    assert matches.lesion_scores == (pytest.approx(0.8), -math.inf)
    assert matches.fp_scores == (pytest.approx(0.5), pytest.approx(0.2))


def test_what_is_ignored_is_neither_a_hit_nor_a_false_positive():
    target, ignore = np.zeros((2, 4, 20, 20), np.uint8)
    ignore[0, 10, 0] = 1
    matches = match_candidates(candidates(a=0.3, c=0.5), target, id="x", group="p", ignore=ignore)
    assert matches.lesion_scores == () and matches.fp_scores == (pytest.approx(0.3),) and matches.ignored == 1
    target[:, 9:14, 0] = 1  # on a lesion, it is a hit even where it would be ignored
    assert match_candidates(candidates(c=0.5), target, id="x", group="p", ignore=ignore).lesion_scores == (0.5,)


def test_what_too_few_readers_outlined_is_an_irrelevant_finding(tmp_path):
    """a is on a lesion and a vote, c on a vote only, d on nothing; a volume without votes ignores nothing."""
    target, votes = np.zeros((2, 4, 20, 20), np.uint8)
    target[0, 0, 0], votes[0, 0, :3], votes[0, 11, 1] = 1, 2, 1
    with VolumeWriter(tmp_path / "f") as out:
        for name in ("v", "w"):
            out.add(ImageRecord(name, name, "test"), target.astype(np.int16), target, 1.0)
    with np.load(path := tmp_path / "f/volumes/v.npz") as file:
        arrays = dict(file)
    np.savez(path, **arrays, votes=votes)
    data, found = VolumeDataset(tmp_path / "f"), candidates(a=0.9, c=0.5, d=0.4)
    matches = match_all(data, {"v": found, "w": found})
    assert [m.lesion_scores for m in matches] == [(pytest.approx(0.9),)] * 2
    assert [[round(s, 3) for s in m.fp_scores] for m in matches] == [[0.4], [0.5, 0.4]]
    assert [m.ignored for m in matches] == [1, 0]
    text, *_ = froc_text(matches, froc_rows(matches))
    assert "but too few for a lesion: 1 (irrelevant findings, as in LUNA16)." in text and "1.50 FP per scan" in text
    assert "irrelevant" not in froc_text(matches[1:], froc_rows(matches[1:]))[0]
    np.savez(path, **arrays, votes=votes[1:])
    with pytest.raises(ValueError, match=r"v.npz: votes of shape \(3, 20, 20\), expected that of hu, \(4, 20, 20\)"):
        match_all(data, {"v": found, "w": found})


# ---- the curve --------------------------------------------------------------------------------------------------

levels = st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])  # few, so that scores are often equal
scans = st.lists(
    st.tuples(st.lists(levels | st.just(-math.inf), max_size=3), st.lists(levels, max_size=12)), min_size=1, max_size=5
)


def as_matches(drawn):
    return [ScanMatches(f"s{i}", f"p{i}", tuple(hit), tuple(fp)) for i, (hit, fp) in enumerate(drawn)]


def sensitivity_by_loops(matches, rate):
    """The best sensitivity of any limit on the score that leaves at most `rate` false positives per scan."""
    limits = {-1.0, *(s for m in matches for s in (*m.lesion_scores, *m.fp_scores))}
    num, best = sum(len(m.lesion_scores) for m in matches), 0.0
    for limit in limits:
        positives = sum(score > limit for m in matches for score in m.fp_scores)
        hits = sum(score > limit for m in matches for score in m.lesion_scores)
        if positives <= rate * len(matches):
            best = max(best, hits / num if num else math.nan)
    return best


@settings(max_examples=150)
@given(drawn=scans)
def test_the_sensitivity_at_a_rate_is_the_best_of_all_limits(drawn):
    matches = as_matches(drawn)
    found = Froc(matches).sensitivity()
    if any(m.lesion_scores for m in matches):
        assert found.tolist() == pytest.approx([sensitivity_by_loops(matches, rate) for rate in RATES])
        assert (np.diff(found) >= 0).all()  # never falls
    else:
        assert np.isnan(found).all()


@settings(max_examples=40)
@given(drawn=scans, counts=st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_a_weight_is_a_scan_that_is_there_several_times(drawn, counts):
    matches = as_matches(drawn)
    weights = np.array(counts[: len(matches)], float)
    repeated = [m for m, n in zip(matches, counts, strict=False) for _ in range(n)]
    if any(m.lesion_scores for m in repeated):
        assert Froc(matches).sensitivity(weights=weights).tolist() == pytest.approx(
            Froc(repeated).sensitivity().tolist()
        )


@settings(max_examples=30)
@given(drawn=scans, power=st.sampled_from([0.5, 2.0]))
def test_only_the_order_of_the_scores_matters(drawn, power):
    changed = [([s if s < 0 else s**power for s in hit], [s**power for s in fp]) for hit, fp in drawn]
    a, b = (Froc(as_matches(x)).sensitivity() for x in (drawn, changed))
    assert np.array_equal(a, b, equal_nan=True)


# ---- table, text, picture -----------------------------------------------------------------------------------------


def many(num):
    """Every second scan has a lesion of score 0.9, the others one of 0.3; each has false positives of 0.5 and 0.2."""
    return [ScanMatches(f"s{i}", f"p{i}", (0.9 if i % 2 else 0.3,), (0.5, 0.2)) for i in range(num)]


def test_rows_are_the_seven_rates_and_their_mean():
    rows = froc_rows(many(4))
    assert [row["fp_per_scan"] for row in rows] == ["0.125", "0.25", "0.5", "1", "2", "4", "8", "mean"]
    assert [row["sensitivity"] for row in rows[:-1]] == [0.5, 0.5, 0.5, 1, 1, 1, 1]
    assert rows[-1]["sensitivity"] == pytest.approx(5.5 / 7)
    assert [row["found"] for row in rows[:-1]] == [2, 2, 2, 4, 4, 4, 4]
    assert [row["score"] for row in rows[:-1]] == [0.5, 0.5, 0.5, 0.2, 0, 0, 0]
    assert all(math.isnan(row["sensitivity_low"]) for row in rows)


def test_ten_patients_have_an_interval_and_nine_do_not():
    rows = froc_rows(many(10), draws=200)
    assert 0 < rows[0]["sensitivity_low"] < 0.5 < rows[0]["sensitivity_high"] < 1
    assert rows[-1]["sensitivity_low"] <= rows[-1]["sensitivity"] <= rows[-1]["sensitivity_high"]
    assert math.isnan(froc_rows(many(9))[0]["sensitivity_low"])
    one_patient = [ScanMatches(m.id, "p", m.lesion_scores, m.fp_scores) for m in many(12)]
    assert math.isnan(froc_rows(one_patient)[0]["sensitivity_low"])


def test_patients_are_drawn_with_all_their_scans_and_the_seed_decides():
    twice = [ScanMatches(m.id, f"p{i // 2}", m.lesion_scores, m.fp_scores) for i, m in enumerate(many(20))]
    drawn = bootstrap_froc(twice, draws=50)
    assert drawn.shape == (50, 7) and (drawn[:, 0] == 0.5).all()  # each patient has one of either kind
    assert np.array_equal(drawn, bootstrap_froc(twice, draws=50))


def test_the_text_says_what_few_lesions_cannot_show():
    matches = [ScanMatches("a", "a", (0.9, 0.8), (0.5,))]
    text = "\n".join(froc_text(matches, froc_rows(matches)))
    assert (
        "| FP per scan, at most |" in text
        and "1.000" in text
        and "2 of 2 lesions found agree with any true share from 16%" in text
    )
    assert "cannot show" not in "\n".join(froc_text(many(10), froc_rows(many(10), draws=20)))
    without = [ScanMatches("a", "a", (), (0.5,))]
    assert "–" in "\n".join(froc_text(without, froc_rows(without)))


def test_the_exact_interval_is_where_the_tails_of_the_binomial_are_a_fortieth():
    for found, of in [(2, 2), (0, 3), (3, 7)]:
        low, high = exact_interval(found, of)
        if found:
            assert sum(math.comb(of, k) * low**k * (1 - low) ** (of - k) for k in range(found, of + 1)) == (
                pytest.approx(0.025)
            )
        if found < of:
            assert sum(math.comb(of, k) * high**k * (1 - high) ** (of - k) for k in range(found + 1)) == (
                pytest.approx(0.025)
            )
    assert exact_interval(2, 2)[1] == 1 and exact_interval(0, 3)[0] == 0


def test_a_curve_is_drawn_for_each_network():
    picture = np.asarray(draw_froc({"one": many(4), "other": many(3)}, scale=1))
    assert len({tuple(c) for c in picture.reshape(-1, 3)}) > 10
