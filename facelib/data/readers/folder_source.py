"""Faces as single files: an identity-folder tree, or a list of `id;path` lines."""

import codecs
import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from facelib.data.record_reader import Names
from facelib.errors import BadRecord, FaceError
from facelib.files import encoding_of, read_image_file, read_text, require_file
from facelib.image_decoding import IMAGE_SUFFIXES
from facelib.photo_folders import find_photos, folder_notes, spellings_of
from facelib.wording import counted, printable


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
                f"'{path}' has no folders with images ({', '.join(IMAGE_SUFFIXES)}), and no train.rec, TFRecords or "
                "data directory. Face data must be one folder of images for each identity."
            )
        if not self._folders[0].name:
            raise FaceError(
                f"Each identity must have its own folder. '{path}' has images that are in no identity folder, such as "
                f"'{self._folders[0].photos[0]}'. Move them into identity folders."
            )
        for folder in self._folders:
            try:
                folder.name.encode()
            except UnicodeEncodeError as error:
                raw = os.fsencode(folder.name)
                raise FaceError(
                    f"The folder names of identities must be UTF-8. Received: folder {raw!r} in '{path}'. Rename "
                    "this folder."
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
        image = read_image_file(self.file_of(i))
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


def _id_and_path(line: bytes) -> tuple[bytes, bytes]:
    """(id, path) of a line of a list, in any of the forms of `ListSource`; (b"", b"") for another."""
    if b";" in line:
        label, _, name = line.partition(b";")
        return label.strip(), name.strip()
    cells = [cell.strip() for cell in line.split(b"\t" if b"\t" in line else b",")]
    if len(cells) == 3 and cells[2].isdigit() and not _is_number(cells[1]):
        return cells[2], cells[1]
    if len(cells) == 3 and _is_number(cells[1]):
        return cells[1].partition(b".")[0], cells[2]
    return (cells[1], cells[0]) if len(cells) == 2 else (b"", b"")


def _is_number(cell: bytes) -> bool:
    """Whether it is a whole number, as im2rec writes it: 3.000000."""
    whole, _, rest = cell.partition(b".")
    return whole.isdigit() and not rest.strip(b"0")


class _Decoder:
    """Turns the lines of a list into UTF-8. Lines that are UTF-8, or name a file by their bytes, stay as they are.

    Args:
        path: the list.
        encoding: of the list; None finds it.

    Attributes:
        notes: says another encoding.
    """

    def __init__(self, path: Path, encoding: str | None):
        self.path, self.encoding = path, encoding
        self.notes: list[str] = []

    def __call__(self, lines: BinaryIO) -> Iterable[bytes]:
        if self.encoding:
            return (line.encode() for line in read_text(self.path, "list of faces", self.encoding)[0].splitlines())
        start = lines.read(3)
        lines.seek(3 if start == codecs.BOM_UTF8 else 0)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"\x1f\x8b"):
            return (line.encode() for line in read_text(self.path, "list of faces")[0].splitlines())
        return map(self._line, lines)

    def _line(self, line: bytes) -> bytes:
        if line.isascii():
            return line
        try:
            line.decode()
            return line
        except UnicodeDecodeError:
            if os.path.exists(self.path.parent / os.fsdecode(_id_and_path(line.strip())[1])):  # False for any nonsense
                return line
            if not self.notes:
                self.notes = read_text(self.path, "list of faces")[1]
            return line.decode(encoding_of(line)).encode()


class ListSource:
    """A text file with an id and a path in each line. Relative paths start from the folder of the list.

    The lines are `id;path` as in cls_train.txt, `number TAB id TAB path` as in the .lst of im2rec, `1 TAB path TAB id`
    as in that of face2rec2, or `path,id` below a line `path,label`.

    Args:
        path: the text file.
        encoding: of the list, as Python names it; None finds it.
    """

    kind = "list"

    def __init__(self, path: Path, encoding: str | None = None):
        self.path, self.encoding = path, encoding
        self.notes: list[str] = []
        self.bad: list[str] = []
        self.image_size: tuple[int, int] | None = None
        ids, self._names = array("q"), Names()
        decode = _Decoder(path, encoding)
        with open(require_file(path, "list of faces"), "rb") as lines:
            for number, line in enumerate(decode(lines), 1):
                line = line.strip()
                if not line or (number == 1 and line.lower() in (b"path,label", b"path,id")):
                    continue
                label, name = _id_and_path(line)
                if not label.isdigit() or not name or len(label) > 18:
                    raise FaceError(
                        "Each line of a face list must be 'id;path', where id is a whole number, 0 or greater. "
                        f"'{path}' line {number}: {line[:80].decode(errors='replace')!r}. Correct the line."
                    )
                ids.append(int(label))
                self._names.append(name)
        self.notes += decode.notes
        if not ids:
            raise FaceError(
                f"A face list must have at least one line 'id;path'. '{path}' has none. Make the list again."
            )
        values, self.labels = np.unique(np.frombuffer(ids, np.int64), return_inverse=True)
        self.class_names = [str(value) for value in values.tolist()]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        head = f"list {self.encoding}\n".encode() if self.encoding else b"list"
        return hashlib.sha256(head + self.path.read_bytes()).hexdigest()

    def file_of(self, i: int) -> Path:
        """The image file of line `i`."""
        return self.path.parent / self._names[i]

    def read(self, i: int) -> bytes:
        path = self.file_of(i)
        if not os.path.exists(path):
            name = self._names[i]
            if re.match(r"[A-Za-z]:[\\/]", name):
                raise BadRecord("its path is a Windows path: write the path relative to the folder of the list")
            found = (self.path.parent / spelling for spelling in spellings_of(name))
            path = next((file for file in found if os.path.exists(file)), path)
        return read_image_file(path)

    def describe(self, i: int) -> str:
        return f"'{self.file_of(i)}'"
