"""Faces on photos: boxes and five landmarks, by MTCNN. Names TensorFlow."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Face:
    """box: (x, y, width, height) in pixels of the photo.   points: float64 [5, 2], (x, y) in pixels, in the template's
    order: left eye, right eye, nose, left and right mouth corner, as seen on the photo.   score: 0 to 1."""

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float


class FaceDetector:
    """MTCNN (Zhang et al., https://arxiv.org/abs/1604.02878) of the `mtcnn` package, whose wheel holds the weights."""

    def __init__(self):
        from facelib.quiet import quiet_tensorflow

        quiet_tensorflow()
        from mtcnn import MTCNN

        self._network = MTCNN()

    def detect(self, photo: np.ndarray) -> list[Face]:
        """All faces of `photo`, uint8 [H, W, 3] RGB."""
        rows = self._network.detect_faces(photo, fit_to_image=False, output_type="numpy")
        return [
            Face(tuple(row[1:5].tolist()), row[6:16].reshape(2, 5).T.astype(np.float64), float(row[5])) for row in rows
        ]
