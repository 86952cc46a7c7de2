"""Mistakes in feeding a model are found by its embeddings, and named; a rough or a right model is not accused."""

import numpy as np
import pytest

from facelib.data.synthetic.faces import synthetic_face
from facelib.wrong_input import MISTAKES, compare_with, cosine_between

SIDE, NUM_FACES = 16, 24


@pytest.fixture(scope="module")
def faces():
    """uint8 [24, 16, 16, 3]: coloured patches, and one drawn face so that they are like photos."""
    random = np.random.default_rng(0)
    patches = random.integers(20, 236, (NUM_FACES, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    return np.clip(patches + random.integers(-9, 10, patches.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def reference():
    """A small random net: values [N, 16, 16, 3] in 0..255 -> [N, 32]."""
    random = np.random.default_rng(1)
    first, last = random.normal(size=(3 * SIDE * SIDE, 64)) / 30, random.normal(size=(64, 32)) / 8

    def embed(values):
        assert values.dtype == np.float32
        return np.maximum((values.reshape(len(values), -1) - 127.5) / 128 @ first, -0.1) @ last

    return embed


def noisy(embeddings, share):
    random = np.random.default_rng(2)
    return embeddings + share * np.std(embeddings) * random.normal(size=embeddings.shape)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "_"))
def test_each_mistake_is_named_with_the_way_out(mistake, faces, reference):
    embeddings = noisy(reference(mistake.apply(faces.astype(np.float32)).astype(np.float32)), 0.1)  # of 8 bits

    findings = compare_with(embeddings, faces, reference)

    assert findings.mistake is mistake
    assert mistake.name in str(findings) and mistake.advice in str(findings)


def test_pixels_scaled_twice_make_people_alike(faces, reference):
    embeddings = reference((faces.astype(np.float32) - 127.5) / np.float32(128))

    findings = compare_with(embeddings, faces, reference)

    assert findings.looks_the_same and findings.between > 0.9 > 0.5 > findings.reference_between
    assert "Different faces get almost the same embedding" in str(findings)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0, 5.0])
def test_a_rough_model_is_not_accused(share, faces, reference):
    findings = compare_with(noisy(reference(faces.astype(np.float32)), share), faces, reference)

    assert findings.mistake is None and str(findings) == ""


def test_a_collapsed_model_is_alike_without_a_known_cause(faces, reference):
    embeddings = np.tile(np.random.default_rng(3).normal(size=32), (NUM_FACES, 1))

    findings = compare_with(embeddings, faces, reference)

    assert findings.mistake is None and "Check the input of the model" in str(findings)
    assert "almost the same embedding" in str(compare_with(np.zeros((NUM_FACES, 32)), faces, reference))


def test_faces_that_the_reference_does_not_tell_apart_prove_nothing(reference):
    faces = np.tile(synthetic_face(1, 0, 0)[:SIDE, :SIDE], (NUM_FACES, 1, 1, 1))

    assert str(compare_with(noisy(reference(faces.astype(np.float32)), 0.5), faces, reference)) == ""


def test_the_cosine_between_faces_is_the_mean_over_pairs():
    rows = np.array([[1.0, 0], [0, 2], [1, 1]])

    assert cosine_between(rows) == pytest.approx((0 + 2 * np.sqrt(0.5)) / 3)
