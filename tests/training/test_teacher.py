"""A teacher's embeddings of every training face: computed once, kept with the data, resumed, refused when damaged."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from facelib.data.readers.open_records import open_records
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.errors import FaceError
from facelib.model_input import Io
from facelib.training import teacher as teacher_module
from facelib.training.teacher import Teacher, open_teacher


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


class MeanColour:
    """Stands for a runtime: the mean colour of each half of a face, so a mirrored face has another vector."""

    num_calls = 0

    def __call__(self, faces):
        MeanColour.num_calls += 1
        halves = [faces[:, :, :56], faces[:, :, 56:]]
        return unit(np.concatenate([h.mean((1, 2)) for h in halves], axis=1)).astype(np.float32)


@pytest.fixture
def records(tmp_path):
    from facelib.data.conversion.job import convert

    write_folders(tmp_path / "faces", SyntheticSet(3, 4))
    convert(tmp_path / "faces", tmp_path / "data")
    return open_records(tmp_path / "data")


@pytest.fixture(autouse=True)
def fake_runtime(monkeypatch):
    MeanColour.num_calls = 0
    monkeypatch.setattr("facelib.runtimes.open_embedder.open_embedder", lambda path, io, threads: MeanColour())
    monkeypatch.setattr(teacher_module, "CHUNK_IMAGES", 5)
    monkeypatch.setattr(teacher_module, "_KEEP_EVERY", 1)


def pixels(records, i):
    import cv2

    return cv2.imdecode(np.frombuffer(records.read(i)[0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_the_cache_holds_every_face_and_its_mirror_image(records, tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"teacher")

    teacher = open_teacher(tmp_path / "t.onnx", Io(), records)

    idx = np.array([7, 0, 11])
    for is_flipped in (False, True):
        faces = np.stack([pixels(records, i) for i in idx])[:, :, :: -1 if is_flipped else 1]
        found = teacher.targets(idx, np.full(3, is_flipped))
        np.testing.assert_allclose(found, MeanColour()(faces), atol=1e-3)
    assert (teacher.size, found.dtype) == (6, np.float32)


def test_the_cache_is_computed_once_for_a_teacher_its_io_and_the_records(records, tmp_path):
    model = tmp_path / "t.onnx"
    model.write_bytes(b"teacher")
    first = open_teacher(model, Io(), records)
    calls = MeanColour.num_calls

    assert open_teacher(model, Io(), records).path == first.path
    assert MeanColour.num_calls == calls > 0
    assert open_teacher(model, Io(colour="bgr"), records).path != first.path
    model.write_bytes(b"another")
    assert open_teacher(model, Io(), records).path != first.path
    assert MeanColour.num_calls == 3 * calls


def test_an_interrupted_computation_goes_on_where_it_was(records, tmp_path, monkeypatch):
    (tmp_path / "t.onnx").write_bytes(b"teacher")
    whole = np.load(open_teacher(tmp_path / "t.onnx", Io(), records).path)
    for file in (tmp_path / "data" / "teachers").iterdir():
        file.unlink()

    class Killed(MeanColour):
        def __call__(self, faces):
            if MeanColour.num_calls == 10:
                raise KeyboardInterrupt
            return super().__call__(faces)

    MeanColour.num_calls = 6
    monkeypatch.setattr("facelib.runtimes.open_embedder.open_embedder", lambda path, io, threads: Killed())
    with pytest.raises(KeyboardInterrupt):
        open_teacher(tmp_path / "t.onnx", Io(), records)
    monkeypatch.setattr("facelib.runtimes.open_embedder.open_embedder", lambda path, io, threads: MeanColour())
    MeanColour.num_calls = 0

    teacher = open_teacher(tmp_path / "t.onnx", Io(), records)

    assert MeanColour.num_calls == 2  # the third of three chunks, as it is and mirrored
    np.testing.assert_array_equal(np.load(teacher.path), whole)
    assert sorted(f.suffix for f in teacher.path.parent.iterdir()) == [".json", ".lock", ".npy"]
    assert json.loads(teacher.path.with_suffix(".json").read_text())["num_images"] == 12


@pytest.mark.parametrize(("owner", "name"), [("json", "write_json"), ("npy", "replace"), ("progress", "unlink")])
def test_a_process_killed_at_the_end_leaves_nothing_undone(records, tmp_path, monkeypatch, owner, name):
    (tmp_path / "t.onnx").write_bytes(b"teacher")
    where = teacher_module if name == "write_json" else Path
    method, is_done = getattr(where, name), []

    def killed(path, *rest, **options):
        target = rest[0] if name == "replace" else path
        if target.suffix == f".{owner}" and (name != "unlink" or target.is_file()) and not is_done:
            raise KeyboardInterrupt
        return method(path, *rest, **options)

    monkeypatch.setattr(where, name, killed)
    with pytest.raises(KeyboardInterrupt):
        open_teacher(tmp_path / "t.onnx", Io(), records)
    is_done.append(True)

    teacher = open_teacher(tmp_path / "t.onnx", Io(), records)

    assert sorted(f.suffix for f in teacher.path.parent.iterdir()) == [".json", ".lock", ".npy"]
    assert MeanColour.num_calls == 6  # nothing was computed again


def test_two_trainings_do_not_compute_one_cache_at_the_same_time(records, tmp_path):
    import fcntl
    import threading

    (tmp_path / "t.onnx").write_bytes(b"teacher")
    path = open_teacher(tmp_path / "t.onnx", Io(), records).path
    whole = path.read_bytes()
    path.unlink()
    MeanColour.num_calls = 0
    with open(path.with_suffix(".lock"), "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = threading.Thread(target=open_teacher, args=(tmp_path / "t.onnx", Io(), records))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive() and MeanColour.num_calls == 0
        path.write_bytes(whole)  # the other one has finished it
    waiting.join(10)

    assert not waiting.is_alive()
    assert MeanColour.num_calls == 0


def test_a_damaged_cache_is_one_line(records, tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"teacher")
    path = open_teacher(tmp_path / "t.onnx", Io(), records).path
    whole = path.read_bytes()
    for at in range(0, 128, 5):
        path.write_bytes(whole[:at] + b"?" + whole[at + 1 :])
        with pytest.raises(FaceError, match=r"are damaged.*Delete this file"):
            Teacher(path, len(records))
    for shape in [(len(records) - 1, 2, 4), (len(records), 1, 4)]:
        np.save(path, np.zeros(shape, np.float16))
        with pytest.raises(FaceError, match=r"are damaged.*Delete this file"):
            open_teacher(tmp_path / "t.onnx", Io(), records)
    path.write_bytes(whole[:100])

    with pytest.raises(FaceError, match=r"are damaged.*Delete this file"):
        open_teacher(tmp_path / "t.onnx", Io(), records)


def test_no_teacher_is_one_line(records, tmp_path):
    with pytest.raises(FaceError, match="No teacher at"):
        open_teacher(tmp_path / "nothing.onnx", Io(), records)


def test_progress_of_another_file_is_not_believed(records, tmp_path):
    (tmp_path / "t.onnx").write_bytes(b"teacher")
    cache = open_teacher(tmp_path / "t.onnx", Io(), records).path
    whole = np.load(cache)
    cache.unlink()
    np.save(tmp_path / "zeros.npy", np.zeros_like(whole))
    (tmp_path / "zeros.npy").rename(cache.with_suffix(".part"))
    cache.with_suffix(".progress").write_text(json.dumps({"chunks": 2, "last": "0" * 64}))

    np.testing.assert_array_equal(np.load(open_teacher(tmp_path / "t.onnx", Io(), records).path), whole)


def test_a_full_disk_is_found_before_the_memory_map_is_written(records, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "t.onnx").write_bytes(b"teacher")
    monkeypatch.setattr("os.posix_fallocate", full)

    with pytest.raises(OSError, match=r"No space left on device: .*part"):
        open_teacher(tmp_path / "t.onnx", Io(), records)

    assert not list((tmp_path / "data" / "teachers").glob("*.part"))
