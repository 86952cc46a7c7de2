"""A data directory in object storage. TensorFlow's file system in memory, ram://, stands for one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from dataset import TrainingData
from facelib import object_store
from facelib.cli import FaceError
from facelib.convert import convert
from facelib.data_dir import open_records
from facelib.object_store import StoredFiles, StoredPath, data_path
from facelib.toy_data import ToySet, write_folders


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A local data directory in 3 shards; read-only."""
    root = tmp_path_factory.mktemp("made")
    write_folders(root / "faces", ToySet(6, 5))
    convert(root / "faces", root / "data", shards=3, progress=False)
    return root / "data"


@pytest.fixture
def stored(made, request, tmp_path, monkeypatch):
    """The same, stored; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return put(made, StoredPath(f"ram://bucket/{request.node.name}"))


def put(folder, path):
    for file in folder.iterdir():
        if tf.io.gfile.exists(path / file.name):  # ram:// appends to a file that is there
            tf.io.gfile.remove(path / file.name)
        tf.io.gfile.copy(str(file), path / file.name)
    return path


def test_a_path_keeps_both_slashes_and_a_local_one_is_local(tmp_path):
    path = data_path("gs://bucket/faces/")
    assert (str(path / "meta.json"), path.name) == ("gs://bucket/faces/meta.json", "faces")
    assert data_path(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("shuffle", ["records", "blocks"])
def test_batches_are_those_of_the_local_directory(made, stored, shuffle):
    def batches(path):
        data = TrainingData(open_records(path), 7, seed=3, shuffle=shuffle, num_threads=3)
        return [(b.images, b.labels, b.record_idx) for b in data.batches(1)]

    for local, remote in zip(batches(made), batches(str(stored)), strict=True):
        for one, other in zip(local, remote, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_fingerprint_is_that_of_the_local_directory(made, stored):
    assert open_records(stored).fingerprint == open_records(made).fingerprint


def test_many_threads_read_what_one_reads(stored, monkeypatch):
    monkeypatch.setattr(object_store, "_OPEN_FILES", 2)  # of 3 shards: handles are closed and opened again
    records = open_records(stored)
    expected = [records.read(i) for i in range(30)]
    order = np.random.default_rng(0).integers(0, 30, 400).tolist()
    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(records.read, order)) == [expected[i] for i in order]


def test_the_index_is_copied_once_and_again_when_it_has_changed(made, stored, tmp_path, monkeypatch):
    copied, copy = [], object_store._copy
    monkeypatch.setattr(
        object_store, "_copy", lambda source, target: copied.append(source.name) or copy(source, target)
    )
    open_records(stored)
    open_records(stored)
    assert copied == ["meta.json", "index.npy", "meta.json"]

    write_folders(tmp_path / "faces", ToySet(4, 3))
    convert(tmp_path / "faces", tmp_path / "data", shards=3, progress=False)
    put(tmp_path / "data", stored)
    records = open_records(stored)
    assert (len(records), records.num_classes) == (12, 4)
    files = [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert sorted(files) == ["index.npy", "meta.json"]


def test_a_damaged_cache_is_one_line_and_its_removal_mends_it(stored, tmp_path):
    open_records(stored)
    index = next((tmp_path / "cache").rglob("index.npy"))
    index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    with pytest.raises(FaceError, match=r"is not the index that meta\.json was written for"):
        open_records(stored)
    index.unlink()
    assert len(open_records(stored)) == 30


def test_a_missing_or_short_shard_is_named(stored):
    shards = sorted(tf.io.gfile.glob(stored + "/train-*"))
    tf.io.gfile.remove(shards[1])
    with tf.io.gfile.GFile(shards[1], "wb") as file:
        file.write(b"short")
    with pytest.raises(FaceError, match=r"train-00001-of-00003.tfrecord' must have \d+ bytes.*It has 5"):
        open_records(stored)
    tf.io.gfile.remove(shards[1])
    with pytest.raises(FaceError, match=r"train-00001-of-00003.tfrecord' must have \d+ bytes.*It is missing"):
        open_records(stored)


def test_a_shard_that_goes_away_while_it_is_read_is_named(stored):
    records = open_records(stored)
    for shard in tf.io.gfile.glob(stored + "/train-*"):
        tf.io.gfile.remove(shard)
    with pytest.raises(FaceError, match=r"'ram://.*tfrecord' cannot be read: "):
        records.read(0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("ram://bucket/nothing", "No data directory at 'ram://bucket/nothing'"),
        ("nosuch://bucket/data", "it has none for nosuch://"),
    ],
)
def test_what_cannot_be_opened_is_one_line(path, message):
    with pytest.raises(FaceError, match=message) as caught:
        open_records(path)
    assert "\n" not in str(caught.value)


def test_reads_of_stored_files_end_where_the_file_ends():
    path = StoredPath("ram://bucket/short")
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(b"0123456789")
    files = StoredFiles([path])
    assert (files.sizes, files.read(0, 4, 3), files.read(0, 9, 8), files.read(0, 2, 0)) == ([10], b"3456", b"89", b"01")
