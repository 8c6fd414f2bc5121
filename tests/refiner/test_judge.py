"""The judge: scipy's optimum, what must grow, no divergence; the map of a slice, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import optimize

from lungseg.refiner.judge import Judge, fit_judge, judge_features, slice_map


def drawn(seed, n):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 3)) * (2, 1, 0.2) + (0, 0, 0.7)
    chance = 1 / (1 + np.exp(-(features @ rng.normal(size=3) + rng.normal())))
    return features, rng.random(n) < chance


def numbers(judge):
    return np.array([judge.proposer, judge.similarity, judge.iou, judge.constant])


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), n=st.integers(0, 60), ridge=st.sampled_from([0.01, 0.1, 3.0]))
def test_the_numbers_are_the_optimum_that_scipy_finds(seed, n, ridge):
    features, lesion = drawn(seed, n)

    def loss(w):
        s = features @ w[:3] + w[3]
        p = np.clip(1 / (1 + np.exp(-s)), 1e-300, 1)
        q = np.clip(1 / (1 + np.exp(s)), 1e-300, 1)
        return -np.log(np.where(lesion, p, q)).sum() + ridge * (w**2).sum() / 2

    judge = fit_judge(features, lesion, ridge=ridge)
    best = optimize.minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-7})
    assert loss(numbers(judge)) <= best.fun + 1e-9
    assert np.allclose(numbers(judge), best.x, atol=2e-3)
    assert judge == fit_judge(features, lesion, ridge=ridge)


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_a_candidate_called_a_lesion_instead_raises_its_own_score(seed):
    features, lesion = drawn(seed, 12)
    lesion[0] = False
    before = fit_judge(features, lesion)(features)[0]
    lesion[0] = True
    assert fit_judge(features, lesion)(features)[0] > before


def test_candidates_that_can_be_separated_give_finite_numbers_with_the_right_sign():
    p = np.array([0.2, 0.3, 0.8, 0.9])
    judge = fit_judge(judge_features(p, np.zeros(4), [0.5] * 4), p > 0.5)
    assert 0 < judge.proposer < 20 and judge.similarity == 0
    huge = fit_judge(np.array([[-1e4, 0, 0], [1e4, 0, 0]]), [False, True])
    assert np.isfinite(numbers(huge)).all() and huge.proposer > 0
    assert numbers(fit_judge(np.zeros((0, 3)), np.zeros(0))).tolist() == [0] * 4
    assert numbers(fit_judge(np.ones((5, 3)), np.ones(5)))[3] > 0  # no false alarm at all


def test_features_are_finite_and_the_default_judge_believes_the_proposer():
    features = judge_features(np.float32([0, 0.25, 1]), [1, 2, 3], [0.1, 0.2, 0.3])
    assert np.isfinite(features).all() and features[1] == pytest.approx([-np.log(3), 2, 0.2])
    assert Judge()(features)[1] == pytest.approx(-np.log(3))
    assert Judge(1, 2, 10, -0.5)([[0.5, 0.25, 0.1]]) == pytest.approx([0.5 + 0.5 + 1 - 0.5])


@settings(max_examples=20)
@given(n=st.integers(0, 4), seed=st.integers(0, 99), least=st.sampled_from([0.0, 0.4]))
def test_a_pixel_is_the_largest_product_of_the_kept_candidates(n, seed, least):
    rng = np.random.default_rng(seed)
    masks, scores = rng.random((n, 3, 4)), rng.normal(size=n)
    result = slice_map(masks, scores, least=least)
    assert result.shape == (3, 4)
    for y in range(3):
        for x in range(4):
            values = [
                masks[i, y, x] / (1 + np.exp(-scores[i])) for i in range(n) if 1 / (1 + np.exp(-scores[i])) >= least
            ]
            assert result[y, x] == pytest.approx(max(values, default=0), abs=1e-6)


def test_no_candidate_is_an_empty_map_and_wrong_shapes_are_refused():
    assert not slice_map(np.zeros((0, 5, 6)), []).any() and slice_map(np.zeros((0, 5, 6)), []).shape == (5, 6)
    with pytest.raises(ValueError, match="expected masks"):
        slice_map(np.zeros((2, 5, 6)), [1.0])
    with pytest.raises(ValueError, match="finite features"):
        fit_judge(np.full((2, 3), np.inf), [0, 1])
    with pytest.raises(ValueError, match="expected features"):
        fit_judge(np.zeros((2, 3)), [0, 1], ridge=0)


@pytest.mark.parametrize("seed", [795, 1985])
def test_it_converges_where_full_newton_steps_go_to_and_fro(seed):
    """Candidates of very different sizes, found by search; at the optimum the gradient of the loss is 0."""
    rng = np.random.default_rng(seed)
    n = rng.integers(3, 12)
    features = rng.normal(size=(n, 3)) * np.exp(rng.normal(0, 2, (n, 1))) * (2, 1, 0.2)
    lesion = rng.random(n) < rng.choice([0.1, 0.5])
    judge = fit_judge(features, lesion)
    residual = np.exp(-np.logaddexp(0, -judge(features))) - lesion
    gradient = np.append(features.T @ residual, residual.sum()) + 0.1 * numbers(judge)
    assert np.abs(gradient).max() < 1e-6
