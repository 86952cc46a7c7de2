"""Verification sets: .bin files, a pair list with its photos, or a folder of identities."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facelib.data.readers.folder_source import FolderSource
from facelib.data.verification.bins import IMAGE_SIZE, find_bins, load_bin
from facelib.data.verification.listed_pairs import find_group_lists, find_shot, read_pairs_txt
from facelib.data.verification.pair_lists import draw_listed
from facelib.errors import BadRecord, FaceError
from facelib.extras import require
from facelib.files import read_image_file, sha256_of
from facelib.image_decoding import IMAGE_SUFFIXES, decode_image

_GREY = 128  # of the bars beside a letterboxed image


@dataclass(frozen=True)
class FaceSet:
    """A verification set in memory: faces with listed pairs (`is_same`) or with identities (`labels`).

    Attributes:
        name: name of the set.
        images: N encoded images, JPEG or PNG. Of listed pairs N = 2P, and pair k is images 2k and 2k + 1.
        names: N names of the images; entry numbers for a .bin.
        where: names the set in errors.
        is_same: bool [P], which pairs are genuine; None for identities.
        labels: int [N], the identity of each image; None for listed pairs.
        identities: N names, who is on each image; None where that is not known.
        digests: SHA-256 of the photos of a pair list, for reports; None for other sets.
        notes: what the user should know of the folders.
        source: the `source` object of a report, with an absolute path.
    """

    name: str
    images: list[bytes]
    names: list[str]
    where: str
    is_same: np.ndarray | None = None
    labels: np.ndarray | None = None
    identities: list[str] | None = None
    digests: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)


def find_sets(
    valid: Path, pairs: Path | int | None = None, *, letterbox: bool = False, encoding: str | None = None
) -> list[Callable[[], FaceSet]]:
    """The verification sets at `valid`, as functions that each read one: one set is in memory at a time.

    Args:
        valid: a .bin, a folder of them, or a folder of identity folders.
        pairs: a list of pairs, `valid` is then the folder of its photos; RFW's folder of lists, `valid` then has a
            folder of photos for each group; or how many pairs of each set.
        letterbox: scale photos of another size to fit and fill the rest with grey, instead of refusing them.
        encoding: of the list of pairs; None finds it.

    Raises:
        FaceError: there is no verification set at `valid`.
    """
    valid = Path(valid)
    if isinstance(pairs, int):
        return [partial(_draw_pairs, load, pairs) for load in find_sets(valid, letterbox=letterbox)]
    if pairs is not None:
        if not valid.is_dir():
            raise FaceError(f"With --pairs, --valid must be the folder of the photos. There is no folder '{valid}'.")
        if Path(pairs).is_dir():
            return [
                partial(_load_listed, valid / group, file, letterbox, encoding, f"rfw_{group}")
                for group, file in find_group_lists(pairs)
            ]
        return [partial(_load_listed, valid, pairs, letterbox, encoding)]
    if valid.is_dir() and not any(valid.glob("*.bin")) and _has_identities(valid):
        return [partial(_load_folder, valid, letterbox)]
    if letterbox:
        raise FaceError(
            f"--letterbox works only with photos, in folders or with --pairs. '{valid}' has .bin files. Leave out "
            "--letterbox."
        )
    return [partial(_load_bin, path) for path in find_bins(valid)]


def named_images(sets: Iterable[Callable[[], FaceSet]]) -> Iterator[tuple[str, list[bytes]]]:
    """Yields (name, encoded images) of each set; one set is in memory at a time."""
    for load in sets:
        faces = load()
        yield faces.name, faces.images


def _load_bin(path: Path) -> FaceSet:
    pairs = load_bin(path)
    names = [str(i) for i in range(len(pairs.images))]
    source = {"path": str(path.resolve()), "sha256": sha256_of(path)}
    return FaceSet(pairs.name, pairs.images, names, str(path), is_same=pairs.is_same, source=source)


def _draw_pairs(load: Callable[[], FaceSet], num_pairs: int) -> FaceSet:
    """The set with `num_pairs` of its pairs, or with all where it has no more."""
    faces = load()
    if faces.is_same is None:
        raise FaceError(f"--pairs N tests N pairs of a .bin. '{faces.where}' is a folder of identities: pass a .bin.")
    if num_pairs >= len(faces.is_same):
        return faces
    picked = draw_listed(faces.is_same, num_pairs)
    ends = np.stack([2 * picked, 2 * picked + 1], axis=1).ravel().tolist()
    return replace(
        faces,
        images=[faces.images[i] for i in ends],
        names=[faces.names[i] for i in ends],
        is_same=faces.is_same[picked],
        identities=faces.identities and [faces.identities[i] for i in ends],
        source={**faces.source, "drawn_from": len(faces.is_same)},
    )


def _load_listed(folder: Path, pairs_txt: Path, letterbox: bool, encoding: str | None, name: str = "") -> FaceSet:
    shots, is_same, notes = read_pairs_txt(pairs_txt, encoding)
    files = {shot: find_shot(folder, shot) for shot in dict.fromkeys(shot for pair in shots for shot in pair)}
    read = {shot: _read(partial(read_image_file, file), file, letterbox) for shot, file in files.items()}
    digests = {shot: sha256_of(file) for shot, file in files.items()}
    flat = [shot for pair in shots for shot in pair]
    return FaceSet(
        name or pairs_txt.stem,
        [read[shot] for shot in flat],
        [files[shot].relative_to(folder).as_posix() for shot in flat],
        str(pairs_txt),
        is_same=is_same,
        identities=[name for name, _ in flat],
        digests=[digests[shot] for shot in flat],
        notes=notes,
        source={"path": str(folder.resolve()), "sha256": sha256_of(pairs_txt)},
    )


def _load_folder(folder: Path, letterbox: bool) -> FaceSet:
    require("faiss")  # identification among the identities
    source = FolderSource(folder)
    images = [_read(partial(source.read, i), source.file_of(i), letterbox) for i in range(len(source))]
    return FaceSet(
        folder.resolve().name,
        images,
        [source.file_of(i).relative_to(folder).as_posix() for i in range(len(source))],
        str(folder),
        labels=source.labels,
        identities=[source.class_names[label] for label in source.labels.tolist()],
        notes=source.notes,
        source={"path": str(folder.resolve()), "sha256": source.fingerprint},
    )


def _has_identities(folder: Path) -> bool:
    return any(
        file.suffix.lower() in IMAGE_SUFFIXES
        for child in folder.iterdir()
        if child.is_dir()
        for file in child.rglob("*")
    )


def _read(read: Callable[[], bytes], file: Path, letterbox: bool) -> bytes:
    try:
        data = read()
    except BadRecord as error:
        raise FaceError(f"The photo '{file}': {error}. Replace or remove this photo.") from error
    return letterboxed(data, str(file)) if letterbox else data


def letterboxed(image: bytes, where: str, size: tuple[int, int] = IMAGE_SIZE) -> bytes:
    """An encoded image fitted into `size` (height, width) without distortion, grey 128 beside it, as a PNG.

    One that has this size already is returned as it is.
    """
    try:
        pixels = decode_image(image)
    except BadRecord as error:
        raise FaceError(f"'{where}': {error}. Replace or remove this image.") from error
    if pixels.shape[:2] == size:
        return image
    scale = min(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    fitted = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    canvas = np.full((*size, 3), _GREY, np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = fitted
    return cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))[1].tobytes()
