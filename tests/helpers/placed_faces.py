"""Synthetic faces at known places in a photo, and the similarity that put them there."""

import math

import cv2
import numpy as np

from facelib.data.synthetic.faces import synthetic_face
from facelib.model_input import TEMPLATE_112


def placed(degrees, scale, x, y):
    """The similarity float64 [2, 3] that rotates by `degrees`, scales, and shifts by (x, y)."""
    a, b = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[a, -b, x], [b, a, y]])


def moved(transform, points):
    return points @ transform[:, :2].T + transform[:, 2]


def synthetic_photo(identity, degrees, scale, size=(300, 320)):
    """(photo uint8 [H, W, 3] RGB with a synthetic face in its middle, where the template's points are in it)."""
    height, width = size
    there = placed(degrees, scale, 0, 0)
    there[:, 2] = (width / 2, height / 2) - there[:, :2] @ (56, 56)
    photo = np.full((height, width, 3), 120, np.uint8)
    cv2.warpAffine(
        synthetic_face(0, identity, 0),
        there,
        (width, height),
        photo,
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return photo, moved(there, np.array(TEMPLATE_112))
