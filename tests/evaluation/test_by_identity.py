"""Errors by identity, against the same counts written over a plain list of every pair."""

import numpy as np

from facelib.evaluation import by_identity
from facelib.evaluation.by_identity import find_errors, measure_identities
from facelib.evaluation.evaluate_set import measure_folder
from facelib.evaluation.results import format_findings


def draw_faces(seed=0, num_identities=30, num_images=120, noise=0.8):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_identities), random.integers(0, num_identities - 3, num_images)])
    random.shuffle(labels)
    return random.normal(size=(num_identities, 8))[labels] + noise * random.normal(size=(len(labels), 8)), labels


def all_distances(embeddings):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.square(unit[:, None] - unit[None]).sum(axis=2)


def test_every_face_is_compared_with_every_other_once(monkeypatch):
    monkeypatch.setattr(by_identity, "_BLOCK_ROWS", 7)  # the last block is not full
    embeddings, labels = draw_faces()
    distances, threshold = all_distances(embeddings), 0.6

    errors = find_errors(embeddings, 10 * labels, threshold)

    for row, label in enumerate(labels):
        others = np.flatnonzero(labels != label)
        mates = np.setdiff1d(np.flatnonzero(labels == label), [row])
        assert errors.impostor[row] == others[distances[row, others].argmin()]
        assert errors.genuine[row] == len(mates)
        assert errors.accepted[row] == (distances[row, mates] <= threshold).sum()
        assert errors.mate[row] == (mates[distances[row, mates].argmin()] if len(mates) else row)
        is_confused = len(mates) > 0 and distances[row, others].min() < distances[row, mates].min()
        assert errors.is_confused[row] == is_confused
    assert 10 < errors.is_confused.sum() < 140 and (errors.genuine == 0).any()


def test_the_worst_identities_are_those_with_the_largest_share_of_confused_faces():
    embeddings, labels = draw_faces()
    distances, threshold = all_distances(embeddings), 0.6
    names = [f"person {label}" for label in labels]
    images = [f"{name}/{i}.jpg" for i, name in enumerate(names)]

    found = measure_identities(embeddings, labels, threshold, images, names)

    errors = find_errors(embeddings, labels, threshold)
    shares = [one["confused"] / one["images"] for one in found["worst"]]
    assert shares == sorted(shares, reverse=True) and len(found["worst"]) == 20
    assert max(errors.is_confused[labels == label].mean() for label in set(labels)) == shares[0]
    assert found["confused"] == errors.is_confused.sum() and found["faces"] == (errors.genuine > 0).sum()
    for one in found["worst"]:
        rows = np.flatnonzero(np.array(names) == one["identity"])
        others = np.setdiff1d(np.arange(len(names)), rows)
        upper = distances[np.ix_(rows, rows)][np.triu_indices(len(rows), 1)]
        assert (one["images"], one["genuine"]) == (len(rows), len(upper))
        assert one["accepted"] == (upper <= threshold).sum()
        assert one["distance"] == np.float32(one["distance"])
        np.testing.assert_allclose(one["distance"], distances[np.ix_(rows, others)].min(), atol=1e-6)
        first, second = (images.index(name) for name in one["faces"])
        np.testing.assert_allclose(distances[first, second], one["distance"], atol=1e-6)
        assert names[second] == one["nearest"]


def test_those_who_are_taken_for_each_other_stand_in_the_matrix():
    centres = np.eye(20)
    centres[5] = centres[4] + 0.3 * centres[5]  # 4 and 5 look nearly the same
    labels = np.repeat(np.arange(20), 6)
    embeddings = centres[labels] + 0.1 * np.random.default_rng(0).normal(size=(120, 20))

    found = measure_identities(embeddings, labels, 0.5, [str(i) for i in range(120)])["confusion"]

    assert set(found["identities"][:2]) == {"4", "5"} and len(found["identities"]) == 12
    assert found["nearest"][0][1] + found["nearest"][1][0] > 0
    assert [sum(row) for row in found["nearest"]] == [6] * 12
    distances = np.array(found["distance"])
    np.testing.assert_allclose(distances, distances.T)
    assert (np.diag(distances) < 1e-3).all() and distances[0, 1] < 0.2 < distances[0, 2]


def test_equal_vectors_of_two_people_are_confused_and_a_single_image_never_is():
    embeddings = np.eye(4)[[0, 0, 0, 1, 2, 2]]
    labels = np.array([0, 0, 1, 2, 3, 3])  # a face of 1 has the vector of 0

    errors = find_errors(embeddings, labels, 0.1)

    assert errors.is_confused.tolist() == [True, True, False, False, False, False]


def test_the_result_of_a_folder_has_them_at_the_threshold_of_the_smallest_far():
    embeddings, labels = draw_faces()

    result = measure_folder("people", embeddings, labels, (0.1, 0.01, 1e-9), images=[str(i) for i in range(150)])

    assert result.by_identity["threshold"] == result.vr[1].threshold  # 1e-9 was not measured
    worst = result.by_identity["worst"][0]
    line = (
        f"{result.by_identity['confused']} of {result.by_identity['faces']} faces are nearest to a face of a different"
    )
    assert f"people: {line} identity; hardest: {worst['identity']} (" in format_findings((result,))
