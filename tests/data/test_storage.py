"""A data directory in object storage; fsspec's file system in memory stands for one. S3: test_object_storage.py."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import fsspec
import numpy as np
import pytest

from dataset import TrainingData
from facelib.data import storage
from facelib.data.conversion.job import convert, convert_to_storage
from facelib.data.readers.open_records import open_records
from facelib.data.storage import StoredFiles, StoredPath, data_path
from facelib.data.synthetic.files import SyntheticSet, write_folders
from facelib.errors import FaceError
from facelib.training import teacher

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A local data directory in 3 shards; read-only."""
    root = tmp_path_factory.mktemp("made")
    write_folders(root / "faces", SyntheticSet(6, 5))
    convert(root / "faces", root / "data", shards=3, progress=False)
    return root / "data"


@pytest.fixture
def stored(made, request, tmp_path, monkeypatch):
    """The same, stored; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return put(made, StoredPath(f"memory://bucket/{request.node.name}"))


def put(folder, path):
    for file in folder.iterdir():
        MEMORY.put_file(str(file), path / file.name)
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


def test_many_threads_read_what_one_reads(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = open_records(StoredPath(f"file://{made}"))  # threads share the position of a file of memory://
    expected = [records.read(i) for i in range(30)]
    order = np.random.default_rng(0).integers(0, 30, 400).tolist()
    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(records.read, order)) == [expected[i] for i in order]


@pytest.fixture
def copied(monkeypatch):
    """The names of the files that are copied to the cache."""
    names, copy = [], storage._download
    monkeypatch.setattr(storage, "_download", lambda source, *to: names.append(source.name) or copy(source, *to))
    return names


@pytest.fixture
def other(tmp_path):
    """Another data directory with as many shards."""
    write_folders(tmp_path / "faces", SyntheticSet(4, 3))
    convert(tmp_path / "faces", tmp_path / "data", shards=3, progress=False)
    return tmp_path / "data"


def test_the_index_is_copied_once_and_again_when_it_has_changed(stored, other, copied):
    open_records(stored)
    open_records(stored)
    assert copied == ["index.npy"]

    put(other, stored)
    records = open_records(stored)
    assert (len(records), records.num_classes) == (12, 4)
    assert sorted(file.name for file in stored.cache.iterdir()) == ["index.npy", "meta.json"]


def test_a_damaged_cache_is_copied_again(stored, copied):
    open_records(stored)
    index = stored.cache / "index.npy"
    index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    assert len(open_records(stored)) == 30
    index.write_bytes(b"short")
    assert len(open_records(stored)) == 30
    assert copied == ["index.npy"] * 3


def test_a_directory_that_is_still_being_written_opens_when_it_is_whole(stored, other, tmp_path):
    open_records(stored)
    index = (other / "index.npy").rename(tmp_path / "index.npy")
    put(other, stored)
    with pytest.raises(FaceError, match=r"does not match meta\.json"):
        open_records(stored)
    index.rename(other / "index.npy")
    put(other, stored)
    assert len(open_records(stored)) == 12


def test_threads_that_open_at_once_do_not_disturb_each_other(made, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stored = StoredPath(f"file://{made}")
    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(lambda _: len(open_records(stored)), range(24))) == [30] * 24


def test_the_cache_is_where_the_xdg_specification_has_it(monkeypatch, tmp_path):
    path = StoredPath("gs://bucket/data/")
    assert path.cache == StoredPath("gs://bucket/data").cache != StoredPath("gs://bucket/other").cache
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path.cache.parent == tmp_path / ".cache" / "mobilearc"


def test_a_cache_that_cannot_be_written_is_one_line(stored, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    with pytest.raises(FaceError, match=r"cannot be written: .* Set XDG_CACHE_HOME to a writable folder\."):
        open_records(stored)


def test_images_that_are_very_small_are_read(tmp_path, monkeypatch):
    """Under 128 bytes a record is decoded in another way, which knows the folder of its file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = cv2.imencode(".png", np.zeros((112, 112), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    assert len(image) < 128 - 2
    for name in "ab":
        (tmp_path / "faces" / name).mkdir(parents=True)
        (tmp_path / "faces" / name / "0.png").write_bytes(image)
    convert(tmp_path / "faces", tmp_path / "data", progress=False)
    records = open_records(put(tmp_path / "data", StoredPath("memory://bucket/small")))
    assert [records.read(i)[0] for i in range(2)] == [image] * 2


def test_a_teacher_keeps_its_embeddings_in_the_cache(stored):
    assert teacher._home_of(stored) == stored.cache


def test_a_missing_or_short_shard_is_named(stored):
    shards = sorted(MEMORY.glob(stored + "/train-*"))
    MEMORY.rm(shards[1])
    MEMORY.pipe_file(shards[1], b"short")
    with pytest.raises(FaceError, match=r"train-00001-of-00003.tfrecord' must have \d+ bytes.*It has 5"):
        open_records(stored)
    MEMORY.rm(shards[1])
    with pytest.raises(FaceError, match=r"train-00001-of-00003.tfrecord' must have \d+ bytes.*It is missing"):
        open_records(stored)


def test_a_shard_that_goes_away_while_it_is_read_is_named(stored):
    records = open_records(stored)
    for shard in MEMORY.glob(stored + "/train-*"):
        MEMORY.rm(shard)
    with pytest.raises(FaceError, match=r"'memory://.*tfrecord' cannot be read: "):
        records.read(0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "memory://bucket/nothing",
            "'memory://bucket/nothing' has no meta.json. Write one with: python prepare_data.py SOURCE memory://bucket/nothing",
        ),
        ("nosuch://bucket/data", "no package for nosuch:// is installed"),
    ],
)
def test_what_cannot_be_opened_is_one_line(path, message):
    with pytest.raises(FaceError, match=message) as caught:
        open_records(path)
    assert "\n" not in str(caught.value)


def test_reads_of_stored_files_end_where_the_file_ends():
    path = StoredPath("memory://bucket/short")
    MEMORY.pipe_file(path, b"0123456789")
    files = StoredFiles([path])
    assert (files.sizes, files.read(0, 4, 3), files.read(0, 9, 8), files.read(0, 2, 0)) == ([10], b"3456", b"89", b"01")


@pytest.mark.parametrize("is_uploaded", [False, True])
def test_an_upload_killed_while_it_removes_its_copy_can_be_run_again(tmp_path, monkeypatch, is_uploaded):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_folders(tmp_path / "faces", SyntheticSet(2, 2))
    out = StoredPath(f"memory://bucket/killed_{is_uploaded}")

    def killed(folder):
        (folder / "meta.json").unlink()
        raise KeyboardInterrupt

    if not is_uploaded:  # it removes what was converted for another source
        convert(tmp_path / "faces", out.cache / "upload", seed=1, progress=False)
    monkeypatch.setattr("facelib.data.conversion.job.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        convert_to_storage(tmp_path / "faces", out, progress=False)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert convert_to_storage(tmp_path / "faces", out, progress=False).was_finished == is_uploaded
    assert len(open_records(out)) == 4
    assert not (out.cache / "upload").exists()
