"""The faces of successive frames: the detector searches now and then, and follows known faces in between.

A search takes most of the time of a frame; to follow a face takes three small networks and no search.
"""

from typing import Protocol

import numpy as np

from facelib.alignment.detect import Face
from facelib.alignment.face_boxes import distinct

SEARCH_EVERY = 5  # frames: so many later a new face is found at the latest
LONGEST_STEP = 0.25  # seconds between two frames: after a longer one a face may be anywhere


class FollowingDetector(Protocol):
    """Finds faces in a photo, and finds one again near the place where it was."""

    def detect(self, photo: np.ndarray) -> list[Face]: ...

    def follow(self, photo: np.ndarray, face: Face) -> Face | None: ...


class FrameFaces:
    """Finds the faces of frames that are given in their order.

    It searches at the first frame, at each `SEARCH_EVERY`th one, after a long step, and when a face was lost.

    Args:
        detector: searches and follows.
    """

    def __init__(self, detector: FollowingDetector):
        self._detector = detector
        self._faces: list[Face] = []
        self._since, self._seconds = SEARCH_EVERY, 0.0

    def find(self, photo: np.ndarray, seconds: float) -> list[Face]:
        """The faces of the next frame.

        Args:
            photo: uint8 [H, W, 3] RGB.
            seconds: time of the frame.
        """
        self._since += 1
        if self._since < SEARCH_EVERY and seconds - self._seconds <= LONGEST_STEP:
            followed = [found for face in self._faces if (found := self._detector.follow(photo, face)) is not None]
            kept = distinct([face.box for face in followed], [face.score for face in followed])
            is_lost = len(kept) < len(self._faces)
            self._faces = [followed[i] for i in kept]
        else:
            is_lost = True
        if is_lost:
            self._faces, self._since = self._detector.detect(photo), 0
        self._seconds = seconds
        return self._faces
