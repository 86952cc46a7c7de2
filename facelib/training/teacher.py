"""The embeddings of a teacher for a data directory, computed once: `DATA/teachers/<key>.npy`, float16 [N, 2, T].

Row i holds the unit embeddings of record i, as it is and mirrored. The key is a hash of the teacher's file, its input
format and the records, so a changed teacher or other data never use an old file. float16 changes a unit vector by less
than 0.0005, a hundredth of the usual distance between student and teacher. 5.8 M faces with 512 values take 12 GB.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from facelib.data.record_reader import Records
from facelib.data.storage import StoredPath
from facelib.errors import BadRecord, FaceError
from facelib.files import NOT_WRITABLE, atomic_path, map_npy, read_json, require_file, sha256_of, write_json
from facelib.image_decoding import decode_image
from facelib.locks import lock
from facelib.model_input import Io

CHUNK_IMAGES = 256  # 10 MB of pixels
_KEEP_EVERY = 16  # chunks after which the progress is saved


class Teacher:
    """Teacher embeddings by record.

    Args:
        path: the .npy file.
        num_records: of the data directory.

    Attributes:
        path: the .npy file.
        size: T, the length of an embedding.

    Raises:
        FaceError: the file is damaged.
    """

    def __init__(self, path: Path, num_records: int):
        self.path = path
        try:
            self._rows = map_npy(path, np.float16, 3)
            if self._rows.shape[1] != 2 or len(self._rows) != num_records:
                raise ValueError(f"it holds {list(self._rows.shape)} values for {num_records} records")
        except (ValueError, OSError) as error:
            raise FaceError(
                f"The stored teacher embeddings in '{path}' are damaged ({error}). Delete this file to compute them "
                "again."
            ) from error
        self.size = self._rows.shape[-1]

    def targets(self, record_idx: np.ndarray, is_flipped: np.ndarray) -> np.ndarray:
        """The teacher's embeddings of a batch.

        Args:
            record_idx: int [B], the records.
            is_flipped: bool [B], whether each image is mirrored.

        Returns:
            float32 [B, T], unit vectors.
        """
        return np.asarray(self._rows[record_idx, is_flipped.astype(np.int64)], np.float32)


def open_teacher(model: Path, io: Io, records: Records, *, threads: int | None = None) -> Teacher:
    """Opens the teacher embeddings of all records; computes them if they are not stored yet.

    An interrupted computation continues where it stopped.

    Args:
        model: .h5, .pb, .tflite or .onnx.
        io: its input format.
        records: of the data directory.
        threads: of the runtime; None for all cores.

    Raises:
        FaceError: an unreadable model, a record that cannot be decoded, or a folder that cannot be written.
    """
    model = require_file(model, "teacher")
    described = io.as_dict()
    if io.fit == Io.fit:
        del described["fit"]  # embeddings stored before this key existed keep their name
    what = {"teacher": sha256_of(model), "io": described, "records": records.fingerprint}

    def compute(cache: Path) -> None:
        about = {**what, "model": model.name, "num_images": len(records)}
        _compute(cache, model, io, records, threads or os.cpu_count() or 1, about)

    return _kept(what, records, compute)


def keep_targets(what: dict, records: Records, make: Callable[[], np.ndarray]) -> Teacher:
    """Keeps embeddings that are made at once, as those of a model are kept.

    Args:
        what: tells them from others, a JSON value.
        records: of the data directory.
        make: gives the unit vectors of each record and its mirror image, float16 [N, 2, T].
    """

    def compute(cache: Path) -> None:
        rows = make()
        with atomic_path(cache) as part, open(part, "wb") as file:
            np.save(file, rows)

    return _kept(what, records, compute)


def _kept(what: dict, records: Records, compute: Callable[[Path], None]) -> Teacher:
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    cache = _home_of(records.path) / "teachers" / f"{key}.npy"
    if cache.is_file():
        with suppress(OSError):
            cache.with_suffix(".progress").unlink()  # of a process that was killed at its very end
    else:
        try:
            cache.parent.mkdir(exist_ok=True)
            with open(cache.with_suffix(".lock"), "w", encoding="utf-8") as file:
                with suppress(OSError):  # a file system without locks
                    lock(file.fileno(), wait=True)  # for another training that computes the same
                if not cache.is_file():
                    compute(cache)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            raise FaceError(
                f"Teacher embeddings are stored beside the data. '{cache.parent}' cannot be written: "
                f"{error.strerror}. Copy the data to a writable folder."
            ) from error
    return Teacher(cache, len(records))


def _home_of(data: Path | StoredPath) -> Path:
    if isinstance(data, StoredPath):
        return data.cache
    return data if data.is_dir() else data.parent


def _compute(cache: Path, model: Path, io: Io, records: Records, threads: int, about: dict) -> None:
    """Writes the cache, after the JSON file `about` it: a cache that is there is complete."""
    from facelib.runtimes.open_embedder import open_embedder

    embedder = open_embedder(model, io, threads)
    part, note = cache.with_suffix(".part"), cache.with_suffix(".progress")
    starts = list(range(0, len(records), CHUNK_IMAGES))
    done, rows = _open_part(part, note)
    with tqdm(total=len(records), initial=min(done * CHUNK_IMAGES, len(records)), unit="img", desc="teacher") as bar:
        for number in range(done, len(starts)):
            chunk = range(starts[number], min(starts[number] + CHUNK_IMAGES, len(records)))
            faces = _faces(records, chunk)
            pair = [embedder(faces), embedder(np.ascontiguousarray(faces[:, :, ::-1]))]
            if rows is None:
                note.unlink(missing_ok=True)  # it tells of another file
                rows = _make_part(part, (len(records), 2, pair[0].shape[1]))
            rows[chunk.start : chunk.stop] = np.stack(pair, axis=1)
            bar.update(len(chunk))
            if (number + 1) % _KEEP_EVERY == 0 or number + 1 == len(starts):
                rows.flush()
                write_json(note, {"chunks": number + 1, "last": _sha256(rows, number)})
    write_json(cache.with_suffix(".json"), about)
    part.replace(cache)
    note.unlink(missing_ok=True)


def _open_part(part: Path, note: Path) -> tuple[int, np.memmap | None]:
    """Chunks done by a killed run, and its rows; (0, None) if there are none, or the note tells of another file."""
    if not (note.is_file() and part.is_file()):
        return 0, None
    try:
        kept, rows = read_json(note, "teacher cache's progress"), map_npy(part, np.float16, 3, "r+")
        if kept["last"] == _sha256(rows, kept["chunks"] - 1):
            return kept["chunks"], rows
    except (FaceError, KeyError, TypeError, ValueError):
        pass
    return 0, None


def _make_part(part: Path, shape: tuple[int, int, int]) -> np.memmap:
    """A new file of zeros, with its space on the disk: a write to a memory map of a full disk ends the process."""
    try:
        rows = np.lib.format.open_memmap(part, "w+", np.float16, shape)
        with open(part, "r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    except OSError as error:
        part.unlink(missing_ok=True)
        error.filename = str(part)
        raise
    return rows


def _sha256(rows: np.ndarray, chunk: int) -> str:
    return hashlib.sha256(rows[chunk * CHUNK_IMAGES : (chunk + 1) * CHUNK_IMAGES].tobytes()).hexdigest()


def _faces(records: Records, chunk: range) -> np.ndarray:
    """uint8 [N, H, W, 3], RGB: records of one size. A teacher fits it to its input as its sidecar says."""
    faces: np.ndarray | None = None
    for i in chunk:
        size = None if faces is None else faces.shape[1:3]
        buffer = np.empty((112, 112, 3), np.uint8) if faces is None else faces[i - chunk.start]
        try:
            face = decode_image(records.read(i)[0], buffer, size=size, check_end=False)
        except BadRecord as error:
            raise FaceError(
                f"A teacher needs aligned faces that all have the same size. '{records.path}', {records.describe(i)}: "
                f"{error}. Run prepare_data.py again with --decode-all --skip-bad, on aligned faces."
            ) from error
        if faces is None:
            faces = np.empty((len(chunk), *face.shape), np.uint8)
        faces[i - chunk.start] = face
    assert faces is not None  # a chunk has at least one record
    return faces
