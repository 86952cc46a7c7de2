"""An .h5 of a stranger is read once in a process of its own: damaged, it can end HDF5's process or never end."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from facelib.errors import FaceError
from facelib.files import sha256_of
from facelib.sidecar import read_sidecar

MIN_SECONDS, BYTES_PER_SECOND = 20.0, 5e6  # a sound file takes 0.3 s, and 1 s more for each GB


def check_h5(path: Path) -> None:
    """Checks that reading an .h5 ends, leaves the process alive and reaches nothing outside of the file.

    A file that is as its sidecar says is not read, but what it names is looked at all the same.

    Raises:
        FaceError: HDF5 crashes, or does not end in time; the file names other files, or an array that has no end.
    """
    import h5py

    from facelib.runtimes import h5_scan

    if is_vouched(path):
        with suppress(OSError), h5py.File(path) as file:  # no HDF5 file is left to the reader
            _refuse(path, h5_scan.find_harm(file))
        return
    seconds = MIN_SECONDS + path.stat().st_size / BYTES_PER_SECOND
    command = [sys.executable, "-I", h5_scan.__file__, str(path.resolve())]
    try:
        code = subprocess.run(
            command, timeout=seconds, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode
        problem = f"ends the process with signal {-code}" if code < 0 else None
    except subprocess.TimeoutExpired:
        code, problem = 0, f"takes more than {seconds:.0f} s"
    _refuse(path, {number: harm for harm, number in h5_scan.EXIT_CODES.items()}.get(code))
    if problem:
        raise FaceError(f"'{path}' is damaged: reading this file {problem}. Make the file again, or copy it again.")


def is_vouched(path: Path) -> bool:
    """Whether a file is the one that its sidecar describes: most likely it was written here."""
    sidecar = read_sidecar(path)
    return sidecar is not None and sidecar.sha256 == sha256_of(path)


def _refuse(path: Path, harm: str | None) -> None:
    if harm is not None:
        raise FaceError(
            f"'{path}' {harm}: the file is damaged or was made to do harm. It was not read. Get the file again "
            "from its author."
        )
