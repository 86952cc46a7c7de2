"""Opens any face data as a `Source`: labels, class names, and the encoded image of every record."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from facelib.data.data_dir import check_image_size, is_data_dir
from facelib.data.readers.folder_source import FolderSource, ListSource
from facelib.data.readers.mxnet_rec import FLOAT32_EXACT, RecordFile, unpack
from facelib.data.readers.open_records import SUFFIXES, is_tfrecord_name, list_tfrecords, open_older, open_records
from facelib.data.record_reader import Records
from facelib.errors import BadRecord, FaceError
from facelib.files import require_file

_SAMPLE_BYTES = 1 << 20


class Source(Protocol):
    """Labelled faces on disk, of any format.

    `read(i)` gives the JPEG or PNG bytes of record i, or raises BadRecord. `describe(i)` says where record i lies.

    Attributes:
        kind: the format, for messages.
        path: what was opened.
        notes: lines that the user should see.
        bad: a line for each record that could not be found, see `open_source`.
        labels: int64 [N], each an index of `class_names`; classes without images are possible.
        class_names: of the identities.
        image_size: (height, width) in pixels that the source declares, or None.
        fingerprint: 64 hex digits that change when the source does. Of large files only sizes, names and samples count.
    """

    kind: str
    path: Path
    bad: list[str]
    labels: np.ndarray
    image_size: tuple[int, int] | None

    @property
    def notes(self) -> list[str]: ...
    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def read(self, i: int) -> bytes: ...
    def describe(self, i: int) -> str: ...


def open_source(path: Path, skip_bad: bool = False, encoding: str | None = None) -> Source:
    """Opens face data. The format follows from the name and the content.

    Args:
        path: a tree of identity folders, an InsightFace directory or .rec, a list such as cls_train.txt, TFRecords, or
            a data directory.
        skip_bad: records that cannot even be found, as in a cut .rec, become lines of `source.bad` instead of an error.
        encoding: of a list; None finds it.

    Raises:
        FaceError: nothing there, none of these, or damaged.
    """
    path = Path(path)
    if not path.exists():
        is_address = re.match("[a-z0-9]+:/", str(path))  # pathlib has made one slash of two
        hint = (
            "Only train.py and doctor.py read data from an address: copy the data to a folder first."
            if is_address
            else "Check the path."
        )
        raise FaceError(f"There are no face data at '{path}'. {hint}")
    if path.is_dir():
        if is_data_dir(path) or list_tfrecords(path):
            return _open_tfrecords(path, skip_bad)
        recs = sorted(path.glob("*.rec"))
        if recs:
            train = path / "train.rec"
            if train not in recs and len(recs) > 1:
                raise FaceError(f"'{path}' has {len(recs)} .rec files, but no train.rec. Pass the path of one .rec.")
            return RecSource(train if train in recs else recs[0], skip_bad)
        return FolderSource(path)
    require_file(path, "data set")
    if path.suffix in (".rec", ".idx"):
        return RecSource(require_file(path.with_suffix(".rec"), "RecordIO file"), skip_bad)
    if is_tfrecord_name(path):
        return _open_tfrecords(path, skip_bad)
    if path.suffix in (".txt", ".lst", ".csv"):
        return _open_tfrecords(path, skip_bad) if _is_tface_index(path) else ListSource(path, encoding)
    if path.suffix == ".bin":
        raise FaceError(
            f"'{path}' is a verification set. A verification set has pairs, not identities, so it cannot be used for "
            "training."
        )
    if path.suffix == ".gz":
        raise FaceError(
            f"Face data must not be compressed. '{path}' is compressed with gzip: unpack it first (gunzip)."
        )
    raise FaceError(
        "Face data must be a folder of identity folders, an InsightFace directory or .rec, a list 'id;path' (.txt), "
        f"TFRecords ({', '.join(SUFFIXES)}) or a data directory. '{path}' is none of these."
    )


def _open_tfrecords(path: Path, skip_bad: bool) -> "RecordsSource":
    bad: list[str] | None = [] if skip_bad else None
    return RecordsSource(open_records(path) if is_data_dir(path) else open_older(path, bad), bad)


def _is_tface_index(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.readline().count(b"\t") == 3


def sample_hash(digest, path: Path) -> None:
    """Adds a file's name, size, first and last MiB to `digest`. Hashing all of 30 GB would take too long."""
    size = path.stat().st_size
    digest.update(f"{path.name} {size}\n".encode())
    with open(path, "rb") as file:
        digest.update(file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read())


