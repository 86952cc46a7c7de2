"""The exact and the grid protocol of 10 folds, against brute force written from their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.stats import binomtest
from sklearn.model_selection import KFold

from facelib.errors import FaceError
from facelib.evaluation import metrics
from facelib.evaluation.ten_fold import (
    best_of_set_accuracy,
    fold_of,
    grid_accuracy,
    grid_tar_at_far,
    impostors_needed,
    kfold_accuracy,
    kfold_tar_at_far,
)
from tests.helpers.pair_lists import CASES, as_arrays, draw_pairs, pair_lists


def brute_force_folds(distances, is_same, folds):
    """The definition, word by word, over every pair of threshold and fold."""
    thresholds, accuracies = [], []
    for train, test in KFold(folds).split(distances):
        candidates = [-np.inf, *np.unique(distances[train])]
        scores = [np.mean((distances[train] <= t) == is_same[train]) for t in candidates]
        thresholds.append(candidates[int(np.argmax(scores))])
        accuracies.append(np.mean((distances[test] <= thresholds[-1]) == is_same[test]))
    return np.mean(accuracies), np.std(accuracies), thresholds


@pytest.mark.parametrize("case", CASES[:3])
@pytest.mark.parametrize("folds", [10, 3])
def test_fold_accuracy_is_that_of_brute_force_over_scikit_learns_folds(case, folds):
    distances, is_same = draw_pairs(*case)

    result = kfold_accuracy(distances, is_same, folds)

    mean, std, thresholds = brute_force_folds(distances, is_same, folds)
    assert (result.mean, result.std) == pytest.approx((mean, std), abs=1e-12)
    np.testing.assert_array_equal(result.thresholds, thresholds)


@given(pair_lists.filter(lambda pairs: len(pairs) >= 10))
@settings(deadline=None)
def test_fold_accuracy_of_short_lists_full_of_ties_is_that_of_brute_force(pairs):
    distances, is_same = as_arrays(pairs)

    mean, std, thresholds = brute_force_folds(distances, is_same, 10)

    result = kfold_accuracy(distances, is_same)
    assert (result.mean, result.std) == pytest.approx((mean, std), abs=1e-12)
    np.testing.assert_array_equal(result.thresholds, thresholds)


def test_tar_of_folds_takes_each_threshold_from_the_other_folds():
    distances, is_same = draw_pairs(5, 900, 50)

    result = kfold_tar_at_far(distances, is_same, 0.01)

    tars, fars, accepted = [], [], 0
    for train, test in KFold(10).split(distances):
        fine = [t for t in np.unique(distances) if np.mean(distances[train][~is_same[train]] <= t) <= 0.01]
        threshold = max(t for t in fine if t in distances[train])
        tars.append(np.mean(distances[test][is_same[test]] <= threshold))
        fars.append(np.mean(distances[test][~is_same[test]] <= threshold))
        accepted += np.sum(distances[test][is_same[test]] <= threshold)
    assert (result.tar, result.tar_std, result.far) == pytest.approx((np.mean(tars), np.std(tars), np.mean(fars)))
    interval = binomtest(int(accepted), int(is_same.sum())).proportion_ci(method="wilson")
    assert result.ci95[0] <= interval.low and result.ci95[1] >= interval.high
    assert result.ci95[1] - result.ci95[0] < 2 * (interval.high - interval.low)


def test_a_far_that_the_set_cannot_resolve_is_never_a_number():
    distances, is_same = draw_pairs(6, 1000)

    result = kfold_tar_at_far(distances, is_same, 1e-3)

    assert result.tar is None and result.ci95 is None and result.threshold is None
    assert result.needs_impostors == 1112  # nine tenths of them are 1000


def test_the_needed_impostors_are_just_enough():
    for far, folds in ((1e-3, 10), (0.1, 10), (0.3, 3), (1e-4, 10)):
        needed = impostors_needed(far, folds)
        for count, is_enough in ((needed, True), (needed - 1, False)):
            longest_fold = -(-count // folds)
            assert metrics.can_resolve(count - longest_fold, far) == is_enough


@given(pair_lists.filter(lambda pairs: len(pairs) >= 10))
@settings(deadline=None, max_examples=50)
def test_fold_accuracy_does_not_depend_on_the_scale_nor_on_order_within_a_fold(pairs):
    distances, is_same = as_arrays(pairs)
    swapped = np.concatenate([fold[::-1] for fold in np.array_split(np.arange(len(pairs)), 10)])

    expected = kfold_accuracy(distances, is_same)

    assert kfold_accuracy(np.exp(distances), is_same).mean == expected.mean
    assert kfold_accuracy(distances[swapped], is_same[swapped]).mean == expected.mean


# ------------------------------------------------------------------------------------ InsightFace's protocol


def draw_lfw_like(seed, dimensions=8, num_pairs=6000):
    """Distances of random unit vectors in LFW's layout: ten folds, first the genuine pairs of each, then the others."""
    random = np.random.default_rng(seed)
    is_same = np.arange(num_pairs) // (num_pairs // 20) % 2 == 0
    first = random.normal(size=(num_pairs, dimensions))
    second = np.where(is_same[:, None], first + 0.8 * random.normal(size=first.shape), random.normal(size=first.shape))
    rows = np.stack([first, second], axis=1).reshape(-1, dimensions)
    return metrics.pair_distances(rows), is_same


