"""Intervals against SciPy, against simulation, and at the ends where formulas break."""

import numpy as np
import pytest
from scipy.stats import binomtest

from facelib.evaluation.metrics import cluster_interval, wilson_interval


@pytest.mark.parametrize("successes, trials", [(0, 10), (3, 10), (10, 10), (2961, 3000), (1, 1)])
def test_wilsons_interval_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")

    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_trials_say_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_clusters_that_hang_together_widen_the_interval_and_equal_ones_do_not():
    equal = cluster_interval(np.full(10, 270), np.full(10, 300))
    apart = cluster_interval(np.array([300, 240] * 5), np.full(10, 300))

    assert equal == wilson_interval(2700, 3000)
    assert apart[0] < equal[0] - 0.005 and apart[1] > equal[1] + 0.005


def test_the_interval_holds_the_truth_95_times_in_100_when_clusters_differ():
    random = np.random.default_rng(0)
    truth, held = 0.9, 0
    for _ in range(400):
        rates = random.beta(18, 2, 40)  # mean 0.9
        low, high = cluster_interval(random.binomial(25, rates), np.full(40, 25))
        held += low <= truth <= high

    assert 0.91 <= held / 400 <= 0.99


def test_a_rate_of_one_in_every_cluster_is_not_certain():
    low, high = cluster_interval(np.full(10, 30), np.full(10, 30))

    assert low == pytest.approx(wilson_interval(300, 300)[0]) and high == pytest.approx(1.0)


def test_a_single_cluster_has_wilsons_interval():
    assert cluster_interval([9], [10]) == wilson_interval(9, 10)
