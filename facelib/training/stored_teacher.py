"""A teacher whose embeddings are stored: the TFRecords of leondgarse/Keras_insightface for distillation.

A file begins with a header (`total`, `emb_shape`, `use_fp16`). Each other record has the path of an image
(`image_names`) and its embedding (`embeddings`, the bytes of float16 or float32 values). A face of the training data is
known by the bytes of its image, so the order and the labels of the data do not matter. There is no embedding of a
mirrored face: it learns that of the face as it is, as there.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facelib.data.readers.open_records import is_tfrecord_name, list_tfrecords
from facelib.data.record_reader import Records
from facelib.data.tfrecord import Feature, decode_example, map_file, scan
from facelib.data.tfrecord_layouts import LAYOUTS, is_header, read_image
from facelib.errors import BadRecord, FaceError
from facelib.files import sha256_of
from facelib.training.teacher import Teacher, keep_targets
from facelib.unit_vectors import normalize

_LAYOUT = next(layout for layout in LAYOUTS if layout.image_key == "image_names")


def is_stored(path: Path) -> bool:
    """Whether a teacher is TFRecords with embeddings, or a folder of them, and no model."""
    return path.is_dir() or is_tfrecord_name(path)


def open_stored_teacher(path: Path, records: Records) -> Teacher:
    """The stored embeddings of all records of the training data, kept beside it like those of a model.

    Args:
        path: a TFRecord file, or a folder of them.
        records: of the training data.

    Raises:
        FaceError: no such records, images that are not there, or a face of the data that has no embedding.
    """
    files = list_tfrecords(path) if path.is_dir() else [path]
    what = {"teacher": [sha256_of(file) for file in files], "records": records.fingerprint}

    def compute() -> np.ndarray:
        known = dict(_embeddings(files))
        if not known:
            raise FaceError(
                f"A stored teacher must be TFRecords with 'image_names' and 'embeddings'. '{path}' has none."
            )
        rows = [known.get(_digest(records.read(i)[0])) for i in range(len(records))]
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            raise FaceError(
                f"A stored teacher must have an embedding for every image of the data. '{path}' has no embedding for "
                f"{len(missing):,} of {len(rows):,} images, such as {records.describe(missing[0])} of "
                f"'{records.path}'. Train on the images of the stored teacher, or use the model of the teacher "
                "instead."
            )
        found = [row for row in rows if row is not None]
        if len({len(row) for row in found}) != 1:
            raise FaceError(
                f"All embeddings of a teacher must have the same length. The lengths in '{path}' differ: make the "
                "file again."
            )
        units = normalize(np.stack(found), lambda i: f"{records.describe(i)} in '{path}'")
        return np.repeat(units[:, None], 2, axis=1).astype(np.float16)

    return keep_targets(what, records, compute)


def _embeddings(files: list[Path]) -> Iterator[tuple[bytes, np.ndarray]]:
    """(digest of the image, embedding float [D]) of each record."""
    for file in files:
        dtype, view = np.dtype("<f4"), memoryview(map_file(file))
        for number, (offset, length) in enumerate(zip(*(part.tolist() for part in scan(file)), strict=True)):
            try:
                features = decode_example(view[offset + 12 : offset + 12 + length])
                if is_header(features):
                    dtype = np.dtype("<f2" if features.get("use_fp16") == [1] else "<f4")
                    continue
                yield _digest(read_image(_LAYOUT, features, file.parent)), _embedding(features, dtype)
            except BadRecord as error:
                raise FaceError(f"'{file}' record {number}: {error}. Make the file again, or copy it again.") from error


def _embedding(features: dict[str, Feature], dtype: np.dtype) -> np.ndarray:
    value = features.get("embeddings")
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], bytes | memoryview):
        raise BadRecord("its feature 'embeddings' is not one byte string")
    data = bytes(value[0])
    if not data or len(data) % dtype.itemsize:
        raise BadRecord(f"its embedding has {len(data)} bytes, not a whole number of {dtype.name} values")
    return np.frombuffer(data, dtype).astype(np.float32)


def _digest(image: bytes | np.ndarray) -> bytes:
    return hashlib.sha256(image if isinstance(image, bytes) else image.tobytes()).digest()
