"""Locks of files and folders between processes.

The kernel releases a lock when its process ends in any way, kill -9 too.
"""

import errno
import os
from pathlib import Path


def lock(descriptor: int, wait: bool) -> bool:
    """Locks an open file or folder until its descriptor is closed.

    It is `flock` of Linux and macOS. On NFS it holds between hosts too, for a file that was opened for writing.

    Args:
        descriptor: of the open file or folder.
        wait: whether to wait until no other process holds it.

    Returns:
        Whether this process has the lock now; always with `wait`.

    Raises:
        OSError: the file system or the system has no such locks. Those of Windows would keep the other descriptors of
            this process from the file.
    """
    if os.name == "nt":
        raise OSError(errno.ENOSYS, "no locks that others can read through")
    from filelock import lock_descriptor  # here: it takes a fifth of the time of --help

    return lock_descriptor(descriptor, blocking=wait)


def is_held(descriptor: int) -> bool:
    """Whether another process holds the lock. If not, this one has it then, where there are locks at all."""
    try:
        return not lock(descriptor, wait=False)
    except OSError:
        return False


def open_folder(folder: Path, follow: bool = True) -> int | None:
    """A descriptor of a folder, to lock it; None on a system that opens only files.

    Args:
        folder: must exist.
        follow: whether it may be a link.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return None
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW))
