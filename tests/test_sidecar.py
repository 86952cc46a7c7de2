"""Sidecars: they say how to feed an artefact and where it comes from, and refuse one that was changed since."""

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.model_input import Io, to_model_input
from facelib.sidecar import check_sidecar, read_sidecar, sidecar_path, write_sidecar

NCHW = Io("data", "fc1", layout="nchw", colour="bgr", pixels="pm1", size=(112, 96), embedding_size=4)


@pytest.fixture
def artefact(tmp_path):
    path = tmp_path / "export" / "frozen.pb"
    path.parent.mkdir()
    path.write_bytes(b"a graph")
    return path


def test_what_is_written_is_read_again(artefact):
    write_sidecar(artefact, kind="frozen_pb", made_from=None, io=NCHW, licence="MIT", calibration={"images": 300})

    sidecar = check_sidecar(artefact)

    assert sidecar_path(artefact).name == "frozen.pb.json"
    assert (sidecar.kind, sidecar.io, sidecar.licence) == ("frozen_pb", NCHW, "MIT")
    assert sidecar.rest["calibration"] == {"images": 300}
    assert sidecar.sha256 == hashlib.sha256(b"a graph").hexdigest()


def test_the_file_has_the_keys_of_the_contract(artefact):
    value = json.loads(write_sidecar(artefact, kind="onnx", made_from=None, io=NCHW.as_dict()).read_text())

    assert {"kind", "sha256", "made_from", "made_by", "io", "template", "licence", "training_data"} <= set(value)
    assert set(value["made_by"]) == {"argv", "git_commit", "versions"}
    assert value["io"] == {
        "input": "data", "output": "fc1", "dtype": "float32", "layout": "nchw", "colour": "bgr", "pixels": "pm1",
        "size": [112, 96], "fit": "crop", "embedding_size": 4,
    }  # fmt: skip
    np.testing.assert_allclose(np.mean(value["template"], axis=0), [56.02616, 71.90078], atol=1e-6)  # five (x, y)
    assert value["made_by"]["versions"]["numpy"] == np.__version__


def test_an_artefact_that_was_changed_is_refused(artefact, monkeypatch):
    write_sidecar(artefact, kind="frozen_pb", made_from=None, io=Io())
    artefact.write_bytes(b"A graph")
    monkeypatch.setattr("facelib.sidecar.RENAME_SECONDS", 0.1)

    with pytest.raises(FaceError, match="was changed after its sidecar"):
        check_sidecar(artefact)


def test_between_the_renames_of_an_artefact_and_its_sidecar_it_looks_again(artefact, tmp_path):
    write_sidecar(artefact, kind="frozen_pb", made_from=None, io=Io())
    new = tmp_path / "new.pb"
    new.write_bytes(b"a newer graph")
    newer = write_sidecar(new, kind="frozen_pb", made_from=None, io=Io())
    new.replace(artefact)
    second = threading.Timer(0.3, newer.replace, [sidecar_path(artefact)])
    second.start()

    assert check_sidecar(artefact).sha256 == hashlib.sha256(b"a newer graph").hexdigest()

    second.join()


def test_a_child_names_its_parent_and_inherits_licence_and_training_data(artefact):
    parent = artefact.parent.parent / "embedder.h5"
    parent.write_bytes(b"weights")
    write_sidecar(parent, kind="h5", made_from=None, io=Io(), licence="CC0", training_data={"identities": 7})

    write_sidecar(artefact, kind="frozen_pb", made_from=parent, io=Io())

    sidecar = read_sidecar(artefact)
    assert sidecar.rest["made_from"] == {"path": "../embedder.h5", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert (sidecar.licence, sidecar.training_data) == ("CC0", {"identities": 7})


def test_no_path_of_the_machine_stands_in_it(artefact, monkeypatch):
    far_away = Path(__file__).resolve()
    monkeypatch.setattr(sys, "argv", [str(far_away), str(artefact), "--mode", "int8"])

    text = write_sidecar(artefact, kind="pb", made_from=far_away, io=Io()).read_text()

    assert str(artefact.parent) not in text and str(far_away.parent) not in text
    assert json.loads(text)["made_by"]["argv"] == ["test_sidecar.py", "frozen.pb", "--mode", "int8"]


def test_without_a_sidecar_there_is_none_and_without_a_file_there_is_an_error(artefact):
    assert check_sidecar(artefact) is None
    with pytest.raises(FaceError, match="No model at"):
        check_sidecar(artefact.with_name("other.pb"))


@pytest.mark.parametrize(
    "content, words",
    [
        ("not json", "JSON object"),
        ("[]", "JSON object"),
        ('{"kind": "pb"}', "the file must be an object with the key 'sha256'"),
        ('{"sha256": "0"}', "with the key 'io'. Received: an object with the keys 'sha256'"),
        ('{"sha256": "0", "io": {"layout": "chwn"}}', 'io.layout must be one of nhwc, nchw. Received: "chwn". Remove'),
        ('{"sha256": "0", "io": {"size": [112]}}', r"io.size must be a list of at least 2 values. Received: \[112\]"),
        ('{"sha256": "0", "io": {"size": [112, 0]}}', "io.size.1 must be at least 1. Received: 0"),
    ],
)
def test_a_damaged_sidecar_is_one_line(artefact, content, words):
    sidecar_path(artefact).write_text(content)

    with pytest.raises(FaceError, match=words):
        read_sidecar(artefact)


def test_the_commit_is_the_one_git_names(artefact):
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    if git.returncode:
        pytest.skip("not in a git checkout")

    value = json.loads(write_sidecar(artefact, kind="pb", made_from=None, io=Io()).read_text())

    assert value["made_by"]["git_commit"].removesuffix("+changes") == git.stdout.strip()


FACE = np.arange(112 * 112 * 3).reshape(1, 112, 112, 3).astype(np.uint8)


def test_raw_pixels_stay_as_they_are_in_the_dtype_of_the_input():
    for dtype in ("float32", "uint8"):
        pixels = to_model_input(FACE, Io(dtype=dtype))
        assert pixels.dtype == dtype
        np.testing.assert_array_equal(pixels, FACE)


def test_pixels_are_scaled_cropped_and_reordered_as_the_io_says():
    pixels = to_model_input(FACE, NCHW)

    expected = np.empty((1, 3, 112, 96), np.float32)
    for channel, source in enumerate((2, 1, 0)):
        expected[0, channel] = (FACE[0, :, 8:104, source].astype(np.float64) - 127.5) / 128
    assert pixels.dtype == np.float32 and pixels.flags.c_contiguous
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_imagenet_statistics_belong_to_the_colours_in_either_order():
    by_hand = [(FACE[0, 3, 4, c] / 255 - mean) / std for c, (mean, std) in
               enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])]  # fmt: skip

    rgb = to_model_input(FACE, Io(pixels="imagenet"))[0, 3, 4]
    bgr = to_model_input(FACE, Io(pixels="imagenet", colour="bgr"))[0, 3, 4]

    np.testing.assert_allclose(rgb, by_hand, rtol=1e-5)
    np.testing.assert_allclose(bgr, by_hand[::-1], rtol=1e-5)


def test_impossible_pixels_are_refused():
    with pytest.raises(FaceError, match="cannot be enlarged"):
        to_model_input(FACE, Io(size=(128, 128)))
    with pytest.raises(FaceError, match="raw pixels"):
        to_model_input(FACE, Io(dtype="uint8", pixels="pm1"))
