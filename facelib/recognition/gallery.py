"""Galleries of enrolled identities: one unit vector each.

    GALLERY          .npy, float16 [N, D], rows of unit length: opens as a memory map, 256 bytes an identity at D = 128
    GALLERY.json     names; photos, quality of the faces and norm of the embeddings, per identity; path and SHA-256 of
                     the model, how it is fed, the threshold, SHA-256 of GALLERY
    GALLERY.json.new what a writer leaves that was killed between the two. Whoever opens the gallery next moves it into
                     place if it describes GALLERY. So a killed writer leaves the old gallery or the new one

float16 changes a squared distance by about 3e-5 (D = 128) and by at most 2**-10; thresholds have intervals of 0.1.
`facelib.evaluation.nearest` searches a gallery.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.thresholds import sets_of
from facelib.files import atomic_path, map_npy, read_json, require_file, sha256_of, write_json
from facelib.model_input import Io
from facelib.recognition.decision import Decision
from facelib.sidecar import git_commit, package_versions, read_sidecar, sidecar_path

KIND, FORMAT_VERSION = "gallery", 1


@dataclass(frozen=True)
class Gallery:
    """An open gallery.

    Attributes:
        path: the .npy file.
        vectors: float16 [N, D], rows of unit length, a read-only memory map.
        names: N texts, the identities in the order of the rows.
        num_photos: N ints, how many photos each row is the mean of.
        model: the model that enrolled the gallery.
        model_sha256: its SHA-256.
        io: how the model is fed.
        flip: whether the embeddings of mirrored faces were added.
        decision: the threshold at enrolment; None when the model had none.
        quality: N numbers 0 to 1, the mean quality of each person's faces; None where it was not measured.
        norms: N numbers, the mean norm of each person's embeddings before they were normalised; None as above.
    """

    path: Path
    vectors: np.ndarray
    names: list[str]
    num_photos: list[int]
    model: Path
    model_sha256: str
    io: Io
    flip: bool
    decision: Decision | None
    quality: list[float] | None = None
    norms: list[float] | None = None

    def __len__(self) -> int:
        return len(self.names)


def check_gallery_path(path: Path) -> None:
    """Raises FaceError when `path` holds something that is not a gallery: enrolling would overwrite it."""
    if path.is_dir():
        raise FaceError(
            f"GALLERY must be a file. '{path}' is a folder: choose a file in this folder, such as '{path}/people.npy'."
        )
    if path.exists() and not _is_gallery_json(sidecar_path(path)) and not _is_unfinished(path):
        raise FaceError(f"'{path}' exists and is not a gallery, so it is not overwritten. Choose a different name.")


def check_names(names: Sequence[str]) -> None:
    """Raises FaceError unless every name is one line of Unicode text."""
    for name in names:
        if not name.isprintable():  # lone surrogates, which stand for broken UTF-8, are not
            raise FaceError(f"The name of an identity must be printable text. Received: {name!r}. Rename the folder.")


def write_gallery(
    path: Path,
    vectors: np.ndarray,
    names: list[str],
    num_photos: list[int],
    *,
    model: Path,
    io: Io,
    flip: bool,
    decision: Decision | None,
    quality: list[float] | None = None,
    norms: list[float] | None = None,
) -> None:
    """Writes GALLERY and GALLERY.json, each atomically.

    Args:
        path: GALLERY.
        vectors: float [N, D], rows of unit length.
        names: N identities.
        num_photos: N counts, the photos of each identity.
        model: the model that embedded the photos.
        io: how it is fed.
        flip: whether the embeddings of mirrored faces were added.
        decision: the threshold; None when the model has none.
        quality: N numbers 0 to 1, the mean quality of each person's faces.
        norms: N numbers, the mean norm of each person's embeddings before they were normalised.

    Raises:
        FaceError: a name that is not printable text.
    """
    save_gallery(Gallery(path, vectors, names, num_photos, model, sha256_of(model), io, flip, decision, quality, norms))


def save_gallery(gallery: Gallery) -> None:
    """Writes both files of a gallery. A kill at any moment leaves the gallery that was there, or the new one.

    Raises:
        FaceError: a name that is not printable text.
    """
    check_names(gallery.names)
    path = gallery.path
    value = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "sha256": "",
        "model": {
            "path": Path(os.path.relpath(gallery.model.resolve(), path.resolve().parent)).as_posix(),
            "sha256": gallery.model_sha256,
            "io": gallery.io.as_dict(),
        },
        "flip": gallery.flip,
        "decision": gallery.decision.as_dict() if gallery.decision else None,
        "made_by": {"git_commit": git_commit(), "versions": package_versions()},
        "num_photos": gallery.num_photos,
        "quality": gallery.quality,
        "norms": gallery.norms,
        "names": gallery.names,
    }
    with atomic_path(path) as part:
        with open(part, "wb") as file:
            np.save(file, np.ascontiguousarray(gallery.vectors, np.float16))
        write_json(_new_json(path), {**value, "sha256": sha256_of(part)})
    with suppress(FileNotFoundError):  # who opened the gallery just now has moved it
        os.replace(_new_json(path), sidecar_path(path))


def _new_json(path: Path) -> Path:
    json_path = sidecar_path(path)
    return json_path.with_name(f"{json_path.name}.new")


def _finish_save(path: Path) -> None:
    """Moves the description that a killed writer left into place, if GALLERY is the file that it describes."""
    left = _new_json(path)
    if left.is_file() and read_json(left, "gallery's description").get("sha256") == sha256_of(path):
        os.replace(left, sidecar_path(path))


def open_gallery(path: Path) -> Gallery:
    """Opens and verifies a gallery.

    Raises:
        FaceError: missing, cut short, changed, or not what `write_gallery` wrote.
    """
    path = require_file(path, "gallery")
    _finish_save(path)
    json_path = sidecar_path(path)
    again = "Enrol again: python predict.py enroll FOLDERS GALLERY --model X"
    if not json_path.is_file():
        raise FaceError(f"'{path}' is not a gallery: the file '{json_path.name}' is missing. Copy both files. {again}")
    value = read_json(json_path, "gallery's description")
    if value.get("kind") != KIND or value.get("format_version") != FORMAT_VERSION:
        raise FaceError(f"'{path}' is not a gallery of version {FORMAT_VERSION}, as '{json_path.name}' shows. {again}")
    if sha256_of(path) != value.get("sha256"):
        raise FaceError(f"'{path}' was changed or cut short after the gallery was written (SHA-256 disagrees). {again}")
    try:
        vectors = map_npy(path, np.float16, 2)
        names, num_photos, model = list(value["names"]), list(value["num_photos"]), value["model"]
        if not len(vectors) == len(names) == len(num_photos):
            raise ValueError(f"{len(names)} names and {len(num_photos)} counts for {list(vectors.shape)} values")
        if not len(vectors):
            raise ValueError("it is empty")
        if not all(type(name) is str for name in names) or not all(type(count) is int for count in num_photos):
            raise ValueError("names must be text, and num_photos whole numbers")
        return Gallery(
            path, vectors, names, num_photos,
            model=path.parent / model["path"],
            model_sha256=str(model["sha256"]),
            io=Io.from_dict(model["io"], str(json_path)),
            flip=bool(value["flip"]),
            decision=Decision.from_dict(value["decision"]) if value["decision"] else None,
            quality=_numbers(value, "quality", len(names)),
            norms=_numbers(value, "norms", len(names)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, EOFError) as error:
        raise FaceError(f"The gallery '{path}' is damaged ({' '.join(str(error).split())}). {again}") from error


def _numbers(value: dict, key: str, count: int) -> list[float] | None:
    """A number for each identity; None where an older gallery has none."""
    numbers = value.get(key)
    if numbers is None:
        return None
    if len(numbers) != count or not all(type(number) in (int, float) for number in numbers):
        raise ValueError(f"{key} must be {count} numbers")
    return list(numbers)


def check_gallery_model(gallery: Gallery, model: Path | None) -> tuple[Path, str | None]:
    """(the model to search with, the SHA-256 of the one that enrolled the gallery if it is another one, else None).

    Args:
        gallery: to search.
        model: named by the user; None for the one that the gallery names.

    Raises:
        FaceError: the model is missing, or is another one and its sidecar has no thresholds for the two together.
    """
    chosen = model or gallery.model
    if model is None and not os.path.isfile(chosen):
        raise FaceError(
            f"'{gallery.path}' was made with '{chosen}', but this file does not exist. Pass the model: --model X"
        )
    if sha256_of(require_file(chosen, "model")) == gallery.model_sha256:
        return chosen, None
    if not sets_of(read_sidecar(chosen), gallery.model_sha256):
        raise FaceError(
            f"A gallery must be searched with the model that made it. '{gallery.path}' was made with "
            f"'{gallery.model.name}' (SHA-256 {gallery.model_sha256[:12]}), '{chosen}' is a different model. Pass "
            f"'{gallery.model.name}' with --model, or enrol again: python predict.py enroll FOLDERS {gallery.path} "
            f"--model {chosen}. Or calibrate both models together: run the test script of '{chosen}' with "
            f"--gallery-model {gallery.model.name}"
        )
    return chosen, gallery.model_sha256


def _is_gallery_json(path: Path) -> bool:
    return path.is_file() and read_json(path, "gallery's description").get("kind") == KIND


def _is_unfinished(path: Path) -> bool:
    """Whether `path` is what a killed `enroll` leaves: the vectors of a gallery, without a description."""
    if sidecar_path(path).exists():
        return False
    try:
        vectors = map_npy(path, np.float16, 2)
    except (OSError, ValueError):
        return False
    lengths = np.linalg.norm(vectors[:1000].astype(np.float32), axis=1)
    return bool(len(vectors)) and bool(np.allclose(lengths, 1.0, atol=2e-3))
