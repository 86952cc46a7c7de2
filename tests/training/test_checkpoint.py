"""Checkpoints: what goes in comes out, whole files only, and damage is one clear line."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelib.errors import FaceError
from facelib.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint

ARRAYS = {
    "embedder/0000/stem_conv/kernel": np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype("float32"),
    "optimizer/0000/iteration": np.array(12345, np.int64),
    "head/0000/head/centres": np.zeros((4, 0), "float32"),
}
STATE = {"position": {"epoch": 1, "best": [0.5, 1e-300], "seconds": 0.1 + 0.2}, "sums": [1.0, 2.5], "text": "größe"}


def test_arrays_and_state_come_back_bitwise(tmp_path):
    path = save_checkpoint(tmp_path / "checkpoint", 7, ARRAYS, STATE)

    arrays, state = load_checkpoint(path)

    assert path.name == "step-000000007.npz"
    assert state == STATE
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_the_newest_two_are_kept(tmp_path):
    for step in (5, 30, 200, 1000):
        save_checkpoint(tmp_path, step, {}, {"step": step})

    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000000200.npz", "step-000001000.npz"]
    assert sorted(os.listdir(tmp_path)) == ["step-000000200.npz", "step-000001000.npz"]


def test_other_files_are_no_checkpoints(tmp_path):
    save_checkpoint(tmp_path, 1, {}, {})
    for name in ("step-1.npz", "step-000000002.npz.part", ".step-000000003.npz.77.part", "notes.txt"):
        (tmp_path / name).write_text("x")

    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000000001.npz"]
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_a_write_that_fails_leaves_the_old_checkpoints_and_nothing_else(tmp_path, monkeypatch):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, ARRAYS, {"step": step})
    written = np.savez

    def full_disk(file, **arrays):
        written(file, **dict(list(arrays.items())[:1]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, 3, ARRAYS, {"step": 3})

    assert sorted(os.listdir(tmp_path)) == ["step-000000001.npz", "step-000000002.npz"]
    assert [load_checkpoint(p)[1]["step"] for p in list_checkpoints(tmp_path)] == [1, 2]


def test_the_same_step_again_replaces_the_file(tmp_path):
    save_checkpoint(tmp_path, 4, ARRAYS, {"try": 1})
    path = save_checkpoint(tmp_path, 4, ARRAYS, {"try": 2})

    assert load_checkpoint(path)[1] == {"try": 2}
    assert len(list_checkpoints(tmp_path)) == 1


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = save_checkpoint(tmp_path_factory.mktemp("good"), 1, ARRAYS, STATE)
    return path, path.read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK", b"not a checkpoint", b"\x80\x04]q\x00.", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "step-000000001.npz"
    path.write_bytes(content)

    with pytest.raises(FaceError, match=r"step-000000001.npz' is damaged.*resumes from the previous checkpoint"):
        load_checkpoint(path)


def test_a_bare_array_is_no_checkpoint(tmp_path):
    with open(tmp_path / "step-000000001.npz", "wb") as file:
        np.save(file, np.zeros(3))

    with pytest.raises(FaceError, match="is damaged"):
        load_checkpoint(tmp_path / "step-000000001.npz")


def test_a_pickle_inside_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "step-000000001.npz", trap=np.array([Trap()], object))

    with pytest.raises(FaceError, match="is damaged"):
        load_checkpoint(tmp_path / "step-000000001.npz")
    assert not (tmp_path / "sprung").exists()


def same_or_named(path):
    """Damage where nothing lies is no matter; any other must be a FaceError."""
    try:
        arrays, state = load_checkpoint(path)
    except FaceError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert state == STATE
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_cut_checkpoint_is_named(good, tmp_path_factory, data):
    path, content = good
    cut = path.with_name("cut.npz")
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])

    with pytest.raises(FaceError, match="is damaged"):
        load_checkpoint(cut)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_is_named_or_harmless(good, data):
    path, content = good
    at = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[at] ^= data.draw(st.integers(1, 255))
    damaged = path.with_name("damaged.npz")
    damaged.write_bytes(changed)

    same_or_named(damaged)


@pytest.mark.parametrize(
    "header",
    [b"(" * 3000, b"'", b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }" % 2**40, b"-" * 9000, b" {"],
    ids=["brackets", "quote", "4 TB", "signs", "indent"],
)  # fmt: skip
def test_a_header_that_lies_inside_a_right_archive_is_one_line(tmp_path, header):
    member = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(16)
    with zipfile.ZipFile(tmp_path / "step-000000001.npz", "w") as archive:
        archive.writestr("a.npy", member)

    with pytest.raises(FaceError, match="is damaged"):
        load_checkpoint(tmp_path / "step-000000001.npz")


@pytest.mark.parametrize("state", ["[" * 60_000, json.dumps([1]), "9" * 5000], ids=["brackets", "list", "digits"])
def test_a_state_that_is_no_state_is_one_line(tmp_path, state):
    member = io.BytesIO()
    np.save(member, np.frombuffer(state.encode(), np.uint8))
    with zipfile.ZipFile(tmp_path / "step-000000001.npz", "w") as archive:
        archive.writestr("state.json.npy", member.getvalue())

    with pytest.raises(FaceError, match="is damaged"):
        load_checkpoint(tmp_path / "step-000000001.npz")
