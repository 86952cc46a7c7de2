"""Where record files lie: on this machine, or in object storage that fsspec opens (s3://, gs://, ...).

Shards of a stored data directory are read where they are. meta.json and the index are copied to a cache of this
machine, so that the index is a memory map there too. fsspec has a file cache of its own. It downloads straight to the
final name, so that two processes which open the same data at once can map half a file; the copy here is atomic.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import atomic_path, cache_home, write_bytes

_MAX_OPEN_FILES = 512  # of one data set
_WANTED_LIMIT = 4096  # open files of the process: what other libraries need, and a few data sets
_PARALLEL_REQUESTS = 32  # each request for a size takes the storage tens of milliseconds
# What pip installs for a scheme that fsspec knows but does not bring.
_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


class StoredPath(str):
    """`scheme://bucket/name`. A string: pathlib would make one slash of the two."""

    def __truediv__(self, name: str) -> "StoredPath":
        return StoredPath(f"{self.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "StoredPath":
        """The path without its last part."""
        return StoredPath(self.rstrip("/").rpartition("/")[0])

    @property
    def cache(self) -> Path:
        """The cache folder on this machine for the files of a stored folder."""
        return cache_home() / hashlib.sha256(self.rstrip("/").encode()).hexdigest()[:16]


def data_path(text: str | Path) -> Path | StoredPath:
    """A path as the user gave it: of a file or folder on this machine, or an address in object storage."""
    return StoredPath(text) if "://" in str(text) else Path(text)


def copy_to_cache(folder: StoredPath, meta: str, index: str) -> Path:
    """Copies both files to `folder.cache`, and returns that folder.

    The index is copied only where it is missing, or where `meta` has changed.

    Args:
        folder: a stored data directory.
        meta: file name of its JSON description.
        index: file name of its index.

    Raises:
        FaceError: no data directory there, storage that cannot be read, or a cache that cannot be written.
    """
    if size_of(folder / meta) is None:
        raise FaceError(
            f"In object storage, only data directories can be read. '{folder}' has no {meta}. Write one with: python "
            f"prepare_data.py SOURCE {folder}"
        )
    local, new = folder.cache, read_stored(folder / meta)
    try:
        if not (local / index).is_file() or not (local / meta).is_file() or (local / meta).read_bytes() != new:
            with atomic_path(local / index) as part:
                _download(folder / index, part)
            write_bytes(local / meta, new)  # last: it vouches for the index
    except OSError as error:
        raise FaceError(
            f"meta.json and the index of data in object storage are copied to a local cache. '{local}' cannot be "
            f"written: {error.strerror}. Set XDG_CACHE_HOME to a writable folder."
        ) from error
    return local


def upload_folder(local: Path, folder: StoredPath, last: str) -> None:
    """Copies the files of a local folder to object storage. `last` comes last, so a stored folder that has it is whole.

    Args:
        local: the folder; its sub-folders are not copied.
        folder: where the files go.
        last: name of the file that is uploaded last, to show that the others are complete.

    Raises:
        FaceError: what the storage says.
    """
    names = sorted(entry.name for entry in local.iterdir() if entry.is_file() and entry.name != last)
    for name in [*names, last]:
        with _one_line_errors(folder / name, "written"):
            _file_system(folder).put_file(str(local / name), folder / name)


class StoredFiles:
    """Reads stored files by position, from any thread; the same interface as `LocalFiles`.

    Each read is one request of tens of milliseconds, so only reads of many records in a row are worth their time.
    """

    def __init__(self, paths: list[StoredPath]):
        self.paths = paths

    @cached_property
    def sizes(self) -> list[int | None]:
        """Bytes of each file; None where there is none."""
        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as executor:
            return list(executor.map(size_of, self.paths))

    def read(self, file: int, size: int, offset: int) -> bytes:
        """`size` bytes from byte `offset`, or fewer at the end of the file.

        Raises:
            FaceError: what the storage says.
        """
        path = self.paths[file]
        with _one_line_errors(path, "read"):
            return _file_system(path).cat_file(path, start=offset, end=offset + size)


def size_of(path: StoredPath) -> int | None:
    """Bytes of a stored file; None where there is none."""
    with _one_line_errors(path, "read"):
        fs = _file_system(path)
        fs.invalidate_cache(path.parent)  # listings of s3fs and gcsfs are kept, and would hide what was written since
        try:
            found = fs.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found["size"] if found["type"] == "file" else None


def read_stored(path: StoredPath) -> bytes:
    """The whole of a small stored file."""
    with _one_line_errors(path, "read"):
        return _file_system(path).cat_file(path)


def _download(source: StoredPath, target: Path) -> None:
    with _one_line_errors(source, "read"):
        _file_system(source).get_file(source, str(target))


def _file_system(path: StoredPath):
    """fsspec's file system for an address; fsspec keeps one for each scheme."""
    import fsspec

    return fsspec.filesystem(path.partition("://")[0])


@contextmanager
def _one_line_errors(path: StoredPath, verb: str) -> Iterator[None]:
    """Turns what fsspec and the clients of the storage raise into one line."""
    scheme = path.partition("://")[0]
    try:
        yield
    except FaceError:
        raise
    except (ImportError, ValueError) as error:  # the latter: a scheme that fsspec does not know
        package = _EXTRAS.get(scheme)
        how = f"pip install {package}" if package else "mount the storage as a folder"
        raise FaceError(
            f"'{path}' cannot be {verb}: no package for {scheme}:// is installed. To solve this: {how}."
        ) from error
    except Exception as error:  # clients of object storage share no base class
        reason = " ".join((str(error) or type(error).__name__).split())
        raise FaceError(
            f"'{path}' cannot be {verb}: {reason[:200]}. Check the address and your permissions."
        ) from error


def _most_open_files() -> int:
    """How many files a data set may keep open: a quarter of `ulimit -n`, which is raised as far as the user may."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return _MAX_OPEN_FILES // 4
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    if soft != infinite and soft < _WANTED_LIMIT:
        raised = _WANTED_LIMIT if hard == infinite else min(hard, _WANTED_LIMIT)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return _MAX_OPEN_FILES if soft == infinite else min(_MAX_OPEN_FILES, soft // 4)


class LocalFiles:
    """Files of this machine. The first 512, or fewer under a low `ulimit -n`, stay open; others open for each read."""

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self._most_open = _most_open_files()
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
            if file >= self._most_open:
                try:
                    return _pread_all(handle, size, offset)
                finally:
                    os.close(handle)
        return _pread_all(handle, size, offset)

    def _open(self, file: int) -> int:
        with self._lock:
            known = self._handles[file]
            if known is not None:
                return known
            try:
                handle = os.open(self.paths[file], os.O_RDONLY)
            except OSError as error:
                advice = " Raise the limit: ulimit -n 4096." if error.errno in (errno.EMFILE, errno.ENFILE) else ""
                raise FaceError(
                    f"Record file '{self.paths[file]}' cannot be opened: {error.strerror}.{advice}"
                ) from error
            if file < self._most_open:
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
