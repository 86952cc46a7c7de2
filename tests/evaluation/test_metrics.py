"""Metrics against scikit-learn, against brute force written from the definition, and against symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from facelib.errors import FaceError
from facelib.evaluation import metrics
from facelib.evaluation.ten_fold import kfold_accuracy
from tests.helpers.pair_lists import CASES, as_arrays, draw_pairs, pair_lists


@pytest.mark.parametrize("case", CASES)
def test_roc_and_auc_are_those_of_scikit_learn(case):
    distances, is_same = draw_pairs(*case)

    scores = metrics.Scores.of(distances, is_same)

    far, tar, thresholds = roc_curve(is_same, -distances, drop_intermediate=False)
    np.testing.assert_allclose([scores.rates_at(-t) for t in thresholds], np.stack([far, tar], axis=1), atol=1e-12)
    assert scores.auc() == pytest.approx(roc_auc_score(is_same, -distances), abs=1e-12)


@given(pair_lists)
@settings(deadline=None)
def test_auc_is_the_chance_of_a_right_order(pairs):
    distances, is_same = as_arrays(pairs)
    genuine, impostor = distances[is_same][:, None], distances[~is_same][None, :]

    expected = np.mean((genuine < impostor) + 0.5 * (genuine == impostor))

    assert metrics.Scores.of(distances, is_same).auc() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_eer_lies_on_the_curve_of_scikit_learn_where_both_errors_are_equal(case):
    distances, is_same = draw_pairs(*case)
    far, tar, _ = roc_curve(is_same, -distances, drop_intermediate=False)

    rate = metrics.Scores.of(distances, is_same).eer()

    segments = [  # (far, 1 - tar) meet inside a segment of the curve
        (far[i], tar[i], far[i + 1], tar[i + 1]) for i in range(len(far) - 1)
        if far[i] <= 1 - tar[i] and far[i + 1] >= 1 - tar[i + 1]
    ]  # fmt: skip
    f0, t0, f1, t1 = segments[0]
    share = np.roots([(f1 - f0) + (t1 - t0), f0 + t0 - 1])[0] if f1 - f0 + t1 - t0 else 0.0
    assert rate == pytest.approx(f0 + share * (f1 - f0), abs=1e-9)


@given(pair_lists, st.sampled_from([0.05, 0.1, 0.25, 0.29, 0.5, 1.0]))
@settings(deadline=None, max_examples=200)
def test_tar_at_far_is_the_best_over_all_thresholds_that_keep_the_far(pairs, far):
    distances, is_same = as_arrays(pairs)
    if np.sum(~is_same) * far < 1:
        with pytest.raises(FaceError, match="smallest non-zero rate"):
            metrics.tar_at_far(distances, is_same, far)
        return

    point = metrics.tar_at_far(distances, is_same, far)

    allowed = [t for t in [-np.inf, *np.unique(distances)] if np.mean(distances[~is_same] <= t) <= far]
    assert point.threshold == max(allowed)
    assert point.tar == np.mean(distances[is_same] <= point.threshold)
    assert point.far == np.mean(distances[~is_same] <= point.threshold) <= far


@pytest.mark.parametrize("measure", [metrics.Scores.auc, metrics.Scores.eer, lambda scores: scores.tar_at_far(0.5).tar])
@given(pairs=pair_lists.filter(lambda pairs: sum(not same for _, same in pairs) > 1), random=st.randoms())
@settings(deadline=None, max_examples=50)
def test_neither_order_nor_scale_of_distances_matters(measure, pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    distances, is_same = as_arrays(pairs)

    expected = measure(metrics.Scores.of(distances, is_same))
    assert measure(metrics.Scores.of(*as_arrays(shuffled))) == expected
    assert measure(metrics.Scores.of(np.exp(distances) - 3, is_same)) == expected


def test_a_perfect_and_a_reversed_order_have_the_rates_one_expects():
    distances, is_same = np.arange(40.0), np.arange(40) < 20
    mixed = np.arange(40) % 2 == 0

    right, reversed_order = metrics.Scores.of(distances, is_same), metrics.Scores.of(-distances, is_same)
    assert (right.auc(), right.eer()) == (1.0, 0.0)
    assert (reversed_order.auc(), reversed_order.eer()) == (0.0, 1.0)
    assert metrics.tar_at_far(distances, is_same, 0.05) == (1.0, 0.05, 20.0)
    perfect = np.where(mixed, 0.0, 4.0)
    assert kfold_accuracy(perfect, mixed)[:2] == (1.0, 0.0)


def test_distances_are_squared_and_between_unit_vectors():
    embeddings = np.array([[3.0, 0], [0, 5], [1, 1], [2, 2], [1, 0], [-7, 0]], np.float32)

    np.testing.assert_allclose(metrics.pair_distances(embeddings), [2, 0, 4], atol=1e-12)


@pytest.mark.parametrize(
    "distances, is_same, words",
    [
        ([1.0, 2.0], [True, True], "genuine and impostor"),
        ([1.0, np.nan], [True, False], "NaN"),
        ([1.0, 2.0], [True, False, True], "one distance"),
    ],
)
def test_lists_that_have_no_curve_are_refused(distances, is_same, words):
    with pytest.raises(FaceError, match=words):
        metrics.Scores.of(np.array(distances), np.array(is_same))


def test_zero_and_endless_embeddings_are_refused_by_row():
    for bad in (0.0, np.nan, np.inf):
        with pytest.raises(FaceError, match="row 1 "):
            metrics.pair_distances(np.array([[1.0, 1], [bad, bad]]))


def test_fewer_pairs_than_folds_and_strange_fars_are_refused():
    distances, is_same = draw_pairs(0, 9)
    with pytest.raises(FaceError, match="at least 10 pairs"):
        kfold_accuracy(distances, is_same)
    for far in (0, -1, 1.5, float("nan")):
        with pytest.raises(FaceError, match="rate above 0"):
            metrics.tar_at_far(distances, is_same, far)
