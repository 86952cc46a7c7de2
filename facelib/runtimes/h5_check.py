"""An .h5 of a stranger is read once in a process of its own: damaged, it can end HDF5's process or never end."""

import subprocess
import sys
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.sidecar import read_sidecar

MIN_SECONDS, BYTES_PER_SECOND = 20.0, 5e6  # a sound file takes 0.3 s, and 1 s more for each GB

# Reads everything that Keras reads. A Python exception is no matter: the same read here raises it again.
_READ = """
import sys, h5py
def read(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset):
        item[()]
with h5py.File(sys.argv[1]) as file:
    dict(file.attrs)
    file.visititems(read)
"""


def check_h5(path: Path) -> None:
    """Checks that reading an .h5 ends and leaves the process alive. A file that is as its sidecar says is not read.

    Raises:
        FaceError: HDF5 crashes, or does not end in time.
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
    if problem:
        raise FaceError(f"'{path}' is damaged: reading it {problem}. Make or copy it again.")
