"""MXNet RecordIO (.rec with or without .idx), read and written without mxnet.

A record is `uint32 magic | uint32 cflag << 29 | length | bytes | zeros to a multiple of 4`, little-endian. Where the
payload itself holds the magic word at a multiple of 4, the writer cuts it out and stores parts (cflag 1 first,
2 middle, 3 last; 0 whole). The reader puts it back. The payload of a face set is `IRHeader flag u32, label f32, id u64,
id2 u64`, then `flag` float32 labels, then the image. The .idx has text lines `key TAB offset`.

Source: dmlc-core/src/recordio.cc, mxnet/recordio.py.
"""

import os
import struct
import warnings
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from facelib.data.tfrecord import map_file
from facelib.errors import BadRecord, FaceError
from facelib.files import atomic_path, require_file

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")
_IR = struct.Struct("<IfQQ")
MAX_LENGTH = (1 << 29) - 1
FLOAT32_EXACT = 1 << 24  # above it, float32 skips integers


class Header(NamedTuple):
    """An IRHeader.

    Attributes:
        flag: number of labels in the array, 0 for a scalar label.
        labels: the scalar label as a list of one, or the labels of the array.
        id: number of the record.
        id2: unused by face sets.
    """

    flag: int
    labels: list[float]
    id: int
    id2: int


def pack(image: bytes, label: float | Sequence[float], record_id: int, id2: int = 0) -> bytes:
    """The payload of one face: IRHeader, labels when there are several, image bytes."""
    if isinstance(label, int | float):
        return _IR.pack(0, label, record_id, id2) + image
    return _IR.pack(len(label), 0.0, record_id, id2) + np.asarray(label, "<f4").tobytes() + image


def unpack(payload: bytes) -> tuple[Header, bytes]:
    """(IRHeader, image bytes) of a payload.

    Raises:
        BadRecord: the payload is shorter than its header says.
    """
    if len(payload) < _IR.size:
        raise BadRecord(f"it has {len(payload)} bytes, fewer than the {_IR.size} of a header")
    flag, label, record_id, id2 = _IR.unpack_from(payload)
    if not flag:
        return Header(0, [label], record_id, id2), payload[24:]
    end = _IR.size + 4 * flag
    if len(payload) < end:
        raise BadRecord(f"its header says {flag} labels, but the record has only {len(payload) - 24} bytes for them")
    return Header(flag, np.frombuffer(payload, "<f4", flag, 24).tolist(), record_id, id2), payload[end:]


def encode_record(payload: bytes) -> bytes:
    """`payload` as one RecordIO record, in parts where it holds the magic word at a multiple of 4."""
    if len(payload) > MAX_LENGTH:
        raise FaceError(f"A RecordIO record can have at most {MAX_LENGTH} bytes. Received: {len(payload)}.")
    out, start = [], 0
    found = payload.find(_MAGIC_BYTES)
    while found >= 0:
        if found % 4:
            found = payload.find(_MAGIC_BYTES, found + 1)
            continue
        out += [_PART.pack(MAGIC, (2 if start else 1) << 29 | (found - start)), payload[start:found]]
        start = found + 4
        found = payload.find(_MAGIC_BYTES, start)
    last = payload[start:]
    out += [_PART.pack(MAGIC, (3 if start else 0) << 29 | len(last)), last, bytes(-len(last) % 4)]
    return b"".join(out)


def write_rec(path: Path, payloads: Sequence[bytes]) -> None:
    """Writes `path` (.rec) and the .idx beside it; the keys are 0, 1, 2, ..."""
    with atomic_path(path) as rec, atomic_path(Path(path).with_suffix(".idx")) as idx:
        offsets, at = [], 0
        with open(rec, "wb") as file:
            for payload in payloads:
                offsets.append(at)
                at += file.write(encode_record(payload))
        idx.write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)), encoding="utf-8")


def face_payloads(images: Sequence[bytes], labels: Sequence[int]) -> list[bytes]:
    """The payloads of an InsightFace train.rec: header record, images sorted by label (0 .. C-1), identity records."""
    count, classes = len(images), max(labels) + 1
    payloads = [pack(b"", [count + 1, count + 1 + classes], 0)]
    payloads += [pack(image, label, key) for key, (image, label) in enumerate(zip(images, labels, strict=True), 1)]
    starts = np.searchsorted(labels, np.arange(classes + 1)) + 1
    return payloads + [pack(b"", starts[c : c + 2].tolist(), count + 1 + c) for c in range(classes)]


class _BrokenRecord(FaceError):
    """A record that does not begin or end where it should.

    Args:
        message: for the user.
        line: a shorter form for a list of bad records.
    """

    def __init__(self, message: str, line: str):
        super().__init__(message)
        self.line = line


