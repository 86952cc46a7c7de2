"""Data directories in object storage: gs://, and whatever else tf.io.gfile opens.

Shards are read where they are; meta.json and the index are copied to a cache of this machine, so that the index is a
memory map there too. TensorFlow is imported for a stored path and for no other.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import atomic_path, cache_home, write_bytes
from facelib.tensorflow_env import import_tensorflow

_MAX_OPEN_FILES = 512  # below the usual limit of 1024 a process

_COPIED_BYTES = 16 << 20  # at once
_OPEN_FILES = 32  # of a thread
_ASKED_AT_ONCE = 32  # files, for their sizes: each takes the storage tens of milliseconds


class StoredPath(str):
    """`scheme://bucket/name`. A string: pathlib would make one slash of the two."""

    def __truediv__(self, name: str) -> "StoredPath":
        return StoredPath(f"{self.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "StoredPath":
        return StoredPath(self.rstrip("/").rpartition("/")[0])

    @property
    def cache(self) -> Path:
        """The folder of this machine for what is kept of a stored folder."""
        return cache_home() / hashlib.sha256(self.rstrip("/").encode()).hexdigest()[:16]


def data_path(text: str) -> Path | StoredPath:
    """A path as the user gave it: of a file or folder here, or of object storage."""
    return StoredPath(text) if "://" in str(text) else Path(text)


def copy_to_cache(folder: StoredPath, meta: str, index: str) -> Path:
    """`folder.cache` with both files; the index is copied only where it is missing, or `meta` has changed.

    Raises:
        FaceError: no data directory there, storage that cannot be read, or a cache that cannot be written.
    """
    if _size_of(folder / meta) is None:
        raise FaceError(
            f"Of object storage, data directories are read. '{folder}' has no {meta}. Write one with prepare_data.py "
            f"into a folder of this machine, and copy that there."
        )
    local, new = folder.cache, _read(folder / meta)
    try:
        if not (local / index).is_file() or not (local / meta).is_file() or (local / meta).read_bytes() != new:
            with atomic_path(local / index) as part:
                _copy(folder / index, part)
            write_bytes(local / meta, new)  # last: it vouches for the index
    except OSError as error:
        raise FaceError(
            f"Meta and index of stored data are copied to a cache. '{local}' cannot be written: {error.strerror}. "
            f"Set XDG_CACHE_HOME to a folder that can."
        ) from error
    return local


class StoredFiles:
    """Reads of files by position, from any thread; see facelib/data/storage.py.

    tf.io.gfile fetches 512 KB for any smaller read, so only reads of many records in a row are worth their time.
    """

    def __init__(self, paths: list[StoredPath]):
        self.paths = paths
        self._own = threading.local()  # a GFile has one position, so each thread has its own

    @cached_property
    def sizes(self) -> list[int | None]:
        """Bytes of each file; None where there is none."""
        with ThreadPoolExecutor(_ASKED_AT_ONCE) as executor:
            return list(executor.map(_size_of, self.paths))

    def read(self, file: int, size: int, offset: int) -> bytes:
        """`size` bytes from byte `offset`, or fewer at the end of the file.

        Raises:
            FaceError: what the storage says.
        """
        with _naming(self.paths[file]):
            handle = self._open(file)
            handle.seek(offset)
            return handle.read(size)

    def _open(self, file: int):
        handles = self._own.__dict__.setdefault("handles", {})
        if file not in handles:
            if len(handles) == _OPEN_FILES:
                handles.pop(next(iter(handles))).close()  # the oldest
            handles[file] = import_tensorflow().io.gfile.GFile(self.paths[file], "rb")
        return handles[file]


def _size_of(path: StoredPath) -> int | None:
    tf = import_tensorflow()
    with _naming(path):
        try:
            return tf.io.gfile.stat(path).length
        except (tf.errors.NotFoundError, tf.errors.FailedPreconditionError):  # the latter below a file
            return None


def _read(path: StoredPath) -> bytes:
    with _naming(path), import_tensorflow().io.gfile.GFile(path, "rb") as file:
        return file.read()


def _copy(source: StoredPath, target: Path) -> None:
    with _naming(source), import_tensorflow().io.gfile.GFile(source, "rb") as read, open(target, "wb") as written:
        while data := read.read(_COPIED_BYTES):
            written.write(data)


@contextmanager
def _naming(path: StoredPath) -> Iterator[None]:
    """Turns what TensorFlow raises into one line."""
    tf = import_tensorflow()
    try:
        yield
    except tf.errors.UnimplementedError as error:
        scheme = path.partition("://")[0]
        raise FaceError(
            f"TensorFlow reads what its file systems know. '{path}': it has none for {scheme}://. Install the package "
            f"that adds it, or mount the storage as a folder."
        ) from error
    except tf.errors.OpError as error:
        reason = (error.message or type(error).__name__).strip().split("\n")[0]
        raise FaceError(f"'{path}' cannot be read: {reason[:200]}. Check the path and your permissions.") from error


class LocalFiles:
    """Files of this machine. The first 512 stay open, the others are opened for each read."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self._handles: list[int | None] = [None] * len(paths)
        self._lock = threading.Lock()

    @cached_property
    def sizes(self) -> list[int | None]:
        """Bytes of each file; None where there is none."""
        return [path.stat().st_size if path.is_file() else None for path in self.paths]

    def read(self, file: int, size: int, offset: int) -> bytes:
        """`size` bytes from byte `offset`, or fewer at the end of the file.

        Raises:
            FaceError: it cannot be opened.
        """
        handle = self._handles[file]
        if handle is None:
            handle = self._open(file)
            if file >= _MAX_OPEN_FILES:
                try:
                    return _pread_all(handle, size, offset)
                finally:
                    os.close(handle)
        return _pread_all(handle, size, offset)

    def _open(self, file: int) -> int:
        with self._lock:
            if self._handles[file] is not None:
                return self._handles[file]
            try:
                handle = os.open(self.paths[file], os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise FaceError(f"Record file '{self.paths[file]}' cannot be opened: {error.strerror}.") from error
            if file < _MAX_OPEN_FILES:
                self._handles[file] = handle
            return handle

    def __del__(self):
        for handle in getattr(self, "_handles", ()):
            if handle is not None:
                os.close(handle)


def _pread_all(handle: int, size: int, offset: int) -> bytes:
    """As `read`. One system call, unless it is interrupted or above 2 GiB."""
    data = os.pread(handle, size, offset)
    if len(data) == size or not data:
        return data
    pieces = [data]
    got = len(data)
    while got < size and (data := os.pread(handle, size - got, offset + got)):
        pieces.append(data)
        got += len(data)
    return b"".join(pieces)
