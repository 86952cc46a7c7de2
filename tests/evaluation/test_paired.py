"""The loss on the same pairs: McNemar against SciPy, the score interval against its definition and simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest

from facelib.evaluation.paired import mcnemar, pack_bits, paired_loss, score_interval, unpack_bits


@pytest.mark.parametrize("worse, better", [(0, 0), (0, 1), (5, 0), (3, 9), (20, 20), (700, 612), (4000, 5000)])
def test_mcnemar_is_the_exact_binomial_test(worse, better):
    expected = binomtest(worse, worse + better).pvalue if worse + better else 1.0

    assert mcnemar(worse, better) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    "worse, better, pairs, expected",
    [
        (9, 3, 32, (-0.027, 0.390)),  # three digits, as published
        (0, 0, 60, (-3.8415 / 63.8415, 3.8415 / 63.8415)),
    ],
)
def test_the_score_interval_has_published_values(worse, better, pairs, expected):
    assert score_interval(worse, better, pairs) == pytest.approx(expected, abs=6e-4)


def test_the_interval_holds_the_true_loss_95_times_in_100():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        worse, better, _ = rng.multinomial(500, [0.03, 0.01, 0.96])
        low, high = score_interval(worse, better, 500)
        held += low <= 0.02 <= high

    assert 0.91 <= held / 300 <= 0.99


def test_pairs_of_one_cluster_widen_the_interval():
    before, after = np.ones(1000, bool), np.ones(1000, bool)
    after[:30] = False  # all in the first of ten folds
    spread = np.ones(1000, bool)
    spread[::34] = False

    together, apart = (paired_loss(before, one, np.full(10, 100)) for one in (after, spread))

    assert together.lost == apart.lost == 0.03 and together.high > apart.high
    assert together.needs(0.04) > apart.needs(0.04)


def test_bits_survive_their_text():
    bits = np.random.default_rng(0).random(77) < 0.5

    assert (unpack_bits(pack_bits(bits), 77) == bits).all()
    assert unpack_bits(pack_bits(bits), 81) is None and unpack_bits("no base64!", 77) is None
