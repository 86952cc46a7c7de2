"""All-against-all against the same measures written over a plain list of every pair."""

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation import all_pairs, metrics
from facelib.evaluation.all_pairs import AllPairs


def draw_faces(seed=0, num_identities=60, num_images=300, dimensions=16, noise=0.7):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_identities), random.integers(0, num_identities, num_images)])
    random.shuffle(labels)
    centres = random.normal(size=(num_identities, dimensions))
    return centres[labels] + noise * random.normal(size=(len(labels), dimensions)), labels


def list_pairs(embeddings, labels):
    """Every pair once: (rows a, rows b, distances float64, is_same)."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    a, b = np.triu_indices(len(labels), 1)
    return a, b, np.square(unit[a] - unit[b]).sum(axis=1), labels[a] == labels[b]


def test_every_pair_is_measured_once_and_the_rates_are_those_of_the_list():
    embeddings, labels = draw_faces()
    _, _, distances, is_same = list_pairs(embeddings, labels)

    pairs = AllPairs(embeddings, labels)

    np.testing.assert_allclose(pairs.scores.genuine, np.sort(distances[is_same]), atol=2e-6)
    np.testing.assert_allclose(pairs.scores.impostor, np.sort(distances[~is_same]), atol=2e-6)
    assert pairs.scores.auc() == pytest.approx(metrics.Scores.of(distances, is_same).auc(), abs=1e-6)
    assert pairs.scores.eer() == pytest.approx(metrics.Scores.of(distances, is_same).eer(), abs=1e-4)


def folds_by_identity(pairs, labels):
    """The fold of each identity as the object dealt them, read from its genuine pairs and checked to be disjoint."""
    fold = {}
    for row, k in zip(pairs.genuine_rows, pairs._genuine_fold, strict=True):
        assert fold.setdefault(int(labels[row[0]]), int(k)) == k
    return fold


@pytest.mark.slow
def test_folds_share_no_identity_and_thresholds_come_from_the_others():
    embeddings, labels = draw_faces(1)
    a, b, distances, is_same = list_pairs(embeddings, labels)
    pairs = AllPairs(embeddings, labels)
    fold = folds_by_identity(pairs, labels)
    assert set(fold) == set(labels.tolist())  # every identity here has several images
    first, second = (np.array([fold[label] for label in labels[rows].tolist()]) for rows in (a, b))

    accuracy, tar = pairs.kfold_accuracy(), pairs.kfold_tar_at_far(0.01)

    accuracies, tars, fars = [], [], []
    for k in range(pairs.num_folds):
        test, train = (first == k) & (second == k), (first != k) & (second != k)
        candidates = np.unique(distances[train & is_same])
        rate = [
            np.mean(distances[train & is_same] <= t) - np.mean(distances[train & ~is_same] <= t) for t in candidates
        ]
        best = candidates[int(np.argmax(rate))] + 1e-6  # float32 rounding
        accuracies.append((np.mean(distances[test & is_same] <= best) + np.mean(distances[test & ~is_same] > best)) / 2)
        threshold = metrics.tar_at_far(distances[train], is_same[train], 0.01).threshold + 1e-6
        tars.append(np.mean(distances[test & is_same] <= threshold))
        fars.append(np.mean(distances[test & ~is_same] <= threshold))
    np.testing.assert_allclose(accuracy.accuracies, accuracies, atol=1e-9)
    assert (tar.tar, tar.tar_std, tar.far) == pytest.approx((np.mean(tars), np.std(tars), np.mean(fars)))
    assert accuracy.ci95[0] < accuracy.mean < accuracy.ci95[1]
    assert tar.ci95[0] < tar.tar < tar.ci95[1]


def test_a_far_that_the_train_folds_cannot_resolve_is_no_number():
    embeddings, labels = draw_faces()

    result = AllPairs(embeddings, labels).kfold_tar_at_far(1e-6)

    assert result.tar is None and result.needs_impostors > 1_000_000


def test_the_hardest_pairs_are_the_first_and_last_of_the_list():
    embeddings, labels = draw_faces(2)
    a, b, distances, is_same = list_pairs(embeddings, labels)

    pairs = AllPairs(embeddings, labels)

    closest = np.argsort(np.where(is_same, np.inf, distances))[: all_pairs.NUM_HARDEST]
    assert {(h.first, h.second) for h in pairs.closest_impostors} == set(zip(a[closest], b[closest], strict=True))
    farthest = np.argsort(np.where(is_same, -distances, np.inf))[: all_pairs.NUM_HARDEST]
    assert {(h.first, h.second) for h in pairs.farthest_genuine} == set(zip(a[farthest], b[farthest], strict=True))
    assert pairs.closest_impostors[0].distance == pytest.approx(distances[closest[0]], abs=2e-6)


def test_few_identities_get_fewer_folds_and_too_few_are_refused():
    embeddings, labels = draw_faces(3, num_identities=5, num_images=20)
    assert AllPairs(embeddings, labels).num_folds == 2

    with pytest.raises(FaceError, match="4 identities"):
        AllPairs(embeddings[:6], np.array([0, 0, 1, 1, 2, 2]))
    with pytest.raises(FaceError, match="2 of them with at least 2 images"):
        AllPairs(embeddings[:6], np.array([0, 1, 2, 3, 4, 4]))


def test_more_pairs_than_memory_takes_are_refused_with_advice(monkeypatch):
    monkeypatch.setattr(all_pairs, "MAX_PAIRS", 1000)

    with pytest.raises(FaceError, match=r"at most 1,000 pairs.*make_bin.py"):
        AllPairs(*draw_faces())


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_an_embedding_without_direction_is_refused_by_row(bad):
    embeddings, labels = draw_faces()
    embeddings[17] = bad

    with pytest.raises(FaceError, match="row 17 "):
        AllPairs(embeddings, labels)
