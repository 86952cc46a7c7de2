"""How well a face in a photo can be recognised, judged without a model: its size, its sharpness and its pose.

Each of the three is a number from 0 to 1, and the smallest one is the quality. Pure functions of arrays.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from facelib.alignment.similarity import similarity_transform
from facelib.model_input import TEMPLATE_112

TEMPLATE = np.array(TEMPLATE_112)
FACE_IN_CROP = 90.0  # pixels: forehead to chin of a face on the template
BLURRED = 0.01  # sharpness 0.5: the variance of the Laplacian, as a share of the variance of the grey values
NOSE_LENGTH = 0.45  # how far the nose stands out, as a share of the distance from eyes to mouth
MIDDLE = np.s_[16:104, 16:96]  # the face in a crop, without the corners


@dataclass(frozen=True)
class Quality:
    """The quality of a face.

    Attributes:
        size: side of the face in the photo as a share of that in a crop (90 pixels), at most 1.
        sharpness: about 0.9 for a sharp face; 0.5 after a Gaussian blur of 1.5 pixels in the crop, 0.25 after 3 pixels.
        pose: cosine of the angle between the face and the camera, estimated from the five points; 1 is frontal.
    """

    size: float
    sharpness: float
    pose: float

    @property
    def score(self) -> float:
        """The smallest of the three."""
        return min(self.size, self.sharpness, self.pose)

    def __str__(self) -> str:
        return f"{self.score:.2f} (size {self.size:.2f}, sharpness {self.sharpness:.2f}, pose {self.pose:.2f})"


def face_quality(crop: np.ndarray, points: np.ndarray) -> Quality:
    """The quality of an aligned face.

    Args:
        crop: uint8 [112, 112, 3] RGB, aligned.
        points: float [5, 2], (x, y) in pixels of the photo; those of the template for a photo that is a crop already.
    """
    transform = similarity_transform(points, TEMPLATE)
    scale = math.hypot(transform[0, 0], transform[1, 0])
    return Quality(min(1.0, 1.0 / scale), sharpness_of(crop), pose_of(points))


def sharpness_of(crop: np.ndarray) -> float:
    """0 to 1: how much of the contrast of a face, uint8 [112, 112, 3] RGB, is in its finest detail."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[MIDDLE].astype(np.float32)
    contrast = float(grey.var())
    if contrast < 1.0:  # a single colour
        return 0.0
    fine = float(cv2.Laplacian(grey, cv2.CV_32F)[1:-1, 1:-1].var()) / contrast
    return fine / (fine + BLURRED)


def pose_of(points: np.ndarray) -> float:
    """0 to 1: the cosine of the angle between face and camera, from how far the nose is off its place.

    Args:
        points: float [5, 2], (x, y) in pixels: left eye, right eye, nose, left and right mouth corner.
    """
    across, along = _nose_place(points) - _nose_place(TEMPLATE)
    sines = np.clip(np.array([across, along]) / NOSE_LENGTH, -1.0, 1.0)
    return float(np.prod(np.sqrt(1.0 - sines**2)))


def _nose_place(points: np.ndarray) -> np.ndarray:
    """The nose beside and along the line from the eyes to the mouth, float64 [2], as shares of its length."""
    eyes, mouth = np.mean(points[:2], axis=0), np.mean(points[3:], axis=0)
    x, y = mouth - eyes
    u, v = np.asarray(points[2], np.float64) - eyes
    return np.array([u * y - v * x, u * x + v * y]) / max(x * x + y * y, 1e-12)
