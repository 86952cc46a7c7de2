"""Atomic writes, SHA-256, JSON files, and the first checks of every reader."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from facelib.errors import FaceError

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; moves it into place on success, removes it on any failure."""
    path = Path(path)
    if path.is_dir():
        raise FaceError(f"A file is to be written. '{path}' is a folder: name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FaceError(f"'{path.parent}' must be a folder to write '{path.name}' into. Received: a file.") from error
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            raise FaceError(f"'{path}' cannot be written: {error.strerror}. Choose another place.") from error
        raise
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")  # containers share process numbers
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, str(part)):
            error.filename = str(path)  # a full disk is reported with the name the user asked for
        if error.errno in NOT_WRITABLE:
            raise FaceError(f"'{path}' cannot be written: {error.strerror}. Choose another place.") from error
        raise
    finally:
        with suppress(OSError):  # it is not there, or the disk is read-only and it never was
            part.unlink()


def scripts_folder() -> Path:
    """The folder of the scripts: the checkout, or the package `mobilearc` beside an installed facelib."""
    above = Path(__file__).resolve().parents[1]
    return above if (above / "train.py").is_file() else above / "mobilearc"


def cache_home() -> Path:
    """The folder for caches on this machine: in $XDG_CACHE_HOME, or in ~/.cache.

    Raises:
        FaceError: neither folder is known.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        home = home if home.is_absolute() else Path.home() / ".cache"  # as the XDG specification has it
    except RuntimeError as error:
        raise FaceError("This user's home folder is not known. Set XDG_CACHE_HOME to a folder for caches.") from error
    return home / "mobilearc"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically, making the folder when it is missing."""
    with atomic_path(path) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Writes `value` to `path` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict:
    """Reads a JSON object. `what` names the file in errors, e.g. 'sidecar'."""
    try:
        value = json.loads(require_file(path, what).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FaceError(f"The {what} is a JSON object. '{path}' is not: {error}. Make it again.") from error
    if not isinstance(value, dict):
        raise FaceError(f"The {what} is a JSON object. '{path}' holds a {type(value).__name__}. Make it again.")
    return value


def require_file(path: Path, what: str) -> Path:
    """Returns `path` if it is a non-empty file. `what` names it in errors, e.g. 'frozen graph'."""
    path = Path(path)
    if path.is_dir():
        raise FaceError(f"The {what} is a file. '{path}' is a folder: name a file in it.")
    if not path.is_file():
        raise FaceError(f"No {what} at '{path}'. Check the path.")
    if path.stat().st_size == 0:
        raise FaceError(f"The {what} '{path}' is empty (0 bytes). Make or copy it again.")
    return path


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Yields a hidden folder `.NAME.part` beside `out`, empty; renames it to `out` on success, removes it on failure.

    A killed run leaves the hidden folder, and the next run empties it. A lock shows whether another run still writes.

    Raises:
        FaceError: `out` has files in it or cannot be made, or another run is writing it.
    """
    folder = out.with_name(f".{out.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FaceError(f"OUT cannot be made: a part of its path '{folder.parent}' is a file.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FaceError(
            f"'{folder.parent}' is not writable for you ({error.strerror}). Choose another place."
        ) from error
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FaceError(f"Another conversion is writing '{out}' at this moment. Wait for it, or end it.") from error
        if not folder.exists():  # renamed between our open and our lock
            raise FaceError(f"Another conversion wrote '{out}' at this moment. Run the command again.")
        for leftover in folder.iterdir():  # of a killed run
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        try:
            yield folder
            if out.is_dir() and any(out.iterdir()):  # an empty one is replaced
                raise FaceError(f"'{out}' was created by another program in the meantime. Choose another OUT.")
            os.rename(folder, out)
        finally:
            if folder.exists():
                shutil.rmtree(folder)
    finally:
        os.close(handle)
