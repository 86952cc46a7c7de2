"""One verification set, from embeddings to its result, for listed pairs and for identities."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from facelib.errors import FaceError
from facelib.evaluation.embed_images import Embedded
from facelib.evaluation.evaluate_set import evaluate_set
from facelib.evaluation.verification_sets import FaceSet


@pytest.fixture
def identities():
    """20 identities with 4 faces each, and their embeddings."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 4)
    rows = (random.normal(size=(20, 8))[labels] + 0.6 * random.normal(size=(80, 8))).astype(np.float32)
    names = [f"p{label}/{i}.png" for i, label in enumerate(labels)]
    return labels, rows, names, [f"p{label}" for label in labels]


def embedded(rows):
    return Embedded(rows, np.linalg.norm(rows, axis=1), len(rows), 1.0)


def squared_distance(a, b):
    return float(np.sum((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2))


def test_listed_pairs_have_the_auc_of_scikit_learn_and_the_worst_pair_by_name(identities):
    labels, rows, names, people = identities
    random = np.random.default_rng(1)
    ends = random.integers(0, 80, (200, 2))
    is_same = labels[ends[:, 0]] == labels[ends[:, 1]]
    is_same[::2], ends[::2, 1] = True, 4 * labels[ends[::2, 0]]
    flat = ends.ravel()
    faces = FaceSet(
        "lfw", [b""] * 400, [names[i] for i in flat], "lfw.bin", is_same, identities=[people[i] for i in flat]
    )

    result = evaluate_set(faces, embedded(rows[flat]), (0.1,))

    distances = np.array([squared_distance(rows[a], rows[b]) for a, b in ends])
    assert (result.protocol, result.pairs, result.genuine) == ("exact", 200, is_same.sum())
    assert result.auc == pytest.approx(roc_auc_score(is_same, -distances), abs=1e-12)
    worst = int(np.argmin(np.where(is_same, np.inf, distances)))
    assert result.hardest["false_accepts"][0]["images"] == [names[i] for i in ends[worst]]
    assert sum(result.norms["pairs"]) == 200


def test_identities_give_all_pairs_groups_and_a_search(identities):
    labels, rows, names, people = identities
    faces = FaceSet("people", [b""] * 80, names, "people", labels=labels, identities=people)
    attributes = {f"p{i}": "even" if i % 2 == 0 else "odd" for i in range(20)}

    result = evaluate_set(faces, embedded(rows), (0.1,), attributes=attributes)

    a, b = np.triu_indices(80, 1)
    distances = np.array([squared_distance(rows[i], rows[j]) for i, j in zip(a, b, strict=True)])
    assert (result.protocol, result.pairs, result.genuine) == ("all-pairs", 80 * 79 // 2, 20 * 6)
    assert result.auc == pytest.approx(roc_auc_score(labels[a] == labels[b], -distances), abs=1e-5)
    assert {name: group["pairs"] for name, group in result.groups.items()} == {"even": 780, "odd": 780}
    assert result.identification["gallery"] == 10 and result.identities["max_images"] == 4


def test_a_set_that_cannot_be_measured_is_named():
    faces = FaceSet("tiny", [b""] * 4, list("abcd"), "tiny.bin", is_same=np.array([True, False]))

    with pytest.raises(FaceError, match="Set 'tiny'"):
        evaluate_set(faces, embedded(np.eye(4, dtype=np.float32)))
