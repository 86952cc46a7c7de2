"""The threshold of an open-set search: as many strangers pass it as were asked for, whatever the gallery's size."""

from dataclasses import replace

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.recognition import open_set
from facelib.recognition.decision import Decision, OpenSet
from facelib.recognition.gallery import Gallery
from facelib.recognition.open_set import (
    closest_others,
    for_its_size,
    open_set_decision,
    people_needed,
    threshold_among,
)
from facelib.sidecar import write_sidecar
from tests.helpers.patches_onnx import write_model

FARS = {"0.01": 0.7, "0.001": 0.5, "0.0001": 0.3}  # and their distances


def people(seed, count, size=32):
    rows = np.random.default_rng(seed).standard_normal((count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def model(tmp_path):
    path = write_model(tmp_path / "X.onnx")
    ends = {"distance_ci95": [0.1, 1.0], "far_ci95": [1e-4, 5e-2], "vr": 0.9, "vr_ci95": [0.8, 1]}
    far = {key: {"distance": at, "cosine": 1 - at / 2, **ends} for key, at in FARS.items()}
    thresholds = {"toy": {"sha256": "0", "impostors": 30000, "flip": False, "far": far}}
    write_sidecar(path, kind="onnx", made_from=None, io=Io(layout="nchw", embedding_size=48), thresholds=thresholds)
    return path


@pytest.mark.parametrize(("count", "fpir"), [(100, 0.1), (1000, 0.1), (1000, 0.01)])
def test_as_many_strangers_pass_as_were_asked_for(count, fpir, model):
    seen = []
    for seed in range(20):
        gallery, strangers = people([seed, 0], count).astype(np.float16), people([seed, 1], 1000).astype(np.float32)
        decision = open_set_decision(gallery, fpir, model, False)
        closest = 2 - 2 * (strangers @ gallery.astype(np.float32).T).max(axis=1)
        seen.append((closest <= decision.distance).mean())

    assert decision.open_set == OpenSet(fpir, count) and decision.calibrated is None
    assert str(decision).endswith(f"for FPIR {fpir:g} among {count:,} people, measured among them")
    assert np.mean(seen) == pytest.approx(fpir, rel=0.25)


def test_a_person_is_compared_with_everybody_else_and_two_equal_people_are_no_error():
    rows = people(0, 50)
    rows[7] = rows[3]
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)

    found = closest_others(rows)

    np.testing.assert_allclose(found, np.sort(2 - 2 * cosines.max(axis=1)), atol=1e-5)
    assert found[0] == found[1] == pytest.approx(0, abs=1e-5)


def test_of_a_large_gallery_some_people_are_searched_among_all(monkeypatch):
    monkeypatch.setattr(open_set, "MOST_SEARCHED", 20)
    rows = people(0, 60)

    found = closest_others(rows)

    monkeypatch.setattr(open_set, "MOST_SEARCHED", 60)
    assert len(found) == 20 and set(found.round(5)) <= set(closest_others(rows).round(5))


@pytest.mark.parametrize(("count", "fpir", "far"), [(10, 0.1, "0.01"), (10, 0.01, "0.001"), (99, 0.1, "0.001")])
def test_too_few_people_take_the_calibrated_far_of_one_comparison(count, fpir, far, model):
    decision = open_set_decision(people(0, count), fpir, model, False)

    assert decision.distance == FARS[far] and f"{decision.far:g}" == far
    assert f"for FPIR {fpir:g} among {count} people, by FAR {far} (" in str(decision)
    assert 1 - (1 - decision.far) ** count <= fpir


@pytest.mark.parametrize(("fpir", "flip"), [(1e-4, False), (0.01, True)])
def test_neither_people_nor_a_calibrated_far_is_one_line(fpir, flip, model):
    with pytest.raises(FaceError, match=f"needs a gallery of {people_needed(fpir):,} people, or a model") as caught:
        open_set_decision(people(0, 10), fpir, model, flip)

    assert "\n" not in str(caught.value)


def test_a_gallery_that_shrinks_has_a_threshold_for_the_same_fpir(model, tmp_path):
    decision = Decision(0.9, open_set=OpenSet(0.1, 200))
    gallery = Gallery(tmp_path / "g.npy", people(0, 120), [], [], model, "", Io(), False, decision)

    changed, notes = for_its_size(gallery)
    assert changed.decision.open_set == OpenSet(0.1, 120) and changed.decision.distance != 0.9 and not notes
    changed, notes = for_its_size(replace(gallery, vectors=people(0, 20)))
    assert changed.decision.distance == FARS["0.001"] and "20 people are too few" in notes[0]
    changed, notes = for_its_size(replace(gallery, vectors=people(0, 20), flip=True))
    assert changed.decision is None and "has no threshold any more" in notes[0]
    assert for_its_size(replace(gallery, decision=Decision(0.9)))[0].decision == Decision(0.9)


def test_people_who_are_enrolled_twice_leave_no_threshold_and_that_is_one_line():
    with pytest.raises(FaceError, match=r"120 of 150 people are equally close.*enrolled twice") as refusal:
        threshold_among(np.sort(np.r_[np.zeros(120), np.linspace(0.5, 1, 30)]), 0.1)
    assert "\n" not in str(refusal.value)
