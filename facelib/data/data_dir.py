"""The data directory: sharded TFRecords, an index of every record, and meta.json. Also opens older TFRecords.

    meta.json                            counts, class names, image size, source, shard hashes; written last
    index.npy                            INDEX_DTYPE [N], sorted by (shard, offset); opened as a memory map
    train-00000-of-000NN.tfrecord        features image_raw (JPEG or PNG bytes as they came) and label (int64)

Opening reads the index once, for its hash and a check of every row, with 1 MB of memory.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from facelib.data.record_reader import INDEX_DTYPE, MAX_SHARD_BYTES, Names, Records
from facelib.data.storage import LocalFiles, StoredFiles, StoredPath
from facelib.data.tfrecord import FRAME_BYTES, encode_image_example, frame
from facelib.errors import FaceError, short_repr
from facelib.files import map_npy, read_json, require_file, write_json

_CHECKED_ROWS = 1 << 14  # of the index at once: 0.3 MB, so that the check works in the cache
MAX_SHARDS = 1 << 16  # the index has 16 bits for a shard
MAX_SIDE = 65535  # pixels: a JPEG has no more
MAX_NAME_BYTES = 255  # of a file name, on the usual file systems

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
        raise FaceError(
            f"A shard must be smaller than 4 GiB. '{path.name}' would have {num_bytes:,} bytes: use more --shards."
        )
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
        (folder / BAD_RECORDS).write_text("\n".join(bad) + "\n", encoding="utf-8", errors="surrogateescape")
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
            f"This MobileArc reads data directories of version {FORMAT_VERSION} only. '{path}' has version "
            f"{short_repr(meta.get('format_version'))}. Run prepare_data.py again."
        )
    again = "Run prepare_data.py again, or copy the directory again."
    problem = check_fields(meta, {"num_images": int, "class_names": list, "index": dict, "shards": list}) or (
        _check_optional(meta) or check_shards(meta["shards"]) or check_class_names(meta["class_names"])
    )
    if problem:
        raise FaceError(f"'{path / META}' is not the meta.json of a complete data directory: {problem}. {again}")
    shards = [(entry["name"], entry["bytes"]) for entry in meta["shards"]]
    reader: StoredFiles | LocalFiles
    if isinstance(path, StoredPath):
        reader = StoredFiles([path / name for name, _ in shards])
    else:
        reader = LocalFiles([path / name for name, _ in shards])
    for file, (_, size), found in zip(reader.paths, shards, reader.sizes, strict=True):
        if found != size:
            received = "It is missing" if found is None else f"It has {found}"
            raise FaceError(f"Shard '{file}' must have {size} bytes, as meta.json says. {received}. {again}")
    names = Names(meta.pop("class_names"))
    index, digest, problem = _open_index(folder / INDEX, len(names), [size for _, size in shards], again)
    if len(index) != meta["num_images"] or digest.hexdigest() != meta["index"].get("sha256"):
        raise WrongIndexError(f"'{path / INDEX}' does not match meta.json. {again}")
    if problem:
        raise FaceError(f"'{path / INDEX}' does not match the other files of its data directory: {problem}. {again}")
    return Records(path, reader.paths, index, names, meta=meta, index_digest=digest, reader=reader)


def _open_index(path: Path, num_classes: int, sizes: list[int], again: str):
    """(the index as a memory map, SHA-256 of its rows, '' or what is wrong with the rows)."""
    try:
        index = map_npy(require_file(path, "index of a data directory"), INDEX_DTYPE, 1)
    except (ValueError, OSError) as error:
        raise WrongIndexError(f"'{path}' is not an index of a data directory: {error}. {again}") from error
    digest, rows = hashlib.sha256(), np.empty(_CHECKED_ROWS, INDEX_DTYPE)
    buffer, problem = memoryview(rows.view(np.uint8).data), "" if len(index) else "it lists no record"
    with open(path, "rb") as file:  # not through the map: what it touches counts as our memory
        file.seek(index.offset)
        for first in range(0, len(index), _CHECKED_ROWS):
            count = min(len(index) - first, _CHECKED_ROWS)
            file.readinto(buffer[: count * INDEX_DTYPE.itemsize])
            digest.update(buffer[: count * INDEX_DTYPE.itemsize])
            problem = problem or check_rows(rows[:count], num_classes, sizes, first)
    return index.view(np.ndarray), digest, problem


# ---------------------------------------------------- what a file of a stranger may claim; '' where it is all right


def check_rows(rows: np.ndarray, num_classes: int, sizes: list[int], first: int = 0) -> str:
    """Whether each row of an index points into its shard and has a label of a class.

    Args:
        rows: INDEX_DTYPE [N].
        num_classes: number of identities.
        sizes: bytes of each shard.
        first: number of the first row, for the message.
    """
    labels, shards = rows["label"].view(np.uint64), rows["shard"].astype(np.intp)  # below 0 is above every class
    if int(labels.max(initial=0)) >= num_classes:
        k = int(np.argmax(labels >= num_classes))
        return f"record {first + k} has label {rows['label'][k]}, but there are only {num_classes} classes"
    if int(shards.max(initial=0)) >= len(sizes):
        k = int(np.argmax(shards >= len(sizes)))
        return f"record {first + k} lies in shard {shards[k]}, but there are only {len(sizes)} shards"
    ends = rows["offset"].astype(np.int64)
    ends += rows["length"]
    ends += FRAME_BYTES
    starts = np.append(0, np.flatnonzero(shards[1:] != shards[:-1]) + 1)  # the last end of each shard is enough
    of_shard = np.array(sizes, np.int64)
    if len(rows) and (np.maximum.reduceat(ends, starts) > of_shard[shards[starts]]).any():
        k = int(np.argmax(ends > of_shard[shards]))
        return (
            f"record {first + k} ends at byte {ends[k]} of shard {shards[k]}, but this shard has {sizes[shards[k]]} "
            "bytes"
        )
    return ""


def check_fields(value: object, fields: Mapping[str, type]) -> str:
    """Whether a JSON value is an object that has these keys, with values of these types; numbers from 0."""
    if not isinstance(value, dict):
        return f"{short_repr(value)} is not an object"
    for key, kind in fields.items():
        if key not in value:
            return f"it lacks '{key}'"
        if type(value[key]) is not kind or (kind is int and value[key] < 0):
            return f"'{key}' is {short_repr(value[key])}"
    return ""


def check_shards(shards: list) -> str:
    """Whether the entries of shards have names of files in the folder, and sizes."""
    if not 1 <= len(shards) <= MAX_SHARDS:
        return f"it lists {len(shards)} shards, but must list 1 to {MAX_SHARDS}"
    for entry in shards:
        problem = check_fields(entry, {"name": str, "bytes": int})
        if problem:
            return f"a shard is wrong: {problem}"
        name = entry["name"]
        is_plain = name.isascii() and name.isprintable() and "/" not in name and name not in ("", ".", "..")
        if not is_plain or len(name) > MAX_NAME_BYTES:
            return f"a shard must have the name of a file in the folder, not {short_repr(name)}"
    return ""


def check_class_names(names: list) -> str:
    """Whether all names are texts that UTF-8 can hold."""
    for name in names:
        if type(name) is not str:
            return f"the name of a class must be text, not {short_repr(name)}"
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        return f"the name of a class is not valid Unicode: {short_repr(error.object[error.start : error.end])}"
    return ""


def check_image_size(size: object) -> str:
    """Whether a size is (height, width) in pixels."""
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int and 1 <= side <= MAX_SIDE for side in size):
        return ""
    return f"'image_size' is {short_repr(size)}, not [height, width] in pixels"


def _check_optional(meta: dict) -> str:
    """The keys of meta.json that a data directory may lack."""
    present = {key: kind for key, kind in (("num_bad", int), ("source", dict)) if meta.get(key) is not None}
    problem = check_fields(meta, present)
    if not problem and meta.get("image_size") is not None:
        problem = check_image_size(meta["image_size"])
    if not problem and (meta.get("source") or {}).get("options") is not None:
        problem = check_fields(meta["source"], {"options": dict})
    return problem
