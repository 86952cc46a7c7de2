"""Looks for what an .h5 of a stranger may do beyond holding a model: name other files, or arrays without an end.

    python h5_scan.py FILE      reads all that Keras reads; the exit code is one of `EXIT_CODES`, 0 for a sound file

It imports nothing of the project, so that it starts in a process of its own at once.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import h5py

EXIT_CODES = {"names other files to read": 71, "says that it has an array far larger than itself": 72}
_LINKS, _HUGE = EXIT_CODES
MAX_RATIO = 8  # of all arrays to the file: Keras does not compress, and zeros of an optimizer are a part at most
_SMALL = 2**26  # bytes of all arrays that any file may have
_ROOM = 2**32  # bytes that the process may take beside twice the file


def find_harm(file: h5py.File) -> str | None:
    """What is wrong with an .h5, a key of `EXIT_CODES`; None if nothing is. No array is read."""
    allowed, total = max(_SMALL, MAX_RATIO * file.id.get_filesize()), 0
    for item in _items(file):
        if not isinstance(item, h5py.Dataset):
            for key in item:
                if isinstance(item.get(key, getlink=True), h5py.ExternalLink):
                    return _LINKS
            continue
        if item.external or item.is_virtual:
            return _LINKS
        total += item.nbytes
        if total > allowed or (item.nbytes > 2**20 and not item.id.get_storage_size()):
            return _HUGE
    return None


def _items(file: h5py.File) -> Iterator[h5py.Group | h5py.Dataset]:
    """The groups and arrays in a file, each once. No link is followed out of the file."""
    yield file
    names: list[str] = []
    file.visit(names.append)
    for name in names:
        yield file[name]


def main(path: str) -> int:
    """Reads a file whole. A Python exception is no matter: the same read in the project raises it again."""
    limit = _ROOM + 2 * os.path.getsize(path)
    with suppress(ModuleNotFoundError):  # Windows sets no limit
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        with h5py.File(path) as file:
            harm = find_harm(file)
            if harm is not None:
                return EXIT_CODES[harm]
            for item in _items(file):
                dict(item.attrs)
                if isinstance(item, h5py.Dataset):
                    item[()]
    except (MemoryError, OSError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error):  # HDF5's word for texts that do not fit
            return EXIT_CODES[_HUGE]
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
