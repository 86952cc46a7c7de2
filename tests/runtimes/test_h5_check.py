"""An .h5 whose reading crashes or never ends is one line; one that its sidecar vouches for is not read twice."""

import h5py
import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.files import sha256_of, write_json
from facelib.runtimes import h5_check, h5_scan
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


def reads_by(monkeypatch, folder, code):
    """The process that reads runs `code` in place of h5_scan.py."""
    (folder / "scan.py").write_text(code)
    monkeypatch.setattr(h5_scan, "__file__", str(folder / "scan.py"))


@pytest.mark.parametrize("read, match", [
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
    ("while True: pass", "takes more than 1 s"),
])  # fmt: skip
def test_a_crash_and_a_hang_are_one_line(monkeypatch, tmp_path, h5_file, read, match):
    reads_by(monkeypatch, tmp_path, read)
    monkeypatch.setattr(h5_check, "MIN_SECONDS", 1.0)

    for reader in (load_model, load_head_centres):
        with pytest.raises(FaceError, match=rf"m\.h5' is damaged.*{match}"):
            reader(h5_file)


def link(file):
    file["model_weights/dense"] = h5py.ExternalLink("/etc/hostname", "/")


def raw_file(file):
    file.create_dataset("model_weights/w", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def virtual(file):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/hostname", "w", (4,))
    file.create_virtual_dataset("model_weights/w", layout)


def chain(file):
    """Links within the file, the last of which leads out."""
    file["model_weights/a"] = h5py.SoftLink("/model_weights/b")
    file["model_weights/b"] = h5py.SoftLink("/model_weights/deep/c")
    file["model_weights/deep/c"] = h5py.ExternalLink("other.h5", "/model_weights")


def huge(file):
    file.create_dataset("model_weights/w", (10**12,), "f4", chunks=(1024,))


def huge_with_a_value(file):
    """One block is there, so the array is not empty."""
    file.create_dataset("model_weights/w", (10**12,), "f4", chunks=(1024,))[0] = 1


def huge_element(file):
    file.create_dataset("model_weights/w", (1,), np.dtype(("f4", (2**20, 200))), chunks=(1,), compression="gzip")


def bomb(file):
    for number in range(4):
        file.create_dataset(f"model_weights/{number}", (5, 2**20), "f4", compression="gzip", data=np.zeros((5, 2**20)))


OUTSIDE = [link, raw_file, virtual, chain]
ENDLESS = [huge, huge_with_a_value, huge_element, bomb]


@pytest.mark.parametrize("is_vouched", [False, True], ids=["alone", "with_a_sidecar"])
@pytest.mark.parametrize("change", OUTSIDE + ENDLESS)
def test_a_file_that_reaches_outside_or_declares_too_much_is_not_read(h5_file, change, is_vouched):
    with h5py.File(h5_file, "a") as file:
        change(file)
    if is_vouched:  # a stranger gives a sidecar away too
        write_json(h5_file.with_name("m.h5.json"), {"kind": "h5", "sha256": sha256_of(h5_file), "io": {}})

    with pytest.raises(FaceError, match=rf"m\.h5' .*{'other files' if change in OUTSIDE else 'far larger'}.*not read"):
        load_model(h5_file)


@pytest.mark.slow
def test_texts_that_stand_for_one_large_text_do_not_fill_the_memory(monkeypatch, h5_file):
    """A million texts of variable length, all at one place: 16 bytes each in the file, 8 TB in memory."""
    monkeypatch.setattr(h5_check, "MIN_SECONDS", 5.0)
    with h5py.File(h5_file, "a") as file:
        texts = file.create_dataset("model_weights/names", (2**20,), h5py.string_dtype())
        texts[0] = "x" * 2**23
    data = h5_file.read_bytes()
    start = data.index((2**23).to_bytes(4, "little"))  # length, place of the heap, number in it
    reference = data[start : start + 16]
    h5_file.write_bytes(data[:start] + reference * 2**20 + data[start + 16 * 2**20 :])

    with pytest.raises(FaceError, match=r"far larger|does not end|takes more than"):
        load_model(h5_file)


def test_a_file_that_is_as_its_sidecar_says_is_not_read_twice(monkeypatch, tmp_path, h5_file):
    reads_by(monkeypatch, tmp_path, "import os; os.abort()")
    write_json(h5_file.with_name("m.h5.json"), {"kind": "h5", "sha256": sha256_of(h5_file), "io": {}})

    h5_check.check_h5(h5_file)
    h5_file.write_bytes(h5_file.read_bytes() + b"x")
    with pytest.raises(FaceError, match="damaged"):
        h5_check.check_h5(h5_file)
