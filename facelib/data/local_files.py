"""Reads of record files by position, from any thread."""

import os
import threading
from functools import cached_property
from pathlib import Path

from facelib.errors import FaceError

_MAX_OPEN_FILES = 512  # below the usual limit of 1024 a process


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
