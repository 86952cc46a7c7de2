"""Detects the faces of a photo: boxes and five landmarks, by MTCNN."""

from dataclasses import dataclass
from importlib.resources import files

import cv2
import numpy as np

from facelib.tensorflow_env import quiet_tensorflow

SEARCH_SIDE = 1024  # pixels: a photo with a longer side is searched in a reduced copy. Time and memory grow with it
MIN_FACE = 20  # pixels of what is searched; mtcnn 1.0.0 silently finds nothing at any larger value


@dataclass(frozen=True)
class Face:
    """A face on a photo.

    Attributes:
        box: (x, y, width, height) in pixels; it may reach over the edge of the photo.
        points: float64 [5, 2], (x, y) in pixels: left eye, right eye, nose, left and right mouth corner, with left and
            right as seen on the photo.
        score: 0 to 1.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float


class FaceDetector:
    """MTCNN (Zhang et al., https://arxiv.org/abs/1604.02878), from the `mtcnn` package, which contains the weights.

    It finds upright faces of 20 pixels or more; in photos of more than 1024 pixels, of 2 % of the longer side or more.
    It runs on the CPU.
    """

    def __init__(self):
        quiet_tensorflow()
        import tensorflow as tf
        from mtcnn import MTCNN
        from mtcnn.stages import StageONet, StagePNet, StageRNet

        # Full paths: mtcnn looks for a bare name in the working directory first, and unpickles what it finds.
        weights = files("mtcnn") / "assets" / "weights"
        stages = [
            StagePNet(weights=str(weights / "pnet.lz4")),
            StageRNet(weights=str(weights / "rnet.lz4")),
            StageONet(weights=str(weights / "onet.lz4")),
        ]
        for stage in stages:  # as graphs the three networks take a third of the time they take layer by layer
            signature = [tf.TensorSpec((None, None, None, 3), tf.float32)]
            stage.model.call = tf.function(stage.model.call, input_signature=signature)
        self._mtcnn = MTCNN(stages=stages)

    def detect(self, photo: np.ndarray) -> list[Face]:
        """The faces of a photo, the best score first; an empty list when there is none.

        Args:
            photo: uint8 [H, W, 3], RGB.
        """
        height, width = photo.shape[:2]
        scale = min(1.0, SEARCH_SIDE / max(height, width))
        if min(height, width) * scale < MIN_FACE:
            return []
        if scale < 1.0:
            width, height = round(width * scale), round(height * scale)
            reduced = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        else:
            reduced = photo
        rows = self._mtcnn.detect_faces(reduced, fit_to_image=False, output_type="numpy", min_face_size=MIN_FACE)
        # A row: image, x and y, width and height, score, five x, five y.
        ratio = np.array([photo.shape[1] / width, photo.shape[0] / height])
        found = [
            Face(
                box=(*((row[1:3] + 0.5) * ratio - 0.5).tolist(), *(row[3:5] * ratio).tolist()),
                points=(row[6:16].reshape(2, 5).T.astype(np.float64) + 0.5) * ratio - 0.5,
                score=float(row[5]),
            )
            for row in rows
        ]
        return sorted(found, key=lambda face: -face.score)
