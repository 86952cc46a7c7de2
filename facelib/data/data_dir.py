"""The data directory: sharded TFRecords, an index of every record, and meta.json. Also opens older TFRecords.

    meta.json                            counts, class names, image size, source, shard hashes; written last
    index.npy                            INDEX_DTYPE [N], sorted by (shard, offset); opened as a memory map
    train-00000-of-000NN.tfrecord        features image_raw (JPEG or PNG bytes as they came) and label (int64)

Opening reads the index once, for its hash, with 1 MiB of memory.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from facelib.data.record_reader import INDEX_DTYPE, MAX_SHARD_BYTES, Names, Records
from facelib.data.storage import LocalFiles, StoredFiles, StoredPath
from facelib.data.tfrecord import FRAME_BYTES, encode_image_example, frame
from facelib.errors import FaceError
from facelib.files import read_json, require_file, write_json

_HASHED_BYTES = 1 << 20  # of the index at once

BAD_RECORDS = "bad_records.txt"
_CHUNK = 512  # records written at once
_OVERHEAD_BYTES = 80  # at most, that a record is longer than its image

FORMAT_VERSION = 1
META, INDEX = "meta.json", "index.npy"


def shard_name(shard: int, num_shards: int) -> str:
    """The file name of a shard."""
    return f"train-{shard:05d}-of-{num_shards:05d}.tfrecord"


def is_data_dir(path: Path) -> bool:
    """Whether `path` is a finished data directory."""
    return (Path(path) / META).is_file()


def write_frames(path: Path, images: Iterable[bytes], labels: list[int], num_bytes: int, bar):
    """Writes a shard.

    Args:
        path: the file to write.
        images: encoded images, in order.
        labels: of the images.
        num_bytes: of all images together, or more.
        bar: progress bar that counts images.

    Returns:
        rows: INDEX_DTYPE [N], the rows of the index, with shard 0.
        sha256: of the file, 64 hex digits.

    Raises:
        FaceError: a shard of 4 GiB or more.
    """
    if num_bytes + len(labels) * _OVERHEAD_BYTES > MAX_SHARD_BYTES:
        raise FaceError(f"A shard stays below 4 GiB. '{path.name}' would have {num_bytes:,} bytes: use more --shards.")
    rows = np.zeros(len(labels), INDEX_DTYPE)
    rows["label"] = labels
    digest, images = hashlib.sha256(), iter(images)
    sizes: list[int] = []
    with open(path, "wb", buffering=0) as file:
        for first in range(0, len(labels), _CHUNK):
            part = labels[first : first + _CHUNK]
            frames = [frame(encode_image_example(image, label)) for label, image in zip(part, images, strict=False)]
            sizes += map(len, frames)
            joined = b"".join(frames)
            digest.update(joined)
            write_all(file, joined)
            bar.update(len(part))
        _sync(file)
    lengths = np.array(sizes, np.int64)  # of the frames
    rows["length"] = lengths - FRAME_BYTES
    rows["offset"] = np.cumsum(lengths) - lengths
    return rows, digest.hexdigest()


def shard_entry(path: Path, num_records: int, digest: str) -> dict:
    """The entry of a shard in meta.json."""
    return {"name": path.name, "bytes": path.stat().st_size, "records": num_records, "sha256": digest}


def write_meta(folder: Path, index, shards: list[dict], bad: list[str], class_names, image_size, made_from) -> None:
    """Writes the index, the list of bad records and meta.json."""
    write_index(folder / INDEX, index)
    if bad:
        (folder / BAD_RECORDS).write_text("\n".join(bad) + "\n", errors="surrogateescape")
    meta = {
        "format_version": FORMAT_VERSION,
        "num_images": len(index),
        "num_classes": len(class_names),
        "image_size": list(image_size),
        "seed": made_from["options"]["seed"],
        "num_bad": len(bad),
        "source": made_from,
        "index": {"name": INDEX, "sha256": hash_index(index)},
        "shards": shards,
        "class_names": class_names,
    }
    write_json(folder / META, meta)


def write_index(path: Path, index: np.ndarray) -> None:
    """Writes the index, INDEX_DTYPE [N], and waits until it is on the disk."""
    with open(path, "wb") as file:
        np.save(file, index)
        _sync(file)


def hash_index(index: np.ndarray) -> str:
    """SHA-256 of the rows."""
    return hashlib.sha256(index.view(np.uint8).data).hexdigest()


def write_all(file, data: bytes) -> None:
    """Writes without a buffer, so that a full disk is an error here, with the name of the file."""
    view = memoryview(data)
    try:
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        error.filename = error.filename or file.name
        raise


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


class WrongIndexError(FaceError):
    """An index that is damaged or belongs to another data directory."""


def open_data_dir(folder: Path, path: Path | StoredPath) -> Records:
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
    reader: StoredFiles | LocalFiles
    if isinstance(path, StoredPath):
        reader = StoredFiles([path / name for name, _ in shards])
    else:
        reader = LocalFiles([path / name for name, _ in shards])
    for file, (_, size), found in zip(reader.paths, shards, reader.sizes, strict=True):
        if found != size:
            received = "It is missing" if found is None else f"It has {found}"
            raise FaceError(f"Shard '{file}' must have {size} bytes, as meta.json says. {received}. {again}")
    index, digest = _open_index(folder / INDEX, again)
    if len(index) != count or digest.hexdigest() != sha:
        raise WrongIndexError(f"'{path / INDEX}' is not the index that meta.json was written for. {again}")
    return Records(path, reader.paths, index, names, meta=meta, index_digest=digest, reader=reader)


def _open_index(path: Path, again: str):
    """(the index as a memory map, SHA-256 of its rows)."""
    try:
        index = np.load(require_file(path, "index of a data directory"), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise WrongIndexError(f"'{path}' is not an index of a data directory: {error}. {again}") from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise WrongIndexError(f"'{path}' is not an index of a data directory: it holds {index.dtype}. {again}")
    digest, buffer = hashlib.sha256(), bytearray(_HASHED_BYTES)
    with open(path, "rb") as file:  # not through the map: what it touches counts as our memory
        file.seek(index.offset)
        for first in range(0, index.nbytes, _HASHED_BYTES):
            size = file.readinto(memoryview(buffer)[: index.nbytes - first])
            digest.update(memoryview(buffer)[:size])
    return index.view(np.ndarray), digest
