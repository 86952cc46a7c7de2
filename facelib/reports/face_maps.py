"""The maps of a page: faces on a plane, coloured by identity and by error, as SVG with small pictures of some."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from facelib.evaluation.face_map import CONFUSED, FALSE_ACCEPT, FALSE_REJECT, RIGHT, FaceMap
from facelib.evaluation.projector import read_map
from facelib.reports.artefact_table import ResultGroup

WIDTH = 1000  # of the picture, in its units
PICTURE = 54  # side of a small picture
_ROOM = 60  # between the middles of two small pictures
_MARGIN = 40
_JPEG_QUALITY = 80
_GOLDEN_ANGLE = 137.508  # degrees: neighbouring numbers get hues far apart
_KINDS = {RIGHT: "right", CONFUSED: "accept", FALSE_ACCEPT: "accept", FALSE_REJECT: "reject"}
_MEANINGS = {
    CONFUSED: "orange: faces whose nearest other face is of another identity",
    FALSE_ACCEPT: "orange: faces in a pair of different people that is accepted",
    FALSE_REJECT: "blue and square: faces in a pair of the same person that is rejected",
}


@dataclass(frozen=True)
class Mark:
    """A face on the map.

    Attributes:
        x: to the right, in units.
        y: downwards, in units.
        kind: 'identity' with a hue, else 'right', 'accept' or 'reject'.
        title: what the browser shows when the pointer is on it.
        hue: degrees, for the kind 'identity'.
        jpeg: the small picture; None for a dot.
    """

    x: float
    y: float
    kind: str
    title: str
    hue: int = 0
    jpeg: bytes | None = None


@dataclass(frozen=True)
class MapPicture:
    """A map as it is drawn.

    Attributes:
        alt: alternative text.
        caption: text below.
        marks: the faces; later ones cover earlier ones.
        lines: (x, y, x, y) from a face to the other face of its error.
    """

    alt: str
    caption: str
    marks: list[Mark]
    lines: list[tuple[float, float, float, float]]

    @property
    def view(self) -> str:
        """The part of the plane that is shown, as SVG's viewBox: without the empty space above and below."""
        heights = [mark.y for mark in self.marks]
        top = min(heights) - _MARGIN
        return f"0 {top:.1f} {WIDTH} {max(heights) + _MARGIN - top:.1f}"


def map_pictures(group: ResultGroup, with_faces: bool) -> list[MapPicture]:
    """The two maps of each artefact that was tested with --map; without the second where nothing is wrong.

    Args:
        group: results on one set.
        with_faces: whether small pictures are shown; without them every face is a dot.
    """
    pictures = []
    for artefact, (_, result) in zip(group.artefacts, group.results, strict=True):
        sha256 = (result.get("source") or {}).get("sha256")
        found = read_map(artefact.map_folder, group.set_name, artefact.report.get("sha256"), sha256)
        if found is not None:
            pictures.append(by_identity(found, artefact.name, with_faces))
            pictures += [by_error(found, artefact.name, with_faces)] if _wrong(found) else []
    return pictures


def by_identity(found: FaceMap, artefact: str, with_faces: bool) -> MapPicture:
    """The map with a colour for each identity."""
    number = {name: i for i, name in enumerate(dict.fromkeys(face.identity for face in found.faces))}
    order = np.random.default_rng(0).permutation(len(found.faces)).tolist()
    pictured = _spread(found, order) if with_faces else set()
    marks = []
    for i, face in enumerate(found.faces):
        hue = round(number[face.identity] * _GOLDEN_ANGLE % 360)
        jpeg = _jpeg(found.pictures[i]) if i in pictured else None
        marks.append(Mark(*_at(found, i), "identity", f"{face.identity} · {face.image}", hue, jpeg))
    caption = (
        f"Embeddings of {artefact} on a plane: t-SNE of {_count(found)}, by identity. Faces of one person should be in "
        "one group, far from others; distances between groups mean little."
    )
    return MapPicture(f"map of {found.name} by identity", caption, _dots_first(marks), [])


def by_error(found: FaceMap, artefact: str, with_faces: bool) -> MapPicture:
    """The map with the faces that were decided wrongly, each joined with the other face of its error."""
    wrong = _wrong(found)
    pictured = _spread(found, wrong) if with_faces else set()
    row_of = {face.image: i for i, face in enumerate(found.faces)}
    marks, lines = [], []
    for i, face in enumerate(found.faces):
        title = f"{face.identity} · {face.image}"
        if face.verdict != RIGHT:
            title += f" · {face.verdict} with {face.other}"
            if face.other in row_of:
                lines.append((*_at(found, i), *_at(found, row_of[face.other])))
        jpeg = _jpeg(found.pictures[i]) if i in pictured else None
        marks.append(Mark(*_at(found, i), _KINDS[face.verdict], title, 0, jpeg))
    verdicts = {face.verdict for face in found.faces}
    meanings = "; ".join(text for verdict, text in _MEANINGS.items() if verdict in verdicts)
    caption = (
        f"The same map of {artefact} by error. {meanings[0].upper()}{meanings[1:]}. A line leads to the other face. "
        f"{len(wrong):,} of {len(found.faces):,} faces on the map have an error."
    )
    marks.sort(key=lambda mark: (mark.kind != "right", mark.jpeg is not None))
    return MapPicture(f"map of {found.name} by error", caption, marks, lines)


def _count(found: FaceMap) -> str:
    shown = f"{len(found.faces):,}"
    return f"{shown} faces" if len(found.faces) == found.num_faces else f"{shown} of {found.num_faces:,} faces"


def _wrong(found: FaceMap) -> list[int]:
    return [i for i, face in enumerate(found.faces) if face.verdict != RIGHT]


def _at(found: FaceMap, i: int) -> tuple[float, float]:
    x, y = found.places[i].tolist()
    side = WIDTH - 2 * _MARGIN
    return round(_MARGIN + side * x, 1), round(_MARGIN + side * (1 - y), 1)


def _spread(found: FaceMap, order: Iterable[int]) -> set[int]:
    """The first faces of `order` whose small pictures do not cover each other."""
    chosen: dict[int, tuple[float, float]] = {}
    for i in order:
        x, y = _at(found, i)
        if all(max(abs(x - a), abs(y - b)) >= _ROOM for a, b in chosen.values()):
            chosen[i] = x, y
    return set(chosen)


def _dots_first(marks: list[Mark]) -> list[Mark]:
    return sorted(marks, key=lambda mark: mark.jpeg is not None)


def _jpeg(picture: np.ndarray) -> bytes:
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
