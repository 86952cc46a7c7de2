"""The quality of a face: larger, sharper and more frontal is better, each on a scale from 0 to 1."""

import cv2
import numpy as np
import pytest

from facelib.alignment.quality import NOSE_LENGTH, face_quality, pose_of, sharpness_of
from facelib.data.synthetic.faces import synthetic_face
from facelib.model_input import TEMPLATE_112

TEMPLATE = np.array(TEMPLATE_112)
EYES_TO_MOUTH = TEMPLATE[3:].mean(axis=0) - TEMPLATE[:2].mean(axis=0)


def rotated(points, degrees, scale=1.0):
    a, b = np.cos(np.radians(degrees)) * scale, np.sin(np.radians(degrees)) * scale
    return points @ np.array([[a, b], [-b, a]]) + (300, 200)


@pytest.mark.parametrize(("side", "size"), [(45, 0.5), (90, 1), (900, 1), (18, 0.2)])
def test_size_is_that_of_the_face_in_the_photo_as_a_share_of_the_crop(side, size):
    quality = face_quality(synthetic_face(0, 1, 0), TEMPLATE * (side / 90))

    assert quality.size == pytest.approx(size) and quality.score == pytest.approx(min(size, quality.sharpness))
    assert str(quality).startswith(f"{quality.score:.2f} (size {size:.2f}, sharpness 0.9")


def test_a_blur_lowers_sharpness_step_by_step_and_contrast_does_not():
    face = synthetic_face(0, 1, 0)

    blurred = [sharpness_of(cv2.GaussianBlur(face, (0, 0), sigma)) for sigma in (1, 2, 4)]

    assert 1 > sharpness_of(face) > blurred[0] > blurred[1] > blurred[2] < 0.5
    assert sharpness_of((face // 2 + 60).astype(np.uint8)) == pytest.approx(sharpness_of(face), abs=0.03)
    assert sharpness_of(np.full((112, 112, 3), 90, np.uint8)) == 0


@pytest.mark.parametrize("degrees", [0, 45, 90, 180])
@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (30, 0), (-60, 0), (0, 30), (0, -40)])
def test_pose_is_the_cosine_of_the_angle_whatever_the_rotation_and_size(degrees, yaw, pitch):
    points = TEMPLATE.copy()
    across = np.array([-EYES_TO_MOUTH[1], EYES_TO_MOUTH[0]])
    points[2] += NOSE_LENGTH * (across * np.sin(np.radians(yaw)) + EYES_TO_MOUTH * np.sin(np.radians(pitch)))

    found = pose_of(rotated(points, degrees, 1.7))

    assert found == pytest.approx(np.cos(np.radians(yaw)) * np.cos(np.radians(pitch)), abs=1e-6)