class RecSource:
    """An InsightFace train.rec (header record, images, identity records), or a flat im2rec file. See mxnet_rec.py."""

    def __init__(self, path: Path, skip_bad: bool = False):
        self.path = path
        self.notes: list[str] = []
        self.image_size: tuple[int, int] | None = None
        self.file = RecordFile(path, skip_bad)
        self.bad = list(self.file.bad.values())
        num_classes = None
        self._positions = np.arange(len(self.file))
        self.kind = "flat RecordIO"
        if self.file.flags[0] == 2 and not unpack(self._payload(0))[1]:
            self.kind = "InsightFace RecordIO"
            num_classes = self._read_header(0)
        elif self.file.num_unlisted_bytes and not skip_bad:
            raise FaceError(
                f"'{self.file.idx_path}' does not list {self.file.num_unlisted_bytes} bytes of the .rec. Copy both "
                "files again, or delete the .idx: the .rec can be read without an .idx."
            )
        self.labels = self._check_labels(num_classes, skip_bad)
        if not len(self.labels):
            raise FaceError(f"'{path}' has no readable image ({len(self.bad)} bad). Copy the file again.")
        num_classes = num_classes or int(self.labels.max()) + 1
        self._read_property(num_classes)
        self.class_names = [str(label) for label in range(num_classes)]

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, i: int) -> bytes:
        return unpack(self.file.read(int(self._positions[i])))[1]

    def describe(self, i: int) -> str:
        return f"{self.path.name} {self.file.describe(int(self._positions[i]))}"

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(b"rec")
        sample_hash(digest, self.path)
        if self.file.has_idx:
            digest.update(self.file.idx_path.read_bytes())
        return digest.hexdigest()

    def _payload(self, position: int) -> bytes:
        try:
            payload = self.file.read(position)
            unpack(payload)
        except BadRecord as error:
            raise FaceError(f"'{self.path}' {self.file.describe(position)}: {error}. Copy the file again.") from error
        return payload

    def _read_header(self, position: int) -> int:
        """Reads record 0, `[N + 1, N + 1 + C]`, keeps the images, whose keys are 1 .. N, and returns C."""
        (stop, end), bound = unpack(self._payload(position))[0].labels, FLOAT32_EXACT
        if not (1 < stop < end <= bound and stop == int(stop) and end == int(end)):
            raise FaceError(
                "Record 0 of an InsightFace .rec must hold two whole numbers, [images + 1, images + 1 + identities]. "
                f"Both numbers must be at most {bound:,} (the largest number that float32 holds exactly). "
                f"'{self.path}' has [{stop:.9g}, {end:.9g}]. Write larger sets with im2rec, without this record."
            )
        if self.file.bad and not self.file.has_idx:  # keys are counted, so they say nothing: images are what has pixels
            payload_bytes = np.where(self.file.flags > 0, 32 + 4 * self.file.flags.astype(np.int64), 32)
            self._positions = np.flatnonzero(self.file.sizes > payload_bytes)
            return int(end) - int(stop)
        keys = np.arange(1, int(stop))
        self._positions = np.searchsorted(self.file.keys, keys)
        is_there = self._positions < len(self.file)
        is_there[is_there] = self.file.keys[self._positions[is_there]] == keys[is_there]
        if self.file.skip_bad and not is_there.all():
            self._positions = self._positions[is_there]
            missing = keys[~is_there].tolist()  # identity records may be missing too, but nothing needs them
            self.bad = [
                self.file.bad.get(key, f"{self.path.name} record {key}: it is not in the .idx") for key in missing
            ]
        elif not is_there.all():
            where = self.file.idx_path if self.file.has_idx else self.path
            raise FaceError(
                f"Record 0 of '{self.path}' says that there are {len(keys)} images. '{where}' does not list "
                f"{int((~is_there).sum())} of these images; the first has key {keys[~is_there][0]}. Copy the .rec "
                "and .idx again."
            )
        return int(end) - int(stop)

    def _check_labels(self, num_classes: int | None, skip_bad: bool) -> np.ndarray:
        labels = self.file.labels[self._positions]
        bound = FLOAT32_EXACT if num_classes is None else num_classes
        is_bad = ~((labels >= 0) & (labels < bound) & (labels == np.floor(labels)))
        if skip_bad and not is_bad.all():
            self.bad += [f"{self.describe(i)}: label {labels[i]:.9g}" for i in np.flatnonzero(is_bad).tolist()]
            self._positions, labels = self._positions[~is_bad], labels[~is_bad]
        elif is_bad.any():
            i = int(np.argmax(is_bad))
            raise FaceError(
                f"Labels must be whole numbers from 0 to {bound - 1:,}"
                + (
                    " (the largest number that float32 holds exactly)"
                    if num_classes is None
                    else f" (record 0: {num_classes} identities)"
                )
                + f". '{self.path}', {self.describe(i)}, has {labels[i]:.9g}; {int(is_bad.sum())} records have a "
                "wrong label. Make the .rec again."
            )
        return labels.astype(np.int64)

    def _read_property(self, num_classes: int) -> None:
        """The `property` file beside the .rec: 'classes,height,width'."""
        file = self.path.with_name("property")
        if not file.is_file():
            return
        try:
            classes, height, width = (int(value) for value in file.read_text(encoding="utf-8-sig").strip().split(","))
            if check_image_size([height, width]):
                raise ValueError
        except ValueError:
            self.notes.append(f"'{file}' does not have the form 'classes,height,width' and was ignored")
            return
        self.image_size = height, width
        if classes != num_classes:
            self.notes.append(
                f"'{file}' says {classes} identities, but the .rec has {num_classes}: the number in the .rec is used"
            )


