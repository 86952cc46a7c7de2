"""Faces as single files: an identity-folder tree, or a list of `id;path` lines."""

import hashlib
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from facelib.data.record_reader import Names
from facelib.errors import BadRecord, FaceError
from facelib.files import require_file
from facelib.image_decoding import IMAGE_SUFFIXES
from facelib.photo_folders import find_photos, folder_notes
from facelib.wording import counted, printable


def _read_image_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise BadRecord(f"the file cannot be read ({getattr(error, 'strerror', None) or error})") from error


class FolderSource:
    """A tree of folders: every folder with images is an identity, and its path below the root is the class name.

    Class names and file names are sorted. `facelib.photo_folders` says what is ignored, and `notes` what was.

    Args:
        path: the root.
    """

    kind = "identity folders"

    def __init__(self, path: Path):
        self.path = path
        self.bad: list[str] = []
        self.image_size: tuple[int, int] | None = None
        folders = sorted(_read_folders(path), key=lambda folder: folder.name)
        self._notes = folder_notes(folders)
        self._folders = [folder for folder in folders if len(folder.photos)]
        if not self._folders:
            raise FaceError(
                f"No images ({', '.join(IMAGE_SUFFIXES)}) in folders below '{path}', nor a train.rec, TFRecords or a "
                "data directory. Face data are one folder per identity, with images in it."
            )
        if not self._folders[0].name:
            raise FaceError(
                f"Each identity has its own folder. '{path}' has images outside of them, such as "
                f"'{self._folders[0].photos[0]}'. Move them into identity folders."
            )
        for folder in self._folders:
            try:
                folder.name.encode()
            except UnicodeEncodeError as error:
                raw = os.fsencode(folder.name)
                raise FaceError(
                    f"Names of identities are UTF-8. Received: folder {raw!r} in '{path}'. Rename it."
                ) from error
        self.class_names = [folder.name for folder in self._folders]
        counts = [len(folder.photos) for folder in self._folders]
        self._starts = np.cumsum([0, *counts])
        self.labels = np.repeat(np.arange(len(counts)), counts)
        digest = hashlib.sha256(b"folders")
        for folder in self._folders:
            digest.update(os.fsencode(folder.name) + b"\0" + folder.digest)
        self.fingerprint = digest.hexdigest()
        self._hashes = np.zeros(len(self.labels), np.int64)  # of the images that were read; 0 for the others

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def notes(self) -> list[str]:
        """Lines that the user should see. Once images were read: also which of them several people share."""
        read = np.flatnonzero(self._hashes)
        order = read[np.argsort(self._hashes[read], kind="stable")]
        same = np.diff(self._hashes[order]) == 0
        shared = np.flatnonzero(same & (np.diff(self.labels[order]) != 0))
        if not len(shared):
            return list(self._notes)
        different = len(np.unique(self._hashes[order[shared]]))
        first, second = (self.file_of(int(order[k])).relative_to(self.path) for k in (shared[0], shared[0] + 1))
        return [
            *self._notes,
            f"{counted(different, 'image')} in the folders of several people, such as '{printable(str(first))}' and "
            f"'{printable(str(second))}'",
        ]

    def file_of(self, i: int) -> Path:
        """The image file of record `i`."""
        label = int(self.labels[i])
        return self.path / self.class_names[label] / self._folders[label].photos[i - int(self._starts[label])]

    def read(self, i: int) -> bytes:
        image = _read_image_file(self.file_of(i))
        self._hashes[i] = hash(image)
        return image

    def describe(self, i: int) -> str:
        return f"'{self.file_of(i)}'"


@dataclass(frozen=True)
class _Folder:
    name: str  # below the root, "" for the root itself
    photos: Names  # sorted
    digest: bytes  # of the image names and sizes
    num_other: int
    has_folders: bool
    left_out: tuple[str, ...]


def _read_folders(root: Path) -> Iterator[_Folder]:
    for folder in find_photos(root):
        place = root / folder.name
        images = [(os.fsencode(photo), _size(place / photo)) for photo in folder.photos]
        digest = hashlib.sha256(repr(images).encode()).digest()
        names = Names(image for image, _ in images)
        yield _Folder(folder.name, names, digest, folder.num_other, folder.has_folders, folder.left_out)


def _size(photo: Path) -> int:
    try:
        return os.stat(photo).st_size
    except OSError:  # a broken link has none
        return 0


class ListSource:
    """A text file of lines `id;path`, such as cls_train.txt. Relative paths start from the folder of the list.

    Args:
        path: the text file.
    """

    kind = "list"

    def __init__(self, path: Path):
        self.path = path
        self.notes: list[str] = []
        self.bad: list[str] = []
        self.image_size: tuple[int, int] | None = None
        ids, self._names = array("q"), Names()
        with open(require_file(path, "list of faces"), "rb") as lines:
            for number, line in enumerate(lines, 1):
                line = line.strip()
                if not line:
                    continue
                label, _, name = line.partition(b";")
                name = name.strip()
                if not label.strip().isdigit() or not name or len(label) > 18:
                    raise FaceError(
                        f"A list of faces has lines 'id;path', the id a whole number from 0. "
                        f"'{path}' line {number}: {line[:80].decode(errors='replace')!r}. Mend the line."
                    )
                ids.append(int(label))
                self._names.append(name)
        if not ids:
            raise FaceError(f"The list '{path}' has no lines 'id;path'. Make it again.")
        values, self.labels = np.unique(np.frombuffer(ids, np.int64), return_inverse=True)
        self.class_names = [str(value) for value in values.tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"list" + self.path.read_bytes()).hexdigest()

    def file_of(self, i: int) -> Path:
        """The image file of line `i`."""
        return self.path.parent / self._names[i]

    def read(self, i: int) -> bytes:
        return _read_image_file(self.file_of(i))

    def describe(self, i: int) -> str:
        return f"'{self.file_of(i)}'"
