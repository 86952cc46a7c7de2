"""Aligns a face: a photo and five landmarks give the 112x112 crop that the models take. Pure functions of arrays.

The transform is the similarity (rotation, one scale, shift: 4 degrees of freedom) with the least squared distance from
the landmarks to the template: Umeyama, Least-squares estimation of transformation parameters between two point
patterns, IEEE PAMI 13(4), 1991. InsightFace aligns MS1M and LFW in this way, with the same template.
"""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np

from facelib.alignment.detect import Face
from facelib.face_template import TEMPLATE_112

FACE_RULES = ("largest", "central")
TEMPLATE_SIZE = 112  # pixels; the template scales with the crop


class Detector(Protocol):
    """Finds faces: uint8 [H, W, 3] RGB -> `Face`s in any order; an empty list when there is none."""

    def detect(self, photo: np.ndarray) -> list[Face]: ...


def similarity_transform(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The similarity that brings `points` nearest to `template`, for `cv2.warpAffine`.

    Args:
        points: float [N, 2], (x, y) in pixels, N >= 2, not all at one place.
        template: float [N, 2], (x, y) in pixels.

    Returns:
        float64 [2, 3].

    Raises:
        ValueError: the points are not finite, or all at one place.
    """
    points, template = np.asarray(points, np.float64), np.asarray(template, np.float64)
    centre, target = points.mean(axis=0), template.mean(axis=0)
    x, y = (points - centre).T
    u, v = (template - target).T
    spread = float(np.sum(x * x + y * y))
    if not np.isfinite(spread) or spread < 1e-12:
        raise ValueError(f"Points are finite and apart. Received: points={points.tolist()}")
    # As complex numbers the rotation and scale are one factor a + bi, and least squares has a closed form. It never
    # mirrors, which is what Umeyama's sign matrix is for.
    a, b = float(np.sum(x * u + y * v)) / spread, float(np.sum(x * v - y * u)) / spread
    turn = np.array([[a, -b], [b, a]])
    return np.column_stack([turn, target - turn @ centre])


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
    transform = similarity_transform(points, template)
    times = int(1.0 / np.hypot(transform[0, 0], transform[1, 0]))
    if times > 1:  # warpAffine reads four pixels a point: a large face would alias
        full = np.array(photo.shape[1::-1])
        reduced = np.maximum(1, np.round(full / times)).astype(int)
        photo = cv2.resize(photo, reduced.tolist(), interpolation=cv2.INTER_AREA)
        transform = similarity_transform((np.asarray(points) + 0.5) * (reduced / full) - 0.5, template)
    return cv2.warpAffine(photo, transform, (width, height), flags=cv2.INTER_LINEAR, borderValue=0)


def choose_face(faces: Sequence[Face], photo_size: tuple[int, int], rule: str = "largest") -> Face | None:
    """Chooses the face that a photo shows; None when there is none.

    Args:
        faces: of the photo.
        photo_size: (height, width) in pixels.
        rule: 'largest' takes the largest box. 'central' takes the largest of area less twice the squared distance
            between the centres of box and photo, so neither a bystander at the edge nor a small face in the background
            wins; FaceNet's and InsightFace's align scripts do the same. The better score wins a tie.
    """
    if rule not in FACE_RULES:
        raise ValueError(f"A rule is one of {', '.join(FACE_RULES)}. Received: rule={rule!r}")
    height, width = photo_size

    def order(face: Face) -> tuple[float, float]:
        x, y, w, h = face.box
        away = 0.0 if rule == "largest" else (x + w / 2 - width / 2) ** 2 + (y + h / 2 - height / 2) ** 2
        return w * h - 2.0 * away, face.score

    return max(faces, key=order, default=None)


def align_photo(photo: np.ndarray, detector: Detector, rule: str = "largest") -> np.ndarray | None:
    """The crop of the face that `rule` chooses: uint8 [112, 112, 3] RGB; None when no face is found."""
    face = choose_face(detector.detect(photo), photo.shape[:2], rule)
    return None if face is None else align_face(photo, face.points)