def published_accuracy(distances, is_same):
    """calculate_roc of InsightFace's verification.py, as definitions say: a loop over folds and thresholds."""
    grid = np.arange(0, 4, 0.01)
    accuracies = []
    for train, test in KFold(10, shuffle=False).split(np.arange(len(distances))):
        scores = [np.mean((distances[train] < t) == is_same[train]) for t in grid]
        accuracies.append(np.mean((distances[test] < grid[np.argmax(scores)]) == is_same[test]))
    return np.mean(accuracies), np.std(accuracies)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_grid_accuracy_is_the_published_algorithms_to_the_last_digit(seed):
    distances, is_same = draw_lfw_like(seed)

    result = grid_accuracy(distances, is_same)

    assert (result.mean, result.std) == published_accuracy(distances, is_same)


def published_accuracy_of_keras_insightface(similarities, is_same):
    """Its loop over the highest tenth of the negative scores: positives above and negatives not above are right."""
    positive, negative = np.sort(similarities[is_same]), np.sort(similarities[~is_same])
    scores = []
    for threshold in negative[-int(0.1 * len(negative)) :][::-1]:
        scores.append((positive > threshold).sum() + (negative <= threshold).sum())
    return max(scores) / len(similarities), negative[::-1][int(np.argmax(scores))]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_threshold_of_the_set_is_that_of_keras_insightface(seed):
    distances, is_same = draw_lfw_like(seed)

    result = best_of_set_accuracy(distances, is_same)

    accuracy, similarity = published_accuracy_of_keras_insightface(1 - distances / 2, is_same)
    assert result.mean == accuracy
    np.testing.assert_allclose(result.thresholds, 2 - 2 * similarity, rtol=1e-6)
    assert kfold_accuracy(distances, is_same).mean <= result.mean + 0.002
    low, high = result.ci95
    assert low < result.mean < high


def test_the_best_threshold_needs_ten_impostors():
    with pytest.raises(FaceError, match=r"10 impostor pairs or more\. Received: 9"):
        best_of_set_accuracy(np.arange(29.0), np.arange(29) < 20)


def published_val(distances, is_same, far):
    """calculate_val, its interpolation done by hand on the curve of distinct FARs."""
    grid = np.arange(0, 4, 0.001)
    vals, fars = [], []
    for train, test in KFold(10, shuffle=False).split(np.arange(len(distances))):
        impostors = distances[train][~is_same[train]]
        curve = [(np.mean(impostors < t), t) for t in grid]
        threshold = 0.0
        if curve[-1][0] >= far:
            below = max((f, t) for f, t in curve if f <= far)  # last threshold of the highest FAR that is not above
            above = min(((f, t) for f, t in curve if f > far), default=below)
            share = (far - below[0]) / (above[0] - below[0]) if above[0] > below[0] else 0.0
            threshold = below[1] + share * (above[1] - below[1])
        vals.append(np.mean(distances[test][is_same[test]] < threshold))
        fars.append(np.mean(distances[test][~is_same[test]] < threshold))
    return np.mean(vals), np.std(vals), np.mean(fars)


@pytest.mark.parametrize("seed, far", [(0, 1e-3), (1, 1e-2), (2, 0.1), (3, 1 / 2700)])
def test_the_grid_val_is_the_published_algorithms_where_that_is_defined(seed, far):
    distances, is_same = draw_lfw_like(seed)

    result = grid_tar_at_far(distances, is_same, far)

    assert (result.tar, result.tar_std, result.far) == pytest.approx(published_val(distances, is_same, far), abs=1e-12)


def test_the_grid_val_is_no_number_where_the_train_folds_cannot_resolve_it():
    distances, is_same = draw_lfw_like(0)

    result = grid_tar_at_far(distances, is_same, 1e-4)

    assert result.tar is None and result.needs_impostors == 11112


def test_a_far_that_the_grid_never_reaches_accepts_nothing():
    is_same = np.arange(200) // 10 % 2 == 0
    distances = np.where(is_same, 0.5, 4.0)  # impostors beyond the last threshold

    result = grid_tar_at_far(distances, is_same, 0.5)

    assert (result.tar, result.far, result.threshold) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("num_pairs, expected", [(6, [0, 0, 1, 1, 2, 2]), (8, [0, 0, 0, 1, 1, 1, 2, 2])])
def test_folds_are_contiguous_and_the_first_ones_are_longer(num_pairs, expected):
    assert fold_of(num_pairs, 3).tolist() == expected
