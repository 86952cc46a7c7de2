"""--gallery-model: probes by one artefact, gallery by another; predict.py searches with the thresholds of both."""

import json

import cv2
import numpy as np
import pytest

import evaluate_data
import predict
from facelib.data.synthetic.files import SyntheticSet, write_pairs
from facelib.data.verification.bins import decode_images, load_bin
from facelib.errors import FaceError
from facelib.evaluation.thresholds import read_thresholds
from facelib.files import sha256_of
from facelib.model_input import Io
from facelib.runtimes.onnx import OnnxEmbedder
from facelib.sidecar import write_sidecar
from tests.helpers.patches_onnx import write_model

OFFSETS = {"X.onnx": -128.0, "Y.onnx": -120.0}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A verification set of 400 pairs of drawn faces."""
    path = tmp_path_factory.mktemp("faces") / "toy.bin"
    write_pairs(path, SyntheticSet(40, 6), 400)
    return path


@pytest.fixture
def room(tmp_path):
    """X.onnx and Y.onnx, two nets of 48 values, with sidecars."""
    for name, offset in OFFSETS.items():
        write_model(tmp_path / name, offset=offset)
        write_sidecar(tmp_path / name, kind="onnx", made_from=None, io=Io(layout="nchw", embedding_size=48))
    return tmp_path


def run(room, faces, *words):
    flags = [str(room / "X.onnx"), "--valid", str(faces), "--far", "0.1", *map(str, words)]
    return evaluate_data.test_main(flags, OnnxEmbedder, "A test.", "onnx")


def vectors(images, offset):
    """The net in NumPy: float64 [N, 48], rows of unit length."""
    means = images.astype(np.float64).reshape(len(images), 4, 28, 4, 28, 3).mean((2, 4)) + offset
    rows = means.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_second_face_of_each_pair_is_embedded_by_the_other_model(room, faces, capsys):
    pairs = load_bin(faces)
    images = decode_images(pairs.images)
    across = vectors(images[0::2], OFFSETS["X.onnx"]) - vectors(images[1::2], OFFSETS["Y.onnx"])
    distances = np.square(across).sum(axis=1)

    assert run(room, faces, "--gallery-model", room / "Y.onnx") == 0

    assert "probes embedded by X.onnx, gallery by Y.onnx" in capsys.readouterr().out
    report = json.loads((room / "X.onnx.gallery_Y.report.json").read_text())
    assert report["gallery_model"] == {"name": "Y.onnx", "sha256": sha256_of(room / "Y.onnx")}
    assert report["sets"]["toy"]["dist_max"] == pytest.approx(distances.max(), abs=1e-5)
    assert report["sets"]["toy"]["dist_min"] == pytest.approx(distances.min(), abs=1e-5)
    assert report["mean_norm"] is None
    found = read_thresholds(room / "X.onnx", 1e-2, gallery_sha256=sha256_of(room / "Y.onnx"))
    assert (distances[~pairs.is_same] <= found.distance + 1e-6).sum() == 2  # of 200


def test_thresholds_of_two_models_stand_beside_those_of_one(room, faces):
    run(room, faces)
    run(room, faces, "--gallery-model", room / "Y.onnx")

    sidecar = json.loads((room / "X.onnx.json").read_text())

    alone = sidecar["thresholds"]["toy"]["far"]["0.01"]["distance"]
    together = sidecar["gallery_thresholds"][sha256_of(room / "Y.onnx")]
    assert together["model"] == "Y.onnx" and together["sets"]["toy"]["far"]["0.01"]["distance"] != alone
    assert (room / "X.onnx.report.json").is_file()


def test_a_gallery_model_of_another_size_or_a_folder_of_identities_is_refused(room, faces, tmp_path):
    wide = write_model(room / "wide.onnx", windows=7)
    write_sidecar(wide, kind="onnx", made_from=None, io=Io(layout="nchw"))
    with pytest.raises(FaceError, match=r"must have the same size\. Received: 48 and \d+ values"):
        run(room, faces, "--gallery-model", wide)
    for identity in range(3):
        folder = tmp_path / "people" / f"p{identity}"
        folder.mkdir(parents=True)
        for photo in range(2):
            cv2.imwrite(str(folder / f"{photo}.png"), np.full((112, 112, 3), 40 * identity + photo, np.uint8))
    with pytest.raises(FaceError, match="--gallery-model needs listed pairs"):
        run(room, tmp_path / "people", "--gallery-model", room / "Y.onnx")


@pytest.fixture
def people(room):
    """Folders of 4 people with 2 photos each, enrolled by Y, and another photo of p2."""
    random = np.random.default_rng(0)
    for identity in range(4):
        patches = random.integers(20, 236, (4, 4, 3))
        for photo in range(3):
            noise = random.integers(-20, 21, (4, 4, 3))
            face = np.clip(patches + noise, 0, 255).astype(np.uint8).repeat(28, 0).repeat(28, 1)
            path = room / "people" / f"p{identity}" / f"{photo}.png" if photo < 2 else room / f"new{identity}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), face)
    predict.main(["enroll", str(room / "people"), str(room / "g.npy"), "--model", str(room / "Y.onnx")])
    return room


def search(room, *words):
    return predict.main(
        ["search", str(room / "new2.png"), str(room / "g.npy"), "--model", str(room / "X.onnx"), *words]
    )


def test_a_gallery_of_another_model_is_searched_once_the_two_were_calibrated_together(people, faces, capsys):
    with pytest.raises(FaceError, match=r"searched with the model that made it.*--gallery-model Y\.onnx"):
        search(people)
    run(people, faces)  # thresholds of X alone are not enough
    with pytest.raises(FaceError, match="searched with the model that made it"):
        search(people, "--far", "0.01")
    run(people, faces, "--gallery-model", people / "Y.onnx")
    expected = read_thresholds(people / "X.onnx", 1e-2, gallery_sha256=sha256_of(people / "Y.onnx"))
    capsys.readouterr()

    assert search(people, "--far", "0.01") == 0

    out = capsys.readouterr().out
    assert out.splitlines()[2].split()[0 if "*" not in out.splitlines()[2] else 1] == "p2"
    assert f"threshold {expected.distance:.4f} for FAR 0.01" in out


def test_the_flip_of_the_gallery_must_be_that_of_the_calibration(people, faces):
    run(people, faces, "--flip", "--gallery-model", people / "Y.onnx")

    with pytest.raises(FaceError, match="Enrol the gallery again"):
        search(people, "--far", "0.01")
