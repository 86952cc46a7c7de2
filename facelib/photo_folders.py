"""The one walk over a tree of folders of photos: which folders count, which files are photos, what is left out."""

import os
import unicodedata
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from facelib.errors import FaceError
from facelib.image_decoding import IMAGE_SUFFIXES, OTHER_IMAGES
from facelib.wording import counted, printable

# Folders that file servers, operating systems and photo programs make. Nobody's name, so never a person.
NOT_PEOPLE = frozenset(
    {"@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "@__thumb", "#recycle", "#snapshot", "recycler",
     "$recycle.bin", "system volume information", "lost+found", "__macosx", "thumbnails", "thumbnail", "thumbs",
     "thumb", "_thumbs", "__thumbs__", "__pycache__"}
)  # fmt: skip


class Walked(Protocol):
    """What `folder_notes` reads of a folder; see `PhotoFolder`."""

    @property
    def name(self) -> str: ...
    @property
    def photos(self) -> Sized: ...
    @property
    def num_other(self) -> int: ...
    @property
    def has_folders(self) -> bool: ...
    @property
    def left_out(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class PhotoFolder:
    """One folder of photos.

    Attributes:
        name: its path below the root, with '/'; '' for the root itself.
        photos: file names, sorted by their bytes.
        num_other: files whose suffix is not that of an image.
        has_folders: whether folders lie in it.
        left_out: paths below the root of folders in it that count for nobody: `NOT_PEOPLE`, and links to folders that
            are walked under another name.
    """

    name: str
    photos: Sequence[str]
    num_other: int = 0
    has_folders: bool = False
    left_out: tuple[str, ...] = ()


def find_photos(root: Path, leave_out: Path | None = None) -> Iterator[PhotoFolder]:
    """Yields the folders of a tree: first the tree itself, sorted, then what links in it lead to.

    Hidden files and folders are ignored. A folder is walked once: a link to a folder above, or to one that comes under
    its own name, is left out.

    Args:
        root: the tree.
        leave_out: a folder that is ignored too.

    Raises:
        FaceError: a folder that cannot be read.
    """
    seen = {place for place in (_place(leave_out) if leave_out else None, _place(root)) if place}
    later: list[str] = []
    stack = [""]
    while stack or later:
        is_link = not stack
        name = stack.pop() if stack else later.pop(0)
        if name:
            place = _place(Path(root) / name)
            if place in seen:
                if is_link and place != (leave_out and _place(leave_out)):
                    yield PhotoFolder(name, [], has_folders=True, left_out=(name,))
                continue
            if place:
                seen.add(place)
        folder, folders, links = _read_folder(Path(root), name)
        yield folder
        stack += reversed(folders)
        later += links


def folder_notes(folders: Sequence[Walked]) -> list[str]:
    """What the user should know of a tree: who counts as a person, and what is left out."""
    people = [folder.name for folder in folders if len(folder.photos)]
    nested = [name for name in people if "/" in name]
    left_out = sorted(name for folder in folders for name in folder.left_out)
    empty = sum(not len(folder.photos) and not folder.has_folders for folder in folders)
    notes = []
    if nested:
        notes.append(
            f"each folder with images counts as a separate person, even inside another folder: {len(nested):,} of "
            f"{counted(len(people), 'identity', 'identities')}, such as '{printable(nested[0])}'. If a subfolder "
            "shows the same person as the folder above, move its images up"
        )
    if empty:
        notes.append(f"{counted(empty, 'folder')} without images skipped")
    if other := sum(folder.num_other for folder in folders):
        notes.append(f"{counted(other, 'file that is not an image', 'files that are not images')} skipped")
    if left_out:
        what = counted(len(left_out), "system folder or link to a different folder",
                       "system folders or links to other folders")  # fmt: skip
        notes.append(f"{what} skipped, such as '{printable(left_out[0])}'")
    return notes


def spellings_of(name: str) -> Iterator[str]:
    """The ways in which the files of a listed name may be spelled on this disk, as it stands first.

    A Mac stores letters with accents in two characters (NFD), other systems in one (NFC). Windows writes `\\` for `/`.
    """
    slashes = name.replace("\\", "/")
    forms = (unicodedata.normalize(form, slashes) for form in ("NFC", "NFD"))
    yield from dict.fromkeys((name, slashes, *forms))


def _read_folder(root: Path, name: str) -> tuple[PhotoFolder, list[str], list[str]]:
    """One folder, and the folders and links to folders in it, sorted."""
    photos: list[str] = []
    folders: list[str] = []
    links: list[str] = []
    left_out, num_other = [], 0
    try:
        with os.scandir(root / name) as entries:
            for entry in entries:
                path = f"{name}/{entry.name}" if name else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if entry.name.lower() in NOT_PEOPLE:
                        left_out.append(path)
                    else:
                        (links if entry.is_symlink() else folders).append(path)
                elif _is_photo(entry):
                    photos.append(entry.name)
                else:
                    num_other += 1
    except OSError as error:
        raise FaceError(f"The folder '{root / name}' cannot be read: {error.strerror}.") from error
    has_folders = bool(folders or links or left_out)
    folder = PhotoFolder(name, sorted(photos, key=os.fsencode), num_other, has_folders, tuple(sorted(left_out)))
    return folder, sorted(folders), sorted(links)


def _is_photo(entry: os.DirEntry) -> bool:
    """By the suffix. A broken link counts, so that it is listed; a pipe does not, because reading it never ends."""
    is_image = entry.name.lower().endswith(IMAGE_SUFFIXES + OTHER_IMAGES)
    return is_image and (entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)))


def _place(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
