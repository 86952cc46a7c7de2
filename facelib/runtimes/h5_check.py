"""An .h5 of a stranger is read once in a process of its own: damaged, it can end HDF5's process or never end."""

import subprocess
import sys
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.sidecar import read_sidecar

MIN_SECONDS, BYTES_PER_SECOND = 20.0, 5e6  # a sound file takes 0.3 s, and 1 s more for each GB

_LINKS, _HUGE = 71, 72  # exit codes of the process that reads
MAX_BYTES = 2**32  # of one array; the largest of a face net has 2 GB
# Reads everything that Keras reads, and nothing outside of the file. A Python exception is no matter: the same read
# here raises it again.
_READ = f"""
import os, sys, h5py
def read(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        if item.external or item.is_virtual:
            os._exit({_LINKS})
        if item.nbytes > {MAX_BYTES} or (item.nbytes > 2**20 and not item.id.get_storage_size()):
            os._exit({_HUGE})
        item[()]
    else:
        for key in item:
            if isinstance(item.get(key, getlink=True), h5py.ExternalLink):
                os._exit({_LINKS})
with h5py.File(sys.argv[1]) as file:
    read("", file)
    file.visititems(read)
"""


def check_h5(path: Path) -> None:
    """Checks that reading an .h5 ends and leaves the process alive. A file that is as its sidecar says is not read.

    Raises:
        FaceError: HDF5 crashes, or does not end in time; the file names other files, or an array that has no end.
    """
    sidecar = read_sidecar(path)
    if sidecar is not None and sidecar.sha256 == sha256_of(path):
        return
    seconds = MIN_SECONDS + path.stat().st_size / BYTES_PER_SECOND
    command = [sys.executable, "-I", "-c", _READ, str(path.resolve())]
    try:
        code = subprocess.run(
            command, timeout=seconds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        problem = f"ends its process with signal {-code}" if code < 0 else None
    except subprocess.TimeoutExpired:
        problem = f"does not end in {seconds:.0f} s"
    if problem is None and code in (_LINKS, _HUGE):
        what = "names other files to read" if code == _LINKS else "says that it has an array far larger than itself"
        raise FaceError(f"'{path}' {what}: it is damaged or made to do harm. It was not read. Get it from its maker.")
    if problem:
        raise FaceError(f"'{path}' is damaged: reading it {problem}. Make or copy it again.")
