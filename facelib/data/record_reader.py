"""`Records`: any labelled image of a data set, in any order, by an index of where each lies in its file.

The index takes 18 bytes a record. It is a memory map, so only the rows that are read take memory.
"""

import hashlib
import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from facelib.data.storage import LocalFiles, StoredFiles, StoredPath
from facelib.data.tfrecord import FRAME_BYTES, check_frame, decode_example, image_of_frame, payload_of
from facelib.data.tfrecord_layouts import LAYOUTS, Layout, read_image, read_label
from facelib.errors import BadRecord, FaceError

_MOST = 2**32 - 1  # of array's "I"

INDEX_DTYPE = np.dtype([("shard", "<u2"), ("offset", "<u4"), ("length", "<u4"), ("label", "<i8")])
MAX_SHARD_BYTES = 2**32 - 1  # offset is a uint32
_ROW = struct.Struct("<HIIq")  # INDEX_DTYPE

Image = bytes | np.ndarray


@dataclass(frozen=True)
class OlderFiles:
    """How the records of an older system's TFRecords lie. A file above 4 GiB is several shards of the index.

    Attributes:
        layout: the feature keys of image and label.
        label_ids: int64 [num_classes], the stored label of each class; None where they are equal.
        file_of_shard: the number of the file that each shard lies in.
        first_byte: of each shard in its file.
    """

    layout: Layout
    label_ids: np.ndarray | None
    file_of_shard: list[int]
    first_byte: list[int]


class Records:
    """Labelled face images that can be read in any order, from any thread.

    Args:
        path: what was opened.
        files: the record files.
        index: INDEX_DTYPE [N], sorted by (shard, offset).
        class_names: of the identities: folder names, or the ids of the source.
        meta: meta.json of a data directory.
        older: how the files of an older system are read; None for a data directory, whose shards are its files.
        index_digest: SHA-256 after the rows of the index, where that is known.
        reader: reads the files by position; by default from this machine.

    Attributes:
        labels: int64 [N], 0 to num_classes - 1.
        num_classes: number of identities.
        is_data_dir: False for the TFRecords of an older system.
    """

    def __init__(
        self,
        path: Path | StoredPath,
        files: Sequence[Path | StoredPath],
        index: np.ndarray,
        class_names: Sequence[str],
        *,
        meta: dict | None = None,
        older: OlderFiles | None = None,
        index_digest=None,
        reader: LocalFiles | StoredFiles | None = None,
    ):
        self.path, self.files, self.index, self.class_names = path, files, index, class_names
        self.meta, self._older, self._index_digest = meta or {}, older, index_digest
        self.labels = index["label"]
        self._rows = index.view(np.uint8).data  # unpacking a row from bytes takes a fifth of the time
        self.num_classes = len(class_names)
        self.is_data_dir = older is None
        self._file_of_shard = older.file_of_shard if older else list(range(len(files)))
        self._first_byte = older.first_byte if older else [0] * len(files)
        self.reader = reader or LocalFiles([Path(file) for file in files])

    def __len__(self) -> int:
        return len(self.index)

    def read(self, i: int) -> tuple[Image, int]:
        """Reads one record, and checks its checksums, length and label.

        Args:
            i: number of the record in the index.

        Returns:
            image: JPEG or PNG bytes, or uint8 [H, W, 3] RGB where the file holds raw pixels.
            label: 0 to num_classes - 1.

        Raises:
            FaceError: the record is damaged, or disagrees with the index. Names the shard and the record.
        """
        if not -len(self._rows) <= i * _ROW.size < len(self._rows):
            raise IndexError(f"record {i} of {len(self)}")
        shard, offset, length, label = _ROW.unpack_from(self._rows, i * _ROW.size)
        data = self.reader.read(self._file_of_shard[shard], length + FRAME_BYTES, self._first_byte[shard] + offset)
        try:
            check_frame(data, length)
            return self._decode(data, label, shard), label
        except BadRecord as error:
            raise self._damaged(i, error) from error

    def read_sorted(self, records: np.ndarray) -> list[tuple[Image, int]]:
        """Reads records in sequence, with one system call for each run of records without a gap.

        Args:
            records: int [B], ascending.

        Returns:
            (image, label) of each, as `read` gives them.

        Raises:
            FaceError: as `read` does.
        """
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
            data = self.reader.read(
                self._file_of_shard[shard], int(ends[last - 1]) - origin, self._first_byte[shard] + origin
            )
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
        part = self._file_of_shard[shard]
        first = int(np.searchsorted(self.index["shard"], self._file_of_shard.index(part)))
        offset = self._first_byte[shard] + int(self.index["offset"][i])
        return f"{self.files[part].name} record {i - first} (offset {offset})"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the index and of the files' names and sizes: 64 hex digits, the same for the same data."""
        if self._index_digest is not None:
            digest = self._index_digest.copy()
        else:
            digest = hashlib.sha256(np.ascontiguousarray(self.index).view(np.uint8).data)
        for file, size in zip(self.files, self.reader.sizes, strict=True):
            digest.update(f"{file.name} {size}\n".encode())
        return digest.hexdigest()

    def _decode(self, frame: bytes, label: int, shard: int) -> Image:
        image, older = image_of_frame(frame, label), self._older
        if image is not None and (older is None or (older.label_ids is None and image[:2] == b"\xff\xd8")):
            return image
        features = decode_example(payload_of(frame))
        layout = older.layout if older else LAYOUTS[0]
        if layout.label_key is not None:
            stored = read_label(layout, features)
            expected = label if older is None or older.label_ids is None else int(older.label_ids[label])
            if stored != expected:
                raise BadRecord(f"its label is {stored}, but the index says {expected}")
        return read_image(layout, features, Path(self.files[self._file_of_shard[shard]]).parent)

    def _damaged(self, i: int, error: BadRecord) -> FaceError:
        advice = (
            "Run prepare_data.py again, or copy the files again."
            if self.is_data_dir
            else "Make the file again, or copy it again."
        )
        return FaceError(f"The index and the record must agree. '{self.path}', {self.describe(i)}: {error}. {advice}")


class Names(Sequence):
    """A sequence of strings that takes the UTF-8 bytes of each and 4 bytes more, where a Python string takes about 60.

    NumPy's StringDType would take 48 bytes for a name of 25 letters, here 29, and refuses the lone surrogates that file
    names may hold. Above 4 GiB of text it takes 8 bytes more for each. Bytes of a file name that are not UTF-8 come
    back as lone surrogates, as Python has them.
    """

    def __init__(self, names: Iterable[str | bytes] = ()):
        self._text, self._ends = bytearray(), array("I")
        for name in names:
            self.append(name)

    def append(self, name: str | bytes) -> None:
        """Adds one at the end."""
        self._text += name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
        if len(self._text) > _MOST and self._ends.typecode == "I":
            self._ends = array("q", self._ends)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        start = self._ends[i - 1] if i else 0
        return self._text[start : self._ends[i]].decode(errors="surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def __repr__(self) -> str:
        return f"<{len(self):,} names, from {self[:3]}>"
