"""Files of PyTorch: tensors come out as they went in, and nothing else does."""

import os
import pickle
import zipfile

import numpy as np
import pytest

import import_model
from facelib.errors import FaceError
from facelib.importing import torch_file
from facelib.importing.from_torch import find_state
from facelib.importing.torch_file import dicts_of, read_torch_file
from tests.helpers.torch_writer import Tensor, save_older, save_zip, tensors

STATE = {"conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), "bn1.bias": np.array([1.5, -2], "f2"),
         "bn1.num_batches_tracked": np.array(7)}  # fmt: skip


@pytest.mark.parametrize("save", [save_zip, save_older])
def test_tensors_come_out_as_they_went_in(tmp_path, save):
    file = read_torch_file(save(tmp_path / "net.pt", tensors(STATE)))

    for name, expected in STATE.items():
        np.testing.assert_array_equal(file.values(file.content[name]), expected)
        assert file.values(file.content[name]).dtype == np.float32


def test_views_share_a_storage(tmp_path):
    memory = np.arange(12, dtype=np.float32)
    turned = Tensor(memory, (3, 2), (1, 3), offset=6)  # a transposed half

    file = read_torch_file(save_zip(tmp_path / "net.pt", {"all": Tensor(memory, (3, 4)), "turned": turned}))

    np.testing.assert_array_equal(file.values(file.content["all"]), memory.reshape(3, 4))
    np.testing.assert_array_equal(file.values(file.content["turned"]), memory[6:].reshape(2, 3).T)


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"epoch": 3, "lr": 0.1, "state_dict_softmax_fc": tensors({"weight": np.ones(2)}),
                   "state_dict_backbone": {f"module.{name}": value for name, value in state.items()}},
    lambda state: {"model": {f"_orig_mod.backbone.{name}": value for name, value in state.items()}},
], ids=["plain", "checkpoint", "compiled"])  # fmt: skip
def test_the_state_is_found_in_a_checkpoint(tmp_path, wrap):
    path = save_zip(tmp_path / "net.pt", wrap(tensors(STATE)))

    assert list(find_state(read_torch_file(path))) == list(STATE)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("payload_ran",)


def larger(name, *numbers):
    return {name: Tensor(np.ones(4, np.float32), *numbers)}


def nested_key():
    key = ()
    for _ in range(60):
        key = (key, key)
    return {key: 1}


def pickled(content):
    return lambda data, storages: (pickle.dumps(content, protocol=2), storages)


class ChangedLater(Tensor):
    """A tensor that passes every check, and a BUILD that changes it afterwards."""

    def __reduce__(self):
        return *super().__reduce__(), {"shape": (10**6,), "strides": (1,)}


INSTANCE = b"\x80\x02(X\x0b\x00\x00\x00payload_ranios\nmkdir\n."  # INST, of protocol 0
OBJECT = b"\x80\x02(cos\nmkdir\nX\x0b\x00\x00\x00payload_rano."
EXTENSION = b"\x80\x02\x82\x01."

HOSTILE = {
    "a command": ({}, pickled({"w": Payload()}), r"asks for posix\.mkdir: no code of the file was run"),
    "a whole net": ({}, lambda d, s: (b"\x80\x02cmodels\nNet\n)\x81.", s), r"NEWOBJ.*state_dict"),
    "a command of protocol 0": ({}, lambda d, s: (INSTANCE, s), "INST"),
    "a command as an object": ({}, lambda d, s: (OBJECT, s), "OBJ"),
    "a number for a name": ({}, lambda d, s: (EXTENSION, s), "EXT1"),
    "a tensor that is changed": ({"w": ChangedLater(np.ones(4, np.float32), (4,))}, None, "BUILD on a tensor"),
    "axes without an end": (larger("w", (2**2000,) * 50_000, (0,) * 50_000), None, "too many axes"),
    "sizes without an end": (larger("w", (2**2000,), (0,)), None, "too large"),
    "too many values": (larger("w", (5,)), None, "larger than its storage"),
    "one value, many times": (larger("w", (10**9, 10**9), (0, 0)), None, "larger than its storage"),
    "steps beyond the end": (larger("w", (2, 2), (1, 3)), None, "larger than its storage"),
    "a start beyond the end": (larger("w", (1,), (1,), 4), None, "larger than its storage"),
    "keys that hash for ever": ({}, lambda d, s: (hash_for_ever(), s), "keys are not names"),
    "a cut pickle": (tensors(STATE), lambda d, s: (d[:-40], s), "damaged"),
    "not a dict": ([1, 2], None, "must hold a state dict"),
    "no tensors": ({"epoch": 3}, None, "must hold a state dict"),
}  # fmt: skip


def hash_for_ever():
    """{t60: 1} with t1 = (t0, t0) and so on; pickle.dumps would hash it, too."""
    body = b"".join(b"q" + bytes([k]) + b"h" + bytes([k]) + b"\x86" for k in range(60))
    return b"\x80\x02})" + body + b"K\x01s."


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_more_than_tensors_is_refused_in_one_line(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    content, change, match = HOSTILE[kind]
    path = save_zip(tmp_path / "net.pt", content, **({"change": change} if change else {}))

    with pytest.raises(FaceError, match=match) as refusal:
        find_state(read_torch_file(path))
    assert "\n" not in str(refusal.value) and not (tmp_path / "payload_ran").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_a_command_is_one_line_whatever_its_protocol(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pt").write_bytes(pickle.dumps({"w": Payload()}, protocol))

    with pytest.raises(FaceError, match=r"posix|begins with") as refusal:
        import_model.main(["net.pt", "out.h5"])
    assert "\n" not in str(refusal.value) and [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_dicts_that_share_dicts_are_looked_at_once():
    inner = dict.fromkeys(range(1000))
    middle = dict.fromkeys(range(1000), inner)

    assert len(list(dicts_of(dict.fromkeys(range(1000), middle)))) == 3


@pytest.mark.parametrize("change", [
    lambda d, s: (d, {key: value[:-1] for key, value in s.items()}), lambda d, s: (d, {})])  # fmt: skip
def test_a_storage_that_is_cut_or_gone_is_one_line(tmp_path, change):
    file = read_torch_file(save_zip(tmp_path / "net.pt", tensors(STATE), change))

    with pytest.raises(FaceError, match=r"damaged.*storage"):
        file.values(file.content["conv1.weight"])


def test_a_compressed_zip_is_no_work_of_torch_save(tmp_path):
    path = save_zip(tmp_path / "net.pt", tensors({"w": np.zeros(10**6)}), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FaceError, match="not be compressed"):
        read_torch_file(path)


def test_a_million_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(FaceError, match="names and shapes"):
        read_torch_file(save_zip(tmp_path / "net.pt", tensors(STATE)))


@pytest.mark.parametrize("data", [b"\x80\x02K\x01.", b"\x80\x02}q\x00.", b"\x80\x02"])
def test_another_pickle_is_one_line(tmp_path, data):
    (tmp_path / "net.pt").write_bytes(data)
    with pytest.raises(FaceError, match=r"net\.pt"):
        read_torch_file(tmp_path / "net.pt")
