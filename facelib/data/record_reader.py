"""Face records behind an index, whatever files they lie in.

The index costs 18 bytes a record, and none of it is resident until it is touched.
"""

import hashlib
import struct
from functools import cached_property
from itertools import pairwise

import numpy as np

from facelib.data import tfrecord_layouts
from facelib.data.storage import LocalFiles
from facelib.data.tfrecord import FRAME_BYTES, check_frame, decode_example, image_of_frame, payload_of
from facelib.errors import BadRecord, FaceError

INDEX_DTYPE = np.dtype([("shard", "<u2"), ("offset", "<u4"), ("length", "<u4"), ("label", "<i8")])
MAX_SHARD_BYTES = 2**32 - 1  # offset is a uint32
_ROW = struct.Struct("<HIIq")  # INDEX_DTYPE

Image = bytes | np.ndarray


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
