"""The files of a data directory as they are written: shards, index, meta.json."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from facelib.data.data_dir import FORMAT_VERSION, INDEX, META
from facelib.data.record_reader import INDEX_DTYPE, MAX_SHARD_BYTES
from facelib.data.tfrecord import FRAME_BYTES, encode_image_example, frame
from facelib.errors import FaceError
from facelib.files import write_json

BAD_RECORDS = "bad_records.txt"
_CHUNK = 512  # records written at once
_OVERHEAD_BYTES = 80  # at most, that a record is longer than its image


def write_frames(path: Path, images: Iterable[bytes], labels: list[int], num_bytes: int, bar):
    """Writes images as the records of a shard; returns (its index rows, of shard 0; its SHA-256).

    Args:
        num_bytes: of all images, at least.
    """
    if num_bytes + len(labels) * _OVERHEAD_BYTES > MAX_SHARD_BYTES:
        raise FaceError(f"A shard stays below 4 GiB. '{path.name}' would have {num_bytes:,} bytes: use more --shards.")
    rows = np.zeros(len(labels), INDEX_DTYPE)
    rows["label"] = labels
    digest, sizes, images = hashlib.sha256(), [], iter(images)
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
    sizes = np.array(sizes, np.int64)
    rows["length"] = sizes - FRAME_BYTES
    rows["offset"] = np.cumsum(sizes) - sizes
    return rows, digest.hexdigest()


def shard_entry(path: Path, num_records: int, digest: str) -> dict:
    """What meta.json says of a shard."""
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
    """Writes INDEX_DTYPE [N] so that it is on the disk."""
    with open(path, "wb") as file:
        np.save(file, index)
        _sync(file)


def hash_index(index: np.ndarray) -> str:
    """SHA-256 of the rows."""
    return hashlib.sha256(index.view(np.uint8)).hexdigest()


def write_all(file, data: bytes) -> None:
    """Unbuffered write: a full disk is an error here, with the file's name, and not at some later close."""
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
