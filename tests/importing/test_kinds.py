"""Which reader a file of another system gets: decided by its content, not by its name."""

import zipfile

import h5py
import pytest

import import_model
import import_onnx
from facelib.errors import FaceError
from facelib.importing.kinds import find_kind


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def hdf5(path):
    h5py.File(path, "w").close()


FILES = {
    "onnx": lambda path: path.write_bytes(b"\x08\x08\x12\x07pytorch"),
    "frozen_pb": lambda path: path.write_bytes(b"\x0a\x10\x0a\x07input_1"),
    "keras_h5": hdf5,
    "keras_zip": lambda path: zipped(path, "metadata.json", "config.json", "model.weights.h5"),
    "torch": lambda path: zipped(path, "archive/data.pkl", "archive/data/0"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_known_by_its_content(tmp_path, kind):
    FILES[kind](tmp_path / "net.dat")

    assert find_kind(tmp_path / "net.dat") == kind


def test_a_saved_model_is_a_folder(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")

    assert find_kind(tmp_path) == "saved_model"


@pytest.mark.parametrize("data, match", [
    (b"\x1c\x00\x00\x00TFL3", "cannot be imported.*tflite_test.py"),
    (b"\x12\x01\x00\x00\x00\x00\x00\x00", "MXNet.*ONNX"),
    (b"{}", "begins with b'{}'"),
    (b"PK\x03\x04", "damaged"),
])  # fmt: skip
def test_what_cannot_be_imported_is_one_line_with_the_road(tmp_path, data, match):
    (tmp_path / "net.onnxx").write_bytes(data)

    with pytest.raises(FaceError, match=match) as refusal:
        find_kind(tmp_path / "net.onnxx")
    assert "\n" not in str(refusal.value)


def test_the_old_name_of_the_script_is_the_same_script():
    assert import_onnx.main is import_model.main
