"""Writes face data as identity folders of image files again."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from facelib.data.data_dir import MAX_NAME_BYTES
from facelib.data.readers.sources import Source
from facelib.errors import BadRecord, FaceError, short_repr
from facelib.files import working_folder, write_json


def export_folders(source: Source, out: Path, progress: bool = True, files: Mapping[str, object] | None = None) -> int:
    """Writes `out/<class name>/<record>.jpg` or `.png`, with the bytes as they are, completely or not at all.

    If all class names are numbers, they are padded with zeros, so that the folders sort as the labels do.

    Args:
        source: labelled faces.
        out: the folder to make.
        progress: show a progress bar.
        files: name -> JSON value, written into `out` beside the folders.

    Returns:
        The number of images.

    Raises:
        FaceError: a record that cannot be read, or class names that cannot be folder names.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FaceError(f"FOLDERS must be a new folder. '{out}' already exists: choose a different name.")
    folders = folder_names(source.class_names)
    labels = source.labels.tolist()
    with working_folder(out) as root:
        for name, value in (files or {}).items():
            write_json(root / name, value)
        for label in sorted(set(labels)):
            (root / folders[label]).mkdir(parents=True, exist_ok=True)
        for i in tqdm(
            range(len(source)), unit=" images", desc="export", disable=None if progress else True, leave=False
        ):
            try:
                image = source.read(i)
            except BadRecord as error:
                raise FaceError(f"{source.describe(i)}: {error} ('{source.path}').") from error
            suffix = "jpg" if image[:2] == b"\xff\xd8" else "png"
            (root / folders[labels[i]] / f"{i:08d}.{suffix}").write_bytes(image)
    return len(source)


def folder_names(class_names: Sequence[str]) -> Sequence[str]:
    """A safe relative folder for each class name, all different."""
    for name in class_names:
        if max(map(len, map(os.fsencode, name.split("/")))) > MAX_NAME_BYTES:
            raise FaceError(
                f"A folder name can have at most {MAX_NAME_BYTES} bytes. The name of class {short_repr(name)} is "
                "longer. Rename the class."
            )
    if all(name.isascii() and name.isdigit() for name in class_names):
        width = max(map(len, class_names), default=0)
        padded = [name.zfill(width) for name in class_names]
        return padded if len(set(padded)) == len(padded) else class_names
    for name in class_names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\0" in name or ".." in parts or any(p.startswith(".") for p in parts):
            raise FaceError(
                f"Each class name must be a valid folder name that does not begin with a dot. Received: {name!r}."
            )
    return class_names
