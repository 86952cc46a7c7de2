"""Atomic writes, SHA-256, and the first checks of every reader: JSON, TOML and .npy files, files of images."""

import codecs
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from facelib.errors import BadRecord, FaceError
from facelib.locks import is_held, open_folder
from facelib.part_files import hold_part, part_beside, sweep_parts

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
MAX_IMAGE_FILE_BYTES = 1 << 29  # a TIFF of 100 million pixels has 300 MB
_MAX_NESTING = 64  # lists and tables inside each other; our files have at most 8
_MAX_BITS = 64  # of a whole number: what every file of ours can hold
_PLAIN = frozenset((str, float, bool, type(None)))
_NPY_MAGIC = b"\x93NUMPY\x01\x00"


@contextmanager
def atomic_path(path: Path, sweeps: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`; moves it into place on success, removes it on any failure.

    Args:
        path: of the file to write.
        sweeps: remove what a killed writer of `path` left; False where the caller does, in a folder of very many files.
    """
    path = check_out_file(path)
    make_folder(path.parent)
    if sweeps:
        sweep_parts(path.parent, path.name)
    part, handle = part_beside(path), None
    try:
        handle = hold_part(part)
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, str(part)):
            error.filename = str(path)  # a full disk is reported with the name the user asked for
        if error.errno in NOT_WRITABLE:
            raise FaceError(f"'{path}' cannot be written: {error.strerror}. Choose a different path.") from error
        raise
    finally:
        with suppress(OSError):  # it is not there, or the disk is read-only and it never was
            part.unlink()
        if handle is not None:
            os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it where they are missing. A link stays, and its target is made.

    Raises:
        FaceError: a part of the path is a file or a link to itself, or the folder may not be made.
    """
    try:
        target_of(folder).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FaceError(
            f"'{folder}' must be a folder, but it or a part of its path is a file. Choose a different folder."
        ) from error
    except OSError as error:
        if error.errno in NOT_WRITABLE:
            raise FaceError(f"'{folder}' cannot be written: {error.strerror}. Choose a different folder.") from error
        raise


def check_out_file(path: Path) -> Path:
    """Returns `path` if a file can have this name. Scripts ask before they work, `atomic_path` asks again.

    Raises:
        FaceError: it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise FaceError(f"The output must be a file. '{path}' is a folder: choose a file in this folder.")
    return path


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
        raise FaceError("This user's home folder is unknown. Set XDG_CACHE_HOME to a folder for caches.") from error
    return home / "mobilearc"


def write_bytes(path: Path, data: bytes, sweeps: bool = True) -> None:
    """Writes `data` to `path` atomically, making the folder when it is missing. `sweeps`: see `atomic_path`."""
    with atomic_path(path, sweeps) as part:
        part.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Writes `value` to `path` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict:
    """Reads a JSON object. `what` names the file in errors, e.g. 'sidecar'."""
    try:
        value = parse_json(require_file(path, what).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise FaceError(f"The {what} must be a JSON object. '{path}' is not: {error}. Make the file again.") from error
    if not isinstance(value, dict):
        raise FaceError(
            f"The {what} must be a JSON object. '{path}' holds a {type(value).__name__}. Make the file again."
        )
    return value


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, nested more than 64 deep, or a whole number of more than 64 bits.
    """
    return _parsed(json.loads, text)


def parse_toml(text: str) -> dict:
    """The tables of a TOML text.

    Raises:
        ValueError: no TOML (then a `tomllib.TOMLDecodeError`), nested more than 64 deep, or a whole number of more than
            64 bits.
    """
    return _parsed(tomllib.loads, text)


def _parsed(parse, text):
    try:
        value = parse(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {_MAX_NESTING} deep") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python's limit of 4,300 digits
        raise ValueError(f"a whole number in it has more than {_MAX_BITS} bits") from None
    level: list = [value]
    for _ in range(_MAX_NESTING):
        if not level:
            return value
        below: list = []
        for item in level:
            if isinstance(item, dict | list):
                below += [one for one in (item.values() if isinstance(item, dict) else item) if type(one) not in _PLAIN]
            elif isinstance(item, int) and item.bit_length() > _MAX_BITS:
                raise ValueError(f"a whole number in it has more than {_MAX_BITS} bits")
        level = below
    raise ValueError(f"it is nested more than {_MAX_NESTING} deep")


def map_npy(path: Path, dtype: np.dtype | type, ndim: int, mode: Literal["r", "r+"] = "r") -> np.memmap:
    """Opens a .npy file of a known type as a memory map. Nothing that the header says is evaluated.

    Args:
        path: the file, written by `np.save` or `open_memmap`.
        dtype: what it must hold.
        ndim: number of its axes.
        mode: 'r' to read, 'r+' to write too.

    Raises:
        ValueError: another header, or a size that disagrees with it. Says which.
    """
    dtype = np.dtype(dtype)
    with open(path, "rb") as file:
        head = file.read(len(_NPY_MAGIC) + 2)
        text = file.read(int.from_bytes(head[len(_NPY_MAGIC) :], "little")).decode("latin-1")
        offset, size = file.tell(), os.fstat(file.fileno()).st_size
    begin = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': ("
    found = re.fullmatch(re.escape(begin) + r"([0-9]{1,15}(?:, [0-9]{1,15})*),?\), \} *\n", text)
    if not head.startswith(_NPY_MAGIC) or not found or found[1].count(",") != ndim - 1:
        raise ValueError(f"its header is not that of an array of {dtype} with {ndim} axes")
    shape = tuple(map(int, found[1].split(", ")))
    expected = offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        raise ValueError(f"it has {size} bytes, but its header says {expected}")
    return np.memmap(path, dtype, mode, offset, shape)


def read_text(path: Path, what: str, encoding: str | None = None) -> tuple[str, list[str]]:
    """Reads a text file that people write, or that comes from another system.

    UTF-8 with or without a byte order mark, and UTF-16 with one. What is none of these is read as GBK if it can be,
    else as the Latin letters of Windows, and a note says so.

    Args:
        path: the file.
        what: names it in errors, e.g. 'pair list'.
        encoding: Python's name of it; None finds it as above. Some GBK texts are valid UTF-8 too.

    Returns:
        The text, and notes for the user.

    Raises:
        FaceError: no file, compressed, or bytes that are no text, or not in `encoding`.
    """
    data = require_file(path, what).read_bytes()
    if encoding is not None:
        try:
            return data.decode("utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding), []
        except (LookupError, UnicodeError) as error:
            raise FaceError(
                f"The {what} '{path}' does not have the encoding {encoding} of --encoding ({error}). Use the "
                "right encoding."
            ) from error
    try:
        encoding = encoding_of(data)
    except ValueError as error:
        raise FaceError(f"The {what} must be a text file. '{path}' is not: {error}.") from error
    known = encoding in ("utf-8-sig", "utf-16")
    return data.decode(encoding), [] if known else [f"'{path}' is not UTF-8, so it was read as {encoding}"]


def encoding_of(data: bytes) -> str:
    """The name of an encoding that decodes all of `data`; see `read_text`.

    Raises:
        ValueError: compressed, or no text.
    """
    if data[:2] == b"\x1f\x8b":
        raise ValueError("it is compressed with gzip, unpack it first (gunzip)")
    candidates = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "gb18030", "cp1252")
    for encoding in candidates:
        with suppress(UnicodeDecodeError):
            if "\0" not in data.decode(encoding):
                return encoding
    raise ValueError("some of its bytes are not text, save it as UTF-8")


def require_file(path: Path, what: str) -> Path:
    """Returns `path` if it is a non-empty regular file. `what` names it in errors, e.g. 'frozen graph'."""
    path = Path(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FaceError(f"No {what} at '{path}'. Check the path.") from error
    except (OSError, ValueError) as error:  # a name that no file can have, a link to itself, no permission
        reason = getattr(error, "strerror", None) or error
        raise FaceError(f"The {what} '{path}' cannot be opened: {reason}. Check the path.") from error
    if stat.S_ISDIR(found.st_mode):
        raise FaceError(f"The {what} must be a file. '{path}' is a folder: pass a file in this folder.")
    if not stat.S_ISREG(found.st_mode):
        raise FaceError(f"The {what} must be a regular file, but '{path}' is a pipe or a device. Pass a file.")
    if found.st_size == 0:
        raise FaceError(f"The {what} '{path}' is empty (0 bytes). Make the file again, or copy it again.")
    return path


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, as they are.

    Raises:
        BadRecord: missing, not readable, a pipe or a device (reading it might never end), or above 512 MiB.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise BadRecord(f"it is a {'folder' if stat.S_ISDIR(found.st_mode) else 'pipe or a device'}, not a file")
        if found.st_size > MAX_IMAGE_FILE_BYTES:
            raise BadRecord(
                f"the file has {found.st_size:,} bytes, but an image can have at most {MAX_IMAGE_FILE_BYTES:,}"
            )
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except BadRecord:
        raise
    except (OSError, ValueError) as error:
        raise BadRecord(f"the file cannot be read ({getattr(error, 'strerror', None) or error})") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def target_of(out: Path) -> Path:
    """The folder that `out` names: the target of a link, which stays a link.

    Raises:
        FaceError: it is a link to itself.
    """
    real = Path(os.path.realpath(out))
    if real.is_symlink():
        raise FaceError(f"OUT must be a new folder. '{out}' is a link that leads back to itself: remove this link.")
    return real


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Yields a hidden folder `.NAME.part` beside `out`, empty; renames it to `out` on success, removes it on failure.

    A killed run leaves the hidden folder, and the next run empties it. A lock shows whether another run still writes.

    Raises:
        FaceError: `out` is the current folder or a mount point, has files in it or cannot be made, or
            another run is writing it.
    """
    real = target_of(out)
    if real == Path.cwd() or os.path.ismount(real):
        what = "the current folder" if real == Path.cwd() else "a mount point"
        raise FaceError(f"OUT must be a new folder. '{out}' is {what}: choose a new folder inside this folder.")
    folder = real.with_name(f".{real.name}.part")
    if folder.is_symlink():
        raise FaceError(f"The temporary folder '{folder}' must not be a link. Remove the link.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise FaceError(f"OUT cannot be created: a part of its path '{folder.parent}' is a file.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FaceError(
            f"You have no permission to write into '{folder.parent}' ({error.strerror}). Choose a different folder."
        ) from error
    handle = open_folder(folder, follow=False)
    try:
        if handle is not None and is_held(handle):
            raise FaceError(f"Another conversion is writing '{out}' now. Wait until it ends, or end it.")
        if not folder.exists():  # renamed between our open and our lock
            raise FaceError(f"Another conversion has just written '{out}'. Run the command again.")
        for leftover in folder.iterdir():  # of a killed run
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        try:
            yield folder
            if out.is_dir() and any(out.iterdir()):  # an empty one is replaced
                raise FaceError(f"A different program has created '{out}' in the meantime. Choose a different OUT.")
            os.rename(folder, real)
        finally:
            if folder.exists():
                shutil.rmtree(folder)
    finally:
        if handle is not None:
            os.close(handle)
