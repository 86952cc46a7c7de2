"""The map of a set: which faces are on it, with which errors, and where."""

from types import SimpleNamespace

import numpy as np
import pytest

from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.data.verification.bins import write_bin
from facelib.evaluation import face_map
from facelib.evaluation.embed_images import Embedded
from facelib.evaluation.face_map import MappedFace, choose_faces, make_map, place
from facelib.evaluation.verification_sets import find_sets
from facelib.image_decoding import decode_image


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """`people`, six identities of four synthetic faces each, and their images in order."""
    folder = tmp_path_factory.mktemp("faces")
    write_folders(folder / "people", SyntheticSet(6, 4))
    return folder, [file.read_bytes() for file in sorted((folder / "people").rglob("*.jpg"))]


def embeddings_of(labels, size=16):
    return np.eye(size)[labels] + 0.1 * np.random.default_rng(0).normal(size=(len(labels), size))


def result_at(threshold, sha256="ab"):
    """What a map needs of a result."""
    return SimpleNamespace(accuracy=SimpleNamespace(thresholds=np.array([threshold])), source={"sha256": sha256})


def test_a_face_of_a_folder_that_is_nearest_to_another_person_is_confused_with_it(faces):
    folder, images = faces
    (load,) = find_sets(folder / "people")
    people = load()
    rows = embeddings_of(people.labels)
    rows[1:4] = rows[0] + 0.001 * rows[1:4]  # the first identity: nearer to each other than to
    rows[5] = rows[0] + 0.03  # this image of the second

    found = make_map(people, Embedded(rows, None, 24, 0.0), result_at(1.0))

    assert (found.name, found.set_sha256, found.num_faces) == ("people", "ab", 24)
    assert [face.image for face in found.faces] == people.names
    assert [face.identity for face in found.faces] == people.identities
    assert [i for i, face in enumerate(found.faces) if face.verdict != "right"] == [5]
    assert found.faces[5].verdict == "confused" and found.faces[5].other in people.names[:4]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    whole = decode_image(images[7])
    assert np.abs(found.pictures[7].mean((0, 1)) - whole.mean((0, 1))).max() < 2


def test_images_of_pairs_are_on_the_map_once_with_the_error_of_their_worst_pair(faces, tmp_path):
    _, images = faces
    pairs = [(0, 1, True), (0, 4, False), (0, 8, False), (8, 9, True), (12, 13, True)]
    write_bin(tmp_path / "toy.bin", [images[i] for a, b, _ in pairs for i in (a, b)], [same for *_, same in pairs])
    (load,) = find_sets(tmp_path / "toy.bin")
    vectors = {0: [1, 0, 0], 1: [0.95, 0.3, 0], 4: [0.9, 0, 0.4], 8: [1, 0, 0.1], 9: [0, 1, 0], 12: [0, 0, 1],
               13: [0, 0.1, 1]}  # fmt: skip
    rows = np.array([vectors[i] for a, b, _ in pairs for i in (a, b)], float)

    found = make_map(load(), Embedded(rows, None, 7, 0.0), result_at(0.5))

    assert [(face.image, face.verdict, face.other) for face in found.faces] == [
        ("0", "false accept", "5"),  # closer to the image of entry 5 than to that of entry 3
        ("1", "right", ""),
        ("3", "false accept", "0"),
        ("5", "false reject", "7"),
        ("7", "false reject", "5"),
        ("8", "right", ""),
        ("9", "right", ""),
    ]
    people = [face.identity for face in found.faces]  # faces that genuine pairs join
    assert people[0] == people[1] and people[3] == people[4] and people[5] == people[6]
    assert len(set(people)) == 4


def test_a_map_is_bounded_has_the_errors_and_is_the_same_every_time(monkeypatch):
    monkeypatch.setattr(face_map, "MAX_FACES", 60)
    monkeypatch.setattr(face_map, "MAX_PER_IDENTITY", 5)
    groups = np.random.default_rng(0).integers(0, 40, 500)
    wrong = {10: 11, 11: 10, 250: 400, 499: 3}
    faces = [
        MappedFace(str(i), "", "confused" if i in wrong else "right", str(wrong.get(i, ""))) for i in range(len(groups))
    ]

    chosen = choose_faces(faces, groups)

    assert 50 < len(chosen) <= 60 and (np.diff(chosen) > 0).all()
    assert {*wrong, *wrong.values()} <= set(chosen.tolist())
    counts = np.bincount(groups[chosen])
    assert counts.max() <= 5 + 2 and (counts > 0).sum() > 10
    np.testing.assert_array_equal(choose_faces(faces, groups), chosen)
    everyone_is_wrong = [MappedFace(str(i), "", "confused", str(499 - i)) for i in range(500)]
    assert 30 < len(choose_faces(everyone_is_wrong, groups)) <= 60


def test_one_person_is_one_group_on_the_map_and_the_map_is_the_same_every_time():
    labels = np.repeat(np.arange(6), 20)
    vectors = embeddings_of(labels).astype(np.float32)

    places = place(vectors)

    assert places.min() >= 0 and places.max() <= 1 and np.ptp(places, axis=0).max() == pytest.approx(1)
    distances = np.square(places[:, None] - places[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[distances.argmin(axis=1)] == labels).all()
    np.testing.assert_array_equal(place(vectors), places)
    np.testing.assert_array_equal(place(np.ones((5, 4), np.float32)), 0.5)  # a model that tells nobody apart
