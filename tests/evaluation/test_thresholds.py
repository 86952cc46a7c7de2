"""Deployment thresholds: what they promise on the set they came from, and their way through the sidecar."""

import json

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.evaluation.keep_thresholds import write_thresholds
from facelib.evaluation.metrics import Scores, wilson_interval
from facelib.evaluation.thresholds import calibrate, read_thresholds
from facelib.model_input import Io
from facelib.sidecar import read_sidecar, write_sidecar


def draw_scores(num_impostors=20_000, seed=0):
    random = np.random.default_rng(seed)
    return Scores(random.normal(0.7, 0.2, 3000), random.normal(1.9, 0.25, num_impostors))


def by_wilson(scores):
    return lambda t: wilson_interval(int(np.sum(scores.genuine <= t)), len(scores.genuine))


def test_each_far_that_the_set_resolves_has_a_threshold_that_keeps_it():
    scores = draw_scores()

    found = calibrate(scores, by_wilson(scores))

    assert list(found) == ["0.01", "0.001", "0.0001"]  # 20,000 impostors: 1e-5 would be a fifth of a pair
    for far, values in found.items():
        rate = np.mean(scores.impostor <= values["distance"])
        assert rate == float(far)
        assert values["cosine"] == pytest.approx(1 - values["distance"] / 2)
        assert values["vr"] == np.mean(scores.genuine <= values["distance"])
        assert values["far_ci95"] == list(wilson_interval(round(rate * 20_000), 20_000))
        low, high = values["distance_ci95"]
        assert low <= values["distance"] <= high


def test_the_interval_of_the_threshold_holds_the_true_quantile_95_times_in_100():
    truth, held = 1.9 - 0.25 * 2.3263478740408408, 0  # the 1 % quantile of the normal distribution
    for seed in range(300):
        scores = draw_scores(5000, seed)
        low, high = calibrate(scores, by_wilson(scores), (0.01,))["0.01"]["distance_ci95"]
        held += low <= truth <= high

    assert 0.91 <= held / 300 <= 0.99


@pytest.fixture
def artefact(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"weights")
    write_sidecar(path, kind="h5", made_from=None, io=Io(), training_data="toys")
    return path


def entry(scores, flip=False):
    return {
        "sha256": "00",
        "impostors": len(scores.impostor),
        "flip": flip,
        "far": calibrate(scores, by_wilson(scores)),
    }


def test_the_sidecar_keeps_all_it_had_and_the_thresholds_of_every_set(artefact):
    few, many = draw_scores(3000), draw_scores(30_000, 1)

    write_thresholds(artefact, {"lfw": entry(few)})
    write_thresholds(artefact, {"ijb": entry(many)})

    sidecar = read_sidecar(artefact)
    assert sidecar.training_data == "toys" and list(sidecar.rest["thresholds"]) == ["lfw", "ijb"]
    best, named = read_thresholds(artefact, 1e-3), read_thresholds(artefact, 1e-3, "lfw")
    assert (best.set_name, best.impostors, best.flip) == ("ijb", 30_000, False)
    assert named.distance == calibrate(few, by_wilson(few))["0.001"]["distance"] and not named.flip
    assert named.cosine == pytest.approx(1 - named.distance / 2)


def test_what_was_not_calibrated_is_said_with_what_to_do(artefact):
    with pytest.raises(FaceError, match=r"no calibrated threshold.*test script"):
        read_thresholds(artefact, 1e-3)
    write_thresholds(artefact, {"lfw": entry(draw_scores(3000))})
    with pytest.raises(
        FaceError,
        match=r"FAR=1e-05. The set has 3,000 impostor pairs, which gave thresholds for FAR 0.01, 0.001",
    ):
        read_thresholds(artefact, 1e-5)
    with pytest.raises(FaceError, match="calibrated on lfw, not on 'cfp'"):
        read_thresholds(artefact, 1e-3, "cfp")


def test_damaged_thresholds_are_refused(artefact):
    write_thresholds(artefact, {"lfw": entry(draw_scores(3000))})
    path = read_sidecar(artefact).path
    value = json.loads(path.read_text())
    value["thresholds"]["lfw"]["far"]["0.001"]["distance"] = "near"
    path.write_text(json.dumps(value))

    with pytest.raises(FaceError, match="damaged"):
        read_thresholds(artefact, 1e-3)


def test_an_artefact_without_a_sidecar_gets_none(tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"x")

    assert write_thresholds(tmp_path / "other.onnx", {"lfw": entry(draw_scores(3000))}).path is None
    assert list(tmp_path.iterdir()) == [tmp_path / "other.onnx"]


def test_a_lesser_test_on_another_executor_does_not_keep_the_usual_one_out(artefact):
    partial = {**entry(draw_scores(300)), "drawn_from": 6000, "executor": "an emulator"}
    write_thresholds(artefact, {"lfw": partial})

    write_thresholds(artefact, {"lfw": {**entry(draw_scores(3000)), "executor": "this CPU"}})

    assert read_sidecar(artefact).rest["thresholds"]["lfw"]["executor"] == "this CPU"
