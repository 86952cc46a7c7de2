"""An .h5 whose reading crashes or never ends is one line; one that its sidecar vouches for is not read twice."""

import h5py
import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.files import sha256_of, write_json
from facelib.runtimes import h5_check
from facelib.runtimes.keras_h5 import load_head_centres, load_model


@pytest.fixture
def h5_file(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["model_weights/head/centres"] = np.ones((2, 3), np.float32)
    return tmp_path / "m.h5"


def test_a_sound_file_passes_and_a_file_of_another_kind_is_left_to_the_reader(h5_file, tmp_path):
    h5_check.check_h5(h5_file)
    (tmp_path / "x.h5").write_bytes(b"this is no HDF5 file")
    h5_check.check_h5(tmp_path / "x.h5")
    assert load_head_centres(h5_file).shape == (2, 3)


@pytest.mark.parametrize("read, match", [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
    ("while True: pass", "does not end in 1 s"),
])  # fmt: skip
def test_a_crash_and_a_hang_are_one_line(monkeypatch, h5_file, read, match):
    monkeypatch.setattr(h5_check, "_READ", read)
    monkeypatch.setattr(h5_check, "MIN_SECONDS", 1.0)

    for reader in (load_model, load_head_centres):
        with pytest.raises(FaceError, match=rf"m\.h5' is damaged.*{match}"):
            reader(h5_file)


def link(file):
    file["model_weights/dense"] = h5py.ExternalLink("/etc/hostname", "/")


def raw_file(file):
    file.create_dataset("model_weights/w", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def huge(file):
    file.create_dataset("model_weights/w", (10**12,), "f4", chunks=(1024,))


@pytest.mark.parametrize("change, match", [(link, "other files"), (raw_file, "other files"), (huge, "far larger")])
def test_a_file_that_reaches_outside_or_declares_too_much_is_not_read(h5_file, change, match):
    with h5py.File(h5_file, "a") as file:
        change(file)

    with pytest.raises(FaceError, match=rf"m\.h5' .*{match}.*not read"):
        load_model(h5_file)


def test_a_file_that_is_as_its_sidecar_says_is_not_read_twice(monkeypatch, h5_file):
    monkeypatch.setattr(h5_check, "_READ", "import os; os.abort()")
    write_json(h5_file.with_name("m.h5.json"), {"kind": "h5", "sha256": sha256_of(h5_file), "io": {}})

    h5_check.check_h5(h5_file)
    h5_file.write_bytes(h5_file.read_bytes() + b"x")
    with pytest.raises(FaceError, match="damaged"):
        h5_check.check_h5(h5_file)
