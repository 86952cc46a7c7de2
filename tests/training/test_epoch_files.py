"""facelib/training/epoch_files.py: which model an epoch writes, and what its sidecar says."""

from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from face_loss_k import make_head
from facelib.runtimes.keras_h5 import load_model
from facelib.sidecar import check_sidecar
from facelib.training.checkpoint import Position
from facelib.training.epoch_files import EpochFiles, measure
from tests.helpers.training_runs import CLASSES, LABELS, RECIPE, Records, evaluation


@pytest.fixture
def embedder():
    keras.utils.set_random_seed(0)
    faces = keras.Input((6, 6, 3), name="input_1")
    return keras.Model(faces, keras.layers.Dense(4, name="embeddings")(keras.layers.Flatten(name="flat")(faces)))


def result(acc, auc):
    return {"acc": acc, "auc": auc}


def test_an_epoch_without_verification_is_the_best_so_far(tmp_path, embedder):
    files, at = EpochFiles(tmp_path, embedder, Records(LABELS), RECIPE), Position()
    for _ in range(2):
        files.save(None, at, {})
        at.end_epoch()

    names = {path.name for path in tmp_path.glob("*.h5")}
    assert names == {"epoch-001.h5", "epoch-002.h5", "embedder.h5"}
    sidecar = check_sidecar(tmp_path / "embedder.h5")
    assert sidecar.rest["epoch"] == 2 and sidecar.rest["acc"] == {}
    assert sidecar.io.size == (6, 6) and sidecar.io.embedding_size == 4


def test_embedder_h5_is_of_the_best_epoch(tmp_path, embedder):
    files, at = EpochFiles(tmp_path, embedder, Records(LABELS), replace(RECIPE, teacher="x/teacher.pb")), Position()
    for acc in (0.8, 0.9, 0.85):
        files.save(None, at, {"lfw": result(acc, 0.5), "agedb": result(acc - 0.1, 0.5)})
        at.end_epoch()

    sidecar = check_sidecar(tmp_path / "embedder.h5").rest
    assert (sidecar["epoch"], sidecar["acc"], sidecar["teacher"]) == (2, {"lfw": 0.9, "agedb": 0.8}, "teacher.pb")
    assert at.best == pytest.approx([0.85, 0.5]) and at.best_on == ["agedb", "lfw"]
    assert check_sidecar(tmp_path / "epoch-003.h5").rest["acc"]["lfw"] == 0.85


def test_epoch_h5_has_the_head_on_top_and_embedder_h5_has_not(tmp_path, embedder):
    head = make_head("arcface", CLASSES, {"margin": 0.1, "scale": 8.0}, None)
    head.build((None, 4))
    faces = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3)).astype(np.float32)

    EpochFiles(tmp_path, embedder, Records(LABELS), RECIPE).save(head, Position(), {})

    training = keras.models.load_model(tmp_path / "epoch-001.h5", compile=False)
    rows = embedder(faces).numpy()
    cosines = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centres = head.centres.numpy() / np.linalg.norm(head.centres.numpy(), axis=1, keepdims=True)
    logits = 8.0 * cosines @ centres.T
    labels = np.array([0, 1, 2], np.int32)
    for i, label in enumerate(labels):
        logits[i, label] = 8.0 * np.cos(np.arccos(cosines[i] @ centres[label]) + 0.1)
    np.testing.assert_allclose(training([faces, labels]), logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(load_model(tmp_path / "embedder.h5")(faces), rows)


def test_measure_keeps_what_is_logged():
    assert measure(None, None) == ("", {})

    asked = []
    table, sets = measure(lambda model: asked.append(model) or evaluation(lfw=0.9), "model")
    assert (table, asked) == ("", ["model"])
    assert sets == {"lfw": {"acc": 0.9, "acc_std": 0.0, "auc": 0.9, "eer": 0.0, "vr": {}}}

    more = SimpleNamespace(name="lfw", as_dict=lambda: {**sets["lfw"], "roc": [1, 2, 3]})
    told = SimpleNamespace(results=[more], table=lambda: "a table")
    assert measure(lambda model: told, None) == ("a table", sets)
