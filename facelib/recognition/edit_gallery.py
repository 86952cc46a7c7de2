"""Changes of a gallery that need no new enrolment: people are removed, renamed and added."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.results import format_text_table
from facelib.recognition.gallery import Gallery

ENDING = "Nothing was changed."


def remove_people(gallery: Gallery, names: Sequence[str]) -> Gallery:
    """The gallery without these people.

    Raises:
        FaceError: nobody has one of the names, or nobody would be left.
    """
    for name in names:
        _check_enrolled(gallery, name)
    kept = [row for row, name in enumerate(gallery.names) if name not in set(names)]
    if not kept:
        raise FaceError(
            f"A gallery must have at least one person. --remove lists all {len(gallery)} people of '{gallery.path}'. "
            f"Delete '{gallery.path}' and '{gallery.path.name}.json' instead."
        )
    return _rows(gallery, kept)


def rename_person(gallery: Gallery, old: str, new: str) -> Gallery:
    """The gallery in which the person `old` is called `new`.

    Raises:
        FaceError: nobody is called `old`, or somebody is called `new`.
    """
    _check_enrolled(gallery, old)
    if new in gallery.names:
        raise FaceError(
            f"Each person of a gallery must have a different name. The name '{new}' is already used. {ENDING}"
        )
    return replace(gallery, names=[new if name == old else name for name in gallery.names])


def add_people(gallery: Gallery, more: Gallery) -> Gallery:
    """The gallery with the people of another one that the same model made.

    Raises:
        FaceError: a person of `more` is in the gallery.
    """
    if twice := sorted(set(gallery.names) & set(more.names)):
        raise FaceError(
            f"Each person of a gallery must have a different name. {len(twice)} of the new people are already "
            f"enrolled, the first one is '{twice[0]}'. To enrol a person again, add --remove NAME. {ENDING}"
        )
    return replace(
        gallery,
        vectors=np.concatenate([gallery.vectors, more.vectors.astype(np.float16)]),
        names=gallery.names + more.names,
        num_photos=gallery.num_photos + more.num_photos,
        quality=_joined(gallery.quality, more.quality),
        norms=_joined(gallery.norms, more.norms),
    )


def people_table(gallery: Gallery) -> str:
    """Who is in a gallery, one line each: photos, mean quality of the faces, mean norm of the embeddings."""
    unknown = [None] * len(gallery)
    quality, norms = gallery.quality or unknown, gallery.norms or unknown
    rows = [
        [name, f"{count}", "-" if good is None else f"{good:.2f}", "-" if norm is None else f"{norm:.2f}"]
        for name, count, good, norm in zip(gallery.names, gallery.num_photos, quality, norms, strict=True)
    ]
    return format_text_table([["identity", "photos", "quality", "norm"], *rows], num_left=1)


def _check_enrolled(gallery: Gallery, name: str) -> None:
    if name not in gallery.names:
        raise FaceError(
            f"'{gallery.path}' has no person with the name '{name}'. List the people: python predict.py gallery "
            f"{gallery.path}. {ENDING}"
        )


def _rows(gallery: Gallery, rows: list[int]) -> Gallery:
    """The gallery with these rows alone."""

    def pick(values):
        return None if values is None else [values[row] for row in rows]

    return replace(
        gallery,
        vectors=gallery.vectors[rows],
        names=pick(gallery.names),
        num_photos=pick(gallery.num_photos),
        quality=pick(gallery.quality),
        norms=pick(gallery.norms),
    )


def _joined(first: list[float] | None, second: list[float] | None) -> list[float] | None:
    """Both lists; None if one of them is not known."""
    return None if first is None or second is None else first + second
