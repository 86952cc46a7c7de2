"""The face detector: the boxes and five landmarks of all faces in a photo. The browser demo runs the same networks.

BlazeFace finds the faces (facelib/alignment/face_boxes.py). A network that gives five points of MediaPipe's face mesh
then places the landmarks (Kartynnik et al., https://arxiv.org/abs/1907.06724). facelib/alignment/weights/README.md says
where the weights come from.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelib.alignment.face_boxes import FACE_POINTS, DetectorNet, FaceBox, FaceSearch, distinct
from facelib.alignment.similarity import apply_inverse, cut_square, similarity_transform
from facelib.model_input import TEMPLATE_112

SEARCH_SIDE = 1024  # pixels: in a photo with a longer side, the smallest face grows with the photo, to bound the time
FINE_SIDE = 2048  # pixels: the same for the search that follows if no face was found
MIN_FACE = 20  # pixels: the smallest face in a photo of up to SEARCH_SIDE pixels
NEAR_LIMIT = 1.5  # if no face is so many times the smallest that is found, others beside it may have been missed
MIN_PRESENCE = 0.0  # MediaPipe's: logit of the network of the five points that it sees a face
SURE_PRESENCE = 10.0  # faces of LFW have 13.8 and more, those that BlazeFace takes upside down 7.2 and less

TEMPLATE = np.array(TEMPLATE_112)
EYES_AND_MOUTH = np.array([TEMPLATE[0], TEMPLATE[1], TEMPLATE[3:].mean(axis=0)])  # those of `FaceBox`, on the template
POINTS_VIEW = 192  # pixels: side of the input of the network of the five points
# The square that the network sees, in pixels of the template: a face with a quarter of its size on each side.
VIEW_CENTRE = (55.8, 68.2)
VIEW_SIDE = 135.2
VIEW_TEMPLATE = (TEMPLATE + 0.5 - VIEW_CENTRE + VIEW_SIDE / 2) * (POINTS_VIEW / VIEW_SIDE) - 0.5
SHIFT_X = 0.5  # pixels of the template: in InsightFace's own crops the landmarks lie this far left of the template
MIRRORED = [1, 0, 2, 4, 3]  # order of the five points in a mirrored face
FACE_SIDE = 90.0  # pixels of the template: forehead to chin


@dataclass(frozen=True)
class Face:
    """A face in a photo.

    Attributes:
        box: (x, y, width, height) in pixels; it may extend beyond the edge of the photo.
        points: float64 [5, 2], (x, y) in pixels, in the template's order: left eye, right eye, nose, left and right
            mouth corner. Left and right are those of the picture, with the face upright.
        score: 0 to 1.
        is_sure: whether the network of the five points is sure; if not, the face may be upside down, or be none.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float
    is_sure: bool = True


