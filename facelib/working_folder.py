"""A folder that is whole or absent: filled under a hidden name beside its place, then renamed."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facelib.errors import FaceError


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Yields a hidden folder `.NAME.part` beside `out`, empty; renames it to `out` on success, removes it on failure.

    A killed run leaves the hidden folder, and the next run empties it: a lock tells it from one that is still at work.

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
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            yield folder
            if out.is_dir() and any(out.iterdir()):  # an empty one is replaced
                raise FaceError(f"'{out}' appeared while it was being made. Choose another OUT.")
            os.rename(folder, out)
        finally:
            if folder.exists():
                shutil.rmtree(folder)
    finally:
        os.close(handle)
