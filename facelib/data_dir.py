"""The data directory: sharded TFRecords, an index of every record, and meta.json. Also opens older TFRecords.

    meta.json                            counts, class names, image size, source, shard hashes; written last
    index.npy                            INDEX_DTYPE [N], sorted by (shard, offset); opened as a memory map
    train-00000-of-000NN.tfrecord        features image_raw (JPEG or PNG bytes as they came) and label (int64)

The index costs 18 bytes a record, and none of it is resident until it is touched: opening reads it once, for its hash,
with 1 MiB of memory.
"""

import hashlib
import struct
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from facelib import tfrecord_layouts
from facelib.cli import FaceError
from facelib.files import read_json, require_file
from facelib.local_files import LocalFiles
from facelib.names import Names
from facelib.object_store import StoredFiles, StoredPath, copy_to_cache, data_path
from facelib.tfrecord import FRAME_BYTES, BadRecord, check_frame, decode_example, image_of_frame, payload_of

FORMAT_VERSION = 1
META, INDEX = "meta.json", "index.npy"
INDEX_DTYPE = np.dtype([("shard", "<u2"), ("offset", "<u4"), ("length", "<u4"), ("label", "<i8")])
_ROW = struct.Struct("<HIIq")  # INDEX_DTYPE
MAX_SHARD_BYTES = 2**32 - 1  # offset is a uint32
_HASHED_BYTES = 1 << 20  # of the index at once

Image = bytes | np.ndarray


class _WrongIndex(FaceError):
    """An index that is damaged, or another data directory's."""


class Records:
    """Labelled face images that can be read in any order, from any thread.

    Attributes:
        path: what was opened.      index: INDEX_DTYPE [N], read-only.      labels: int64 [N], 0 .. num_classes-1.
        num_classes, class_names: identities; names are folder names or the ids of the source.
        files: the record files.    reader: reads them by position.    meta: meta.json of a data directory, else {}.
        is_data_dir: False for the TFRecords of older systems.
    """

    def __init__(
        self, path, files, index, class_names, *,
        meta=None, bases=None, parts=None, layout=None, label_ids=None, index_digest=None, reader=None,
    ):  # fmt: skip
        """`parts[shard]` is the file of a shard and `bases[shard]` its first byte there: files above 4 GiB are several
        shards. `index_digest` is SHA-256 after the index, where that is known. `layout` and `label_ids` (stored label
        of each class) are given for older TFRecords only."""
        self.path, self.files, self.index, self.class_names = path, files, index, class_names
        self.meta = meta or {}
        self.labels = index["label"]
        self._rows = memoryview(index.view(np.uint8))  # unpacking a row from bytes takes a fifth of the time
        self.num_classes = len(class_names)
        self.is_data_dir = layout is None
        self._parts = parts if parts is not None else list(range(len(files)))
        self._bases = bases if bases is not None else [0] * len(files)
        self._layout, self._label_ids, self._index_digest = layout, label_ids, index_digest
        self.reader = reader or LocalFiles(files)

    def __len__(self) -> int:
        return len(self.index)

    def read(self, i: int) -> tuple[Image, int]:
        """Record `i`: (JPEG or PNG bytes, or uint8 [H, W, 3] RGB where the file holds raw pixels; label).

        Both checksums, the length and the label are verified against the index.

        Raises:
            FaceError: any disagreement. Names the shard and the record.
        """
        if not -len(self._rows) <= i * _ROW.size < len(self._rows):
            raise IndexError(f"record {i} of {len(self)}")
        shard, offset, length, label = _ROW.unpack_from(self._rows, i * _ROW.size)
        data = self.reader.read(self._parts[shard], length + FRAME_BYTES, self._bases[shard] + offset)
        try:
            check_frame(data, length)
            return self._decode(data, label, shard), label
        except BadRecord as error:
            raise self._damaged(i, error) from error

    def read_block(self, start: int, stop: int) -> list[tuple[Image, int]]:
        """Records `start` to `stop`, read in sequence: one system call for each contiguous run within a shard."""
        return self.read_sorted(np.arange(start, min(stop, len(self))))

    def read_sorted(self, records: np.ndarray) -> list[tuple[Image, int]]:
        """The records of an ascending int [B]: one system call for each contiguous run, and nothing between them."""
        rows = self.index[records]
        shards, offsets = rows["shard"], rows["offset"].astype(np.int64)
        ends = offsets + rows["length"] + FRAME_BYTES
        is_cut = (shards[1:] != shards[:-1]) | (offsets[1:] != ends[:-1])
        cuts = [0, *(np.flatnonzero(is_cut) + 1).tolist(), len(rows)]
        found = []
        for first, last in pairwise(cuts):
            if first == last:
                continue
            shard, origin = int(shards[first]), int(offsets[first])
            data = self.reader.read(self._parts[shard], int(ends[last - 1]) - origin, self._bases[shard] + origin)
            view = memoryview(data)
            for k, (_, offset, length, label) in enumerate(rows[first:last].tolist(), first):
                at = offset - origin
                try:
                    frame = bytes(view[at : at + length + FRAME_BYTES])
                    check_frame(frame, length)
                    found.append((self._decode(frame, label, shard), label))
                except BadRecord as error:
                    raise self._damaged(int(records[k]), error) from error
        return found

    def describe(self, i: int) -> str:
        """Where record `i` lies, for messages: 'train-00003-of-00008.tfrecord record 17 (offset 81920)'."""
        i = range(len(self.index))[i]
        shard = int(self.index["shard"][i])
        part = self._parts[shard]
        first = int(np.searchsorted(self.index["shard"], self._parts.index(part)))
        return (
            f"{self.files[part].name} record {i - first} (offset {self._bases[shard] + int(self.index['offset'][i])})"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the index and the files' names and sizes, as 64 hex digits: the same data, in the same order."""
        if self._index_digest is not None:
            digest = self._index_digest.copy()
        else:
            digest = hashlib.sha256(np.ascontiguousarray(self.index).view(np.uint8))
        for file, size in zip(self.files, self.reader.sizes, strict=True):
            digest.update(f"{file.name} {size}\n".encode())
        return digest.hexdigest()

    def _decode(self, frame: bytes, label: int, shard: int) -> Image:
        image = image_of_frame(frame, label)
        if image is not None and (self._layout is None or (self._label_ids is None and image[:2] == b"\xff\xd8")):
            return image
        features = decode_example(payload_of(frame))
        layout = self._layout or tfrecord_layouts.LAYOUTS[0]
        if layout.label_key is not None:
            stored = tfrecord_layouts.read_label(layout, features)
            expected = label if self._label_ids is None else int(self._label_ids[label])
            if stored != expected:
                raise BadRecord(f"its label is {stored} where the index says {expected}")
        return tfrecord_layouts.read_image(layout, features, self.files[self._parts[shard]].parent)

    def _damaged(self, i: int, error: BadRecord) -> FaceError:
        advice = "Run prepare_data.py again, or copy the files again." if self.is_data_dir else "Make or copy it again."
        return FaceError(f"Index and record must agree. '{self.path}', {self.describe(i)}: {error}. {advice}")


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
    from facelib.older_tfrecords import open_older  # only older data pay for it

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
