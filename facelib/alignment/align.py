"""Aligns a face: a photo and five landmarks give the 112x112 crop that the models take. Pure functions of arrays.

The crop is cut by the similarity that brings the landmarks nearest to the template. InsightFace aligns MS1M and LFW in
this way, with the same template.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from facelib.alignment.detect import Face
from facelib.alignment.flags import FACE_RULES
from facelib.alignment.quality import Quality, face_quality
from facelib.alignment.similarity import cut_square
from facelib.model_input import TEMPLATE_112

TEMPLATE_SIZE = 112  # pixels; the template scales with the crop


class Detector(Protocol):
    """Finds faces: uint8 [H, W, 3] RGB -> `Face`s in any order; an empty list when there is none."""

    def detect(self, photo: np.ndarray) -> list[Face]: ...


def align_face(photo: np.ndarray, points: np.ndarray, size: tuple[int, int] = (112, 112)) -> np.ndarray:
    """Cuts out the face at `points` so that they lie on the template.

    A face of more than twice the size of the crop is first reduced by a whole factor, with area interpolation.

    Args:
        photo: uint8 [H, W, 3] RGB.
        points: float [5, 2], (x, y) in pixels: left eye, right eye, nose, left and right mouth corner, as seen.
        size: (height, width) in pixels; square, because the template fits no other shape.

    Returns:
        uint8 [*size, 3], RGB; black beyond the edge of the photo.
    """
    height, width = size
    if height != width:
        raise ValueError(f"A crop is square. Received: size={size}")
    template = np.array(TEMPLATE_112) * (width / TEMPLATE_SIZE)
    return cut_square(photo, points, template, width)


def rank_faces(faces: Sequence[Face], photo_size: tuple[int, int], rule: str = "central") -> list[Face]:
    """The faces of a photo, the one that the rule takes first.

    Args:
        faces: of the photo.
        photo_size: (height, width) in pixels.
        rule: 'largest' takes the largest box. 'central' takes the largest of area less twice the squared distance
            between the centres of box and photo, so neither a bystander at the edge nor a small face in the background
            wins; FaceNet's and InsightFace's align scripts do the same. 'all' has the order of 'central'. The better
            score wins a tie.
    """
    if rule not in FACE_RULES:
        raise ValueError(f"A rule is one of {', '.join(FACE_RULES)}. Received: rule={rule!r}")
    height, width = photo_size

    def order(face: Face) -> tuple[float, float]:
        x, y, w, h = face.box
        away = 0.0 if rule == "largest" else (x + w / 2 - width / 2) ** 2 + (y + h / 2 - height / 2) ** 2
        return w * h - 2.0 * away, face.score

    return sorted(faces, key=order, reverse=True)


@dataclass(frozen=True)
class Crop:
    """A face that was cut out of a photo.

    Attributes:
        pixels: uint8 [112, 112, 3] RGB, aligned.
        box: (x, y, width, height) in pixels of the photo; None for a photo that is a crop already.
        quality: how well it can be recognised.
    """

    pixels: np.ndarray
    box: tuple[float, float, float, float] | None
    quality: Quality


def cut_faces(photo: np.ndarray, detector: Detector, rule: str = "central") -> tuple[list[Crop], int]:
    """Cuts faces out of a photo.

    Args:
        photo: uint8 [H, W, 3] RGB.
        detector: finds the faces.
        rule: which of them, see `rank_faces`: one, or 'all'.

    Returns:
        The crops, none if there is no face; and how many faces the photo shows.
    """
    faces = rank_faces(detector.detect(photo), photo.shape[:2], rule)
    chosen = faces if rule == "all" else faces[:1]
    crops = [(align_face(photo, face.points), face) for face in chosen]
    return [Crop(pixels, face.box, face_quality(pixels, face.points)) for pixels, face in crops], len(faces)


def whole_crop(photo: np.ndarray) -> Crop:
    """A photo that is a crop already, uint8 [112, 112, 3] RGB, taken as it is."""
    return Crop(photo, None, face_quality(photo, np.array(TEMPLATE_112)))
