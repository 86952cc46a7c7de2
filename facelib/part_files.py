"""Hidden files of atomic writes, `.NAME.<hex digits>.part`: locked while they are written, else removed.

A killed writer leaves its file. The next writer of the same NAME removes it: nobody holds its lock. A file that another
process is writing is locked and stays.
"""

import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from facelib.locks import lock

_PART = re.compile(r"\.(.+)\.[0-9a-f]{1,16}\.part", re.DOTALL)


def part_beside(path: Path) -> Path:
    """A new name of a hidden file beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")  # containers share process numbers


def hold_part(part: Path) -> int | None:
    """Makes the hidden file and locks it. Returns its descriptor, whose closing unlocks it; None without locks."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock(handle, wait=True)
        except OSError:  # then nobody removes it either
            os.close(handle)
            return None
        with suppress(FileNotFoundError):  # another process removed it before it was locked
            if os.path.samestat(os.stat(part), os.fstat(handle)):
                return handle
        os.close(handle)


def sweep_parts(folder: Path, name: str | None = None, listed: Iterable[str] | None = None) -> None:
    """Removes the hidden files of killed writers.

    Args:
        folder: where they are.
        name: of the file that was to be written; None for any.
        listed: names of the files in the folder, when they are known.
    """
    if listed is None:
        try:
            listed = os.listdir(folder)
        except OSError:  # a folder that may be written and not read
            return
    for found in listed:
        if found.endswith(".part") and (match := _PART.fullmatch(found)) and name in (None, match[1]):
            with suppress(OSError):
                _remove_unless_held(os.path.join(folder, found))


def _remove_unless_held(part: str) -> None:
    handle = os.open(part, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        if lock(handle, wait=False):
            os.unlink(part)
    finally:
        os.close(handle)
