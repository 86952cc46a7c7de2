"""The data directory: sharded TFRecords, an index of every record, and meta.json. Also opens older TFRecords.

    meta.json                            counts, class names, image size, source, shard hashes; written last
    index.npy                            INDEX_DTYPE [N], sorted by (shard, offset); opened as a memory map
    train-00000-of-000NN.tfrecord        features image_raw (JPEG or PNG bytes as they came) and label (int64)

Opening reads the index once, for its hash, with 1 MiB of memory.
"""

import hashlib
from pathlib import Path

import numpy as np

from facelib.data.class_names import Names
from facelib.data.local_files import LocalFiles
from facelib.data.readers.older_tfrecords import open_older
from facelib.data.record_reader import INDEX_DTYPE, Records
from facelib.data.storage import StoredFiles, StoredPath, copy_to_cache, data_path
from facelib.errors import FaceError
from facelib.files import read_json, require_file

FORMAT_VERSION = 1
META, INDEX = "meta.json", "index.npy"
_HASHED_BYTES = 1 << 20  # of the index at once


class _WrongIndex(FaceError):
    """An index that is damaged, or another data directory's."""


def shard_name(shard: int, num_shards: int) -> str:
    """The file name of a shard."""
    return f"train-{shard:05d}-of-{num_shards:05d}.tfrecord"


def is_data_dir(path: Path) -> bool:
    """Whether `path` is a finished data directory."""
    return (Path(path) / META).is_file()


def open_records(path: Path | StoredPath) -> Records:
    """Opens a data directory, also one in object storage, an older TFRecord file, a folder of them, or the index text
    file of a TFace set.

    A data directory opens at once. Older TFRecords have no index, so every record is walked: about 34,000 a second.

    Raises:
        FaceError: nothing there, cut short, or sizes and hashes that disagree with meta.json.
    """
    path = data_path(path)
    if isinstance(path, StoredPath):
        return _open_stored(path)
    if is_data_dir(path):
        return _open_data_dir(path, path)
    if not path.exists():
        raise FaceError(f"No training data at '{path}'. Make them with: python prepare_data.py SOURCE {path}")
    return open_older(path)


def _open_stored(path: StoredPath) -> Records:
    folder = copy_to_cache(path, META, INDEX)
    try:
        return _open_data_dir(folder, path)
    except _WrongIndex:  # damaged here, or copied while someone wrote it there
        (folder / INDEX).unlink(missing_ok=True)
        return _open_data_dir(copy_to_cache(path, META, INDEX), path)


def _open_data_dir(folder: Path, path: Path | StoredPath) -> Records:
    """`folder` has meta.json and the index of the data directory `path`."""
    meta = read_json(folder / META, "data directory's meta.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise FaceError(
            f"This MobileArc reads data directories of version {FORMAT_VERSION}. '{path}' has version "
            f"{meta.get('format_version')}. Run prepare_data.py again."
        )
    again = "Run prepare_data.py again, or copy the directory again."
    try:
        shards = [(str(s["name"]), int(s["bytes"])) for s in meta["shards"]]
        names, count, sha = Names(map(str, meta.pop("class_names"))), int(meta["num_images"]), meta["index"]["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise FaceError(f"'{path / META}' lacks what a data directory needs ({error!r}). {again}") from error
    files = [path / name for name, _ in shards]
    reader = StoredFiles(files) if isinstance(path, StoredPath) else LocalFiles(files)
    for file, (_, size), found in zip(files, shards, reader.sizes, strict=True):
        if found != size:
            received = "It is missing" if found is None else f"It has {found}"
            raise FaceError(f"Shard '{file}' must have {size} bytes, as meta.json says. {received}. {again}")
    index, digest = _open_index(folder / INDEX, again)
    if len(index) != count or digest.hexdigest() != sha:
        raise _WrongIndex(f"'{path / INDEX}' is not the index that meta.json was written for. {again}")
    return Records(path, files, index, names, meta=meta, index_digest=digest, reader=reader)


def _open_index(path: Path, again: str):
    """(the index as a memory map, SHA-256 of its rows)."""
    try:
        index = np.load(require_file(path, "index of a data directory"), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _WrongIndex(f"'{path}' is no index of a data directory: {error}. {again}") from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise _WrongIndex(f"'{path}' is no index of a data directory: it holds {index.dtype}. {again}")
    digest, buffer = hashlib.sha256(), bytearray(_HASHED_BYTES)
    with open(path, "rb") as file:  # not through the map: what it touches counts as our memory
        file.seek(index.offset)
        for first in range(0, index.nbytes, _HASHED_BYTES):
            size = file.readinto(memoryview(buffer)[: index.nbytes - first])
            digest.update(memoryview(buffer)[:size])
    return index.view(np.ndarray), digest