class RecordsSource:
    """A data directory, or the TFRecords of an older system. Raw pixels become PNG, without loss."""

    def __init__(self, records: Records, bad: list[str] | None = None):
        self.records, self.bad = records, bad or []
        self.path = Path(records.path)  # `open_source` opens files of this machine alone
        self.notes: list[str] = []
        self.kind = "data directory" if records.is_data_dir else "TFRecord"
        self.labels, self.class_names = records.labels, records.class_names
        size = records.meta.get("image_size")
        self.image_size: tuple[int, int] | None = (size[0], size[1]) if size else None

    def __len__(self) -> int:
        return len(self.records)

    def read(self, i: int) -> bytes:
        try:
            image, _ = self.records.read(i)
        except FaceError as error:
            raise error.__cause__ if isinstance(error.__cause__, BadRecord) else error from None
        if isinstance(image, bytes):
            return image
        try:
            return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        except (cv2.error, AttributeError) as error:
            raise BadRecord(f"its raw pixels ({image.shape[0]}x{image.shape[1]}) cannot be written as PNG") from error

    def describe(self, i: int) -> str:
        return self.records.describe(i)

    @cached_property
    def fingerprint(self) -> str:
        return self.records.fingerprint


class DerivedSource:
    """A `Source` of records picked from another one, with new labels and perhaps changed images.

    Args:
        source: where the images are read.
        picks: int64 [N], the record of `source` that each record is.
        labels: int64 [N], each an index of `class_names`.
        class_names: of the identities.
        what: JSON value that describes the change; the fingerprint is made of it and the fingerprint of `source`.
        change: (encoded image, i) -> encoded image; None keeps the bytes.
    """

    def __init__(
        self,
        source: Source,
        picks: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        what: dict,
        change: Callable[[bytes, int], bytes] | None = None,
    ):
        self.source, self.picks, self.labels, self.class_names = source, picks, labels, list(class_names)
        self.kind, self.path, self.image_size = source.kind, source.path, source.image_size
        self.bad, self.change = list(source.bad), change
        text = json.dumps(what, sort_keys=True)
        self.fingerprint = hashlib.sha256(f"{source.fingerprint} {text}".encode()).hexdigest()

    @property
    def notes(self) -> list[str]:
        """Those of the source."""
        return self.source.notes

    def __len__(self) -> int:
        return len(self.picks)

    def read(self, i: int) -> bytes:
        """The encoded image of record i."""
        image = self.source.read(int(self.picks[i]))
        return self.change(image, i) if self.change else image

    def describe(self, i: int) -> str:
        """Where record i lies in the source."""
        return self.source.describe(int(self.picks[i]))
