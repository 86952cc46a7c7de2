"""Probabilities: the fit against scikit-learn, minCllr against its isotonic regression, and what they promise."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from facelib.evaluation.all_pairs import AllPairs
from facelib.evaluation.probability import (
    STEP,
    Ratio,
    calibrate_pairs,
    count_distances,
    fit_ratio,
    probability,
)

RNG = np.random.default_rng(0)


def draw(num, seed=0):
    """Distances of genuine and impostor pairs, in turn: normal with one width, so the true ratio is a line."""
    rng, is_same = np.random.default_rng(seed), np.arange(num) % 2 == 0
    return np.where(is_same, rng.normal(0.9, 0.2, num), rng.normal(1.7, 0.2, num)), is_same


def weights_of(is_same):
    return np.where(is_same, 0.5 / is_same.sum(), 0.5 / (~is_same).sum()) * len(is_same)


def test_the_fit_is_the_logistic_regression_of_scikit_learn():
    distances, is_same = draw(2000)
    distances, is_same = distances[:1501], is_same[:1501]
    distances = np.rint(distances / STEP) * STEP
    found = fit_ratio(count_distances(distances[is_same], distances[~is_same]))

    model = LogisticRegression(C=1e9, tol=1e-10, max_iter=5000).fit(distances[:, None], is_same, weights_of(is_same))
    assert (found.slope, found.offset) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), rel=1e-3)
    assert found.limit == pytest.approx(np.log(751))


def test_the_true_ratio_is_found():
    distances, is_same = draw(40_000)
    found = fit_ratio(count_distances(distances[is_same], distances[~is_same]))

    slope = (0.9 - 1.7) / 0.2**2
    assert found.slope == pytest.approx(slope, rel=0.03) and found.at(1.3) == pytest.approx(0, abs=0.15)


def test_min_cllr_is_that_of_an_isotonic_regression():
    distances, is_same = draw(600)
    distances = np.rint(distances / STEP) * STEP

    found = calibrate_pairs(distances, is_same, np.arange(600) // 60)

    p = IsotonicRegression().fit(-distances, is_same, sample_weight=weights_of(is_same)).predict(-distances)
    costs = -np.log2(np.where(is_same, p, 1 - p))
    assert found.min_cllr == pytest.approx((costs[is_same].mean() + costs[~is_same].mean()) / 2, abs=1e-6)
    assert found.min_cllr < found.cllr < 1.05 * found.fold_min_cllr
    assert sum(found.reliability["genuine"]) == sum(found.reliability["impostor"]) == 300


@pytest.mark.slow
def test_the_interval_holds_the_true_ratio():
    held = 0
    for seed in range(60):
        distances, is_same = draw(1000, seed)
        low, high = calibrate_pairs(distances, is_same, np.arange(1000) // 100).ratio.interval(1.2)
        held += low <= (1.2 - 1.3) * (0.9 - 1.7) / 0.2**2 <= high

    assert held >= 50


def test_a_probability_adds_the_prior_and_stays_within_what_the_pairs_support():
    ratio = Ratio(-10.0, 12.0, np.log(101))

    assert probability(float(ratio.at(1.2)), 0.5) == pytest.approx(0.5)
    assert probability(float(ratio.at(1.2)), 0.01) == pytest.approx(0.01)
    assert probability(float(ratio.at(0.0)), 0.5) == pytest.approx(101 / 102)  # not 0.999994
    assert Ratio.of(ratio.as_dict()) == ratio


def test_kinds_that_do_not_overlap_have_a_finite_ratio():
    distances, is_same = np.where(np.arange(60) % 2 == 0, 0.4, 1.9), np.arange(60) % 2 == 0

    found = calibrate_pairs(distances, is_same, np.arange(60) // 6)

    assert np.isfinite([found.ratio.slope, found.ratio.offset, found.cllr, *found.ratio.covariance]).all()
    assert found.ratio.at(0.4) == pytest.approx(found.ratio.limit) and found.cllr < 0.1


def test_too_few_pairs_have_no_probability():
    distances, is_same = draw(20)

    assert calibrate_pairs(distances, is_same, np.arange(20) // 2) is None


def test_a_folder_is_calibrated_on_folds_of_identities():
    labels = np.repeat(np.arange(30), 4)
    embeddings = RNG.normal(size=(30, 16))[labels] + 0.5 * RNG.normal(size=(120, 16))

    found = AllPairs(embeddings, labels).calibrate_ratio()

    assert sum(found.reliability["genuine"]) == 30 * 6 and found.ratio.slope < 0
    assert found.cllr < 0.3 and found.min_cllr <= found.cllr
