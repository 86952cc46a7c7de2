"""A small file system that is as full as asked. It vanishes with the process that mounted it, however that ends."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

SIZE = 64 << 20
_CLONE_NEWNS = 0x00020000  # <linux/sched.h>


@cache
def may_mount() -> bool:
    """Moves this process into a mount namespace of its own, where it may mount what nobody else sees; needs root."""
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mounts 64 MiB of memory on `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def only_free(folder: Path, free: int) -> Iterator[None]:
    """Leaves `free` bytes of the disk of `folder`, by a file beside what is there."""
    ballast = folder / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free_bytes(folder) - free, 1))
    try:
        yield
    finally:
        ballast.unlink()


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