class RecordFile:
    """A .rec file opened for reading in any order. Opening checks the header of every record.

    Args:
        path: the .rec; an .idx beside it is used.
        skip_bad: leave out records that cannot be found, instead of an error at the first.

    Attributes:
        keys: int64 [N], ascending: from the .idx, or counted in file order when there is none.
        offsets: int64 [N], first byte of each record.
        sizes: int64 [N], bytes of each record in the file.
        flags: uint32 [N], number of labels of each record; 0 for a scalar label.
        labels: float32 [N], the scalar label, or the first of several.
        bad: {key: reason} of the records that were left out.
    """

    def __init__(self, path: Path, skip_bad: bool = False):
        self.path, self.skip_bad = Path(path), skip_bad
        self.bad: dict[int, str] = {}
        self._map = map_file(self.path)
        if self._map[:4] != _MAGIC_BYTES:
            raise FaceError(
                f"A RecordIO file must begin with the bytes {_MAGIC_BYTES.hex(' ')}. '{path}' begins with "
                f"{self._map[:4].hex(' ')}. Check the path."
            )
        if len(self._map) % 4 and not skip_bad:
            raise FaceError(
                f"The size of a RecordIO file must be a multiple of 4 bytes. '{path}' has {len(self._map)} bytes: its "
                "end is missing. Copy the file again."
            )
        self._words = np.frombuffer(self._map, "<u4", len(self._map) // 4)
        self.idx_path = self.path.with_suffix(".idx")
        self.has_idx = self.idx_path.is_file()
        if self.has_idx:
            self.keys, self.offsets = read_idx(self.idx_path)
        else:
            self.offsets = self._walk()
            self.keys = np.arange(len(self.offsets))
        self._keep_readable()
        self._read_headers()
        self._handle = os.open(self.path, os.O_RDONLY)

    def __len__(self) -> int:
        return len(self.keys)

    def __del__(self):
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def read(self, position: int) -> bytes:
        """The payload of the record at `position` in `keys`, parts joined."""
        offset, size = int(self.offsets[position]), int(self.sizes[position])
        data = os.pread(self._handle, size, offset)
        if len(data) != size:
            raise FaceError(
                f"'{self.path}' became shorter while it was read ({self.describe(position)}). Copy the file again."
            )
        magic, lrec = _PART.unpack_from(data)
        if magic != MAGIC:
            raise FaceError(
                f"'{self.path}' changed while it was read ({self.describe(position)}). Copy the file again."
            )
        if lrec >> 29 == 0:
            return data[8 : 8 + lrec]
        parts, at = [], 0
        while at < size:
            _, lrec = _PART.unpack_from(data, at)
            length = lrec & MAX_LENGTH
            parts.append(data[at + 8 : at + 8 + length])
            at += 8 + length + (-length) % 4
        return _MAGIC_BYTES.join(parts)

    def describe(self, position: int) -> str:
        """Where a record lies, for messages."""
        return f"record {self.keys[position]} (offset {self.offsets[position]})"

    def _walk(self) -> np.ndarray:
        """The offsets of all records, found one after the other."""
        offsets, at, end = array("q"), 0, len(self._map)
        while at < end:
            try:
                stop = self._end_of(at, len(offsets))
                offsets.append(at)
                at = stop
            except _BrokenRecord as error:
                self._skip(-len(self.bad) - 1, error)  # no key: the next good record is counted on from the last
                at = self._next_start(at + 4)
        return np.frombuffer(offsets, np.int64)

    def _next_start(self, at: int) -> int:
        """The first place from `at` on where a record may begin: payloads hold no magic word at a multiple of 4."""
        while (at := self._map.find(_MAGIC_BYTES, at)) >= 0:
            if at % 4 == 0 and at + 8 <= len(self._map) and self._map[at + 7] >> 5 < 2:
                return at
            at += 1
        return len(self._map)

    def _end_of(self, offset: int, key: int) -> int:
        """Where the record that begins at byte `offset` ends, all its parts followed."""
        at, end, is_first = offset, len(self._map), True
        while True:
            if at + 8 > end:
                raise self._broken(key, offset, "it is cut short")
            magic, lrec = _PART.unpack_from(self._map, at)
            cflag, length = lrec >> 29, lrec & MAX_LENGTH
            if magic != MAGIC:
                raise self._broken(key, offset, "no record begins there")
            if (cflag in (0, 1)) != is_first or cflag > 3:
                raise self._broken(key, offset, f"its parts are out of order (flag {cflag})")
            at += 8 + length + (-length) % 4
            if at > end:
                raise self._broken(key, offset, "it is cut short")
            if cflag in (0, 3):
                return at
            is_first = False

    def _broken(self, key: int, offset: int, why: str) -> "_BrokenRecord":
        where = f"record {key} (offset {offset}"
        advice = (
            f" If only the .idx is wrong, delete '{self.idx_path.name}': the .rec can be read without an .idx."
            if self.has_idx
            else ""
        )
        return _BrokenRecord(
            f"'{self.path}' {where}, the file has {len(self._map)} bytes): {why}. Copy the file again.{advice}",
            f"{self.path.name} {where}): {why}",
        )

    def _skip(self, key: int, error: "_BrokenRecord") -> None:
        if not self.skip_bad:
            raise error
        self.bad[key] = error.line

    def _drop(self, is_bad: np.ndarray, why: str) -> None:
        """Leaves out the records of a mask, bool [N]; without `skip_bad` the first of them is an error."""
        for k in np.flatnonzero(is_bad)[np.argsort(self.offsets[is_bad], kind="stable")].tolist():
            self._skip(int(self.keys[k]), self._broken(self.keys[k], self.offsets[k], why))
        if is_bad.any():
            self.keys, self.offsets = self.keys[~is_bad], self.offsets[~is_bad]

    def _keep_readable(self) -> None:
        """Checks that a whole record begins at every offset, for all of them at once. It reads one page a record."""
        end = len(self._map)
        is_outside = (self.offsets < 0) | (self.offsets % 4 != 0) | (self.offsets > end - 8)
        self._drop(is_outside, "the .idx points outside the file or between its words")
        is_start = (self._words[self.offsets // 4] == MAGIC) & (self._words[self.offsets // 4 + 1] >> 30 == 0)
        self._drop(~is_start, "no record begins there")
        lrec = self._words[self.offsets // 4 + 1]
        stops = self.offsets + 8 + ((lrec & MAX_LENGTH).astype(np.int64) + 3) // 4 * 4
        for k in np.flatnonzero(lrec >> 29).tolist():
            try:
                stops[k] = self._end_of(int(self.offsets[k]), int(self.keys[k]))
            except FaceError:
                if not self.skip_bad:
                    raise
                stops[k] = end + 1  # dropped below
        following = np.append(np.sort(self.offsets), end)
        following = following[np.searchsorted(following, self.offsets) + 1]
        self.sizes = stops - self.offsets
        is_long = stops > following
        self.sizes = self.sizes[~is_long]
        self._drop(is_long, "its end is missing, or it overlaps the next record")
        if not len(self.keys):
            raise FaceError(f"'{self.path}' has no complete record. Copy the file again.")
        self.num_unlisted_bytes = end - int(self.sizes.sum())

    def _read_headers(self) -> None:
        """Reads `flags` and `labels` from all IRHeaders at once."""
        at, last = self.offsets // 4, len(self._words) - 1
        self.flags, scalars = self._words[np.minimum(at + 2, last)], self._words[np.minimum(at + 3, last)]
        self.labels = np.where(self.flags > 0, self._words[np.minimum(at + 8, last)], scalars).view("<f4")
        lrec = self._words[at + 1]
        for k in np.flatnonzero((lrec >> 29 > 0) & (lrec & MAX_LENGTH < 28)):  # the magic word stands in the header
            self.flags[k], self.labels[k] = self._slow_label(int(self.offsets[k]), int(self.sizes[k]))

    def _slow_label(self, offset: int, size: int) -> tuple[int, float]:
        parts, at = [], offset
        while at < offset + size:
            length = _PART.unpack_from(self._map, at)[1] & MAX_LENGTH
            parts.append(self._map[at + 8 : at + 8 + length])
            at += 8 + length + (-length) % 4
        payload = _MAGIC_BYTES.join(parts)
        try:
            header, _ = unpack(payload)
        except BadRecord:
            return 0, float("nan")  # reading the record says what is wrong with it
        return header.flag, header.labels[0]


def read_idx(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads an .idx file: (keys int64 [N], offsets int64 [N]), sorted by key.

    Raises:
        FaceError: not pairs of integers, or a key or offset that is repeated.
    """
    text = require_file(path, "RecordIO index").read_bytes()
    hint = f"Copy the .idx again, or delete it: the .rec can be read without an .idx. File: '{path}'."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values = np.fromstring(text.decode("ascii"), np.int64, sep=" ")
    except (DeprecationWarning, ValueError) as error:
        raise FaceError(
            "Each line of an .idx must be 'key TAB offset', two integers. This file has lines of a different form. "
            f"{hint}"
        ) from error
    num_lines = text.count(b"\n") + (not text.endswith(b"\n"))
    if num_lines != len(values) // 2:  # blank lines do not count
        num_lines = sum(1 for line in text.splitlines() if line.strip())
    if len(values) % 2 or num_lines != len(values) // 2:
        raise FaceError(
            f"An .idx must have two integers per line. This file has {len(values)} integers in total: its end is "
            f"missing. {hint}"
        )
    keys, offsets = values[0::2], values[1::2]
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    if len(np.unique(keys)) != len(keys):
        raise FaceError(
            f"Each key must occur only once in an .idx. Key {keys[1:][keys[1:] == keys[:-1]][0]} is repeated. {hint}"
        )
    if len(np.unique(offsets)) != len(offsets):
        raise FaceError(f"Each offset must occur only once in an .idx. This file repeats some offsets. {hint}")
    return keys, offsets