class FaceDetector:
    """Finds faces with five landmarks in photos. Runs on the CPU, in one thread.

    The first search finds upright faces, rotated by up to 45 degrees, from 20 pixels or, in photos of more than 1024
    pixels, from 2 % of the longer side; and faces of any rotation that fill a tenth of the photo. If it finds none, or
    none for sure, or only such that are hardly larger than the smallest, two more searches follow: in photos of more
    than 1024 pixels for upright faces from 1 % of the longer side; and for faces of the usual size in any rotation.

    Args:
        is_thorough: whether these two follow; in a video they would take most of the time, in frames without a face.

    Raises:
        FaceError: LiteRT is not installed.
    """

    def __init__(self, is_thorough: bool = True):
        self._search, self._is_thorough = FaceSearch(), is_thorough
        self._points = DetectorNet(FACE_POINTS, ("points", "presence"))

    def detect(self, photo: np.ndarray) -> list[Face]:
        """All faces in a photo, sure ones first, then by score; an empty list if there is none.

        Args:
            photo: uint8 [H, W, 3] RGB.
        """
        faces: list[Face] = []
        for boxes, enough in self._searches(photo):
            faces += self._faces(photo, boxes)
            if not self._is_thorough or any(face.is_sure and face.box[2] >= enough for face in faces):
                break
        kept = distinct([face.box for face in faces], [face.score + face.is_sure for face in faces])
        return [faces[i] for i in kept]

    def follow(self, photo: np.ndarray, face: Face) -> Face | None:
        """Finds a face again near the place where it was in the frame before; None if it is not there.

        Args:
            photo: uint8 [H, W, 3] RGB.
            face: from the frame before.
        """
        return self._placed(photo, face.points, face.score)

    def _searches(self, photo: np.ndarray) -> Iterator[tuple[list[FaceBox], float]]:
        """Yields the boxes of one search after the other, and the side of a sure face that makes it the last one."""
        usual, fine = (MIN_FACE * max(1.0, max(photo.shape[:2]) / side) for side in (SEARCH_SIDE, FINE_SIDE))
        if min(photo.shape[:2]) >= usual:
            yield self._search(photo, usual), NEAR_LIMIT * usual if fine < usual else 0.0
        if min(photo.shape[:2]) >= fine < usual:
            yield self._search(photo, fine), 0.0
        if min(photo.shape[:2]) >= usual:
            yield self._search(photo, usual, is_turned=True), 0.0

    def _faces(self, photo: np.ndarray, boxes: list[FaceBox]) -> list[Face]:
        """The faces in the boxes of one search. One face may be found several times."""
        faces = []
        for i in distinct([found.box for found in boxes], [found.score for found in boxes]):
            transform = similarity_transform(boxes[i].points, EYES_AND_MOUTH)
            face = self._placed(photo, apply_inverse(transform, TEMPLATE), boxes[i].score)
            if face is not None:
                faces.append(face)
        return faces

    def _placed(self, photo: np.ndarray, points: np.ndarray, score: float) -> Face | None:
        """The face whose five points are about at `points`, float64 [5, 2] in pixels; None if there is none."""
        points, presence = self._refine(photo, points)
        if presence >= MIN_PRESENCE:  # a second time, because the place of the face is now known better
            points, presence = self._refine(photo, points, mirror=True)
        return Face(face_square(points), points, score, presence >= SURE_PRESENCE) if presence >= MIN_PRESENCE else None

    def _refine(self, photo: np.ndarray, points: np.ndarray, mirror: bool = False) -> tuple[np.ndarray, float]:
        """The five points of the face near `points`, and the logit that there is a face.

        Args:
            photo: uint8 [H, W, 3] RGB.
            points: float64 [5, 2], (x, y) in pixels of the photo: about where the five points are.
            mirror: whether to average with the points of the mirrored face, and to shift to InsightFace's crops.
        """
        view = cut_square(photo, points, VIEW_TEMPLATE, POINTS_VIEW).astype(np.float32) / 255.0
        seen, presence = self._points(view)
        found = seen.reshape(5, 2).astype(np.float64)
        if mirror:
            x, y = self._points(view[:, ::-1])[0].reshape(5, 2)[MIRRORED].T
            shift = SHIFT_X * POINTS_VIEW / VIEW_SIDE
            found = (found + np.column_stack([POINTS_VIEW - x, y])) / 2 + (shift, 0.0)
        return apply_inverse(similarity_transform(points, VIEW_TEMPLATE), found - 0.5), presence.item()


def face_square(points: np.ndarray) -> tuple[float, float, float, float]:
    """The upright square around the face with these five points: x, y, width, height in pixels.

    Args:
        points: float [5, 2], (x, y) in pixels.
    """
    transform = similarity_transform(points, TEMPLATE)
    (x, y), side = apply_inverse(transform, np.array([VIEW_CENTRE]))[0], FACE_SIDE / np.hypot(*transform[:, 0])
    return x - side / 2, y - side / 2, side, side
