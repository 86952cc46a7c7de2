"""Faces as a model takes them: cut or scaled to its size, reordered, scaled."""

import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.model_input import Io, fit_faces, to_model_input, usual_fit

FACES = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), np.uint8)


def test_a_face_of_the_right_size_is_not_touched():
    for fit in ("crop", "resize"):
        assert fit_faces(FACES, (112, 112), fit) is FACES


def test_a_crop_is_the_centre():
    np.testing.assert_array_equal(fit_faces(FACES, (112, 96), "crop"), FACES[:, :, 8:104])


def test_half_the_size_is_the_mean_of_four_pixels():
    blocks = FACES.reshape(3, 56, 2, 56, 2, 3).mean((2, 4))

    assert np.abs(fit_faces(FACES, (56, 56), "resize") - blocks).max() <= 0.5


def test_twice_the_size_keeps_the_picture():
    smooth = np.broadcast_to(np.arange(112, dtype=np.uint8)[None, None, :, None], (1, 112, 112, 3))

    large = fit_faces(smooth, (224, 224), "resize")

    expected = np.clip((np.arange(224) + 0.5) / 2 - 0.5, 0, 111)  # bilinear, pixel centres at one half
    assert np.abs(large[0, :, :, 1] - expected).max() <= 0.51


def test_a_crop_cannot_enlarge_and_says_the_way():
    with pytest.raises(FaceError, match=r"needs 128x128 pixels, but the faces have 112x112.*--fit resize"):
        to_model_input(FACES, Io(size=(128, 128)))
    assert to_model_input(FACES, Io(size=(128, 128), fit="resize")).shape == (3, 128, 128, 3)


@pytest.mark.parametrize(
    ("size", "expected"), [((112, 112), "crop"), ((128, 128), "resize"), ((96, 96), "resize"), ((112, 96), "crop")]
)
def test_a_square_net_takes_the_whole_face(size, expected):
    assert usual_fit(size) == expected
