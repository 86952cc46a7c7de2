"""The face detector finds the landmarks of synthetic faces, at any place, size and angle, and nothing else."""

import cv2
import numpy as np
import pytest

from facelib.alignment.align import align_face, rank_faces
from facelib.alignment.detect import SEARCH_SIDE, FaceDetector
from tests.helpers.placed_faces import synthetic_photo
from tests.helpers.slow import slow_unless_quick


@pytest.fixture(scope="module")
def detector():
    return FaceDetector()


@pytest.mark.parametrize(("identity", "degrees", "scale"), [(1, 0, 1.0), (1, 12, 1.5), (3, -10, 1.2), (9, 0, 0.6)])
def test_a_face_is_found_with_its_points_in_the_templates_order(detector, identity, degrees, scale):
    photo, expected = synthetic_photo(identity, degrees, scale)
    before = photo.copy()

    faces = detector.detect(photo)

    face = rank_faces(faces, photo.shape[:2])[0]
    assert face.points.shape == (5, 2) and face.points.dtype == np.float64 and 0.5 < face.score <= 1
    assert np.abs(face.points - expected).max() < 12 * scale  # drawn eyes and mouths lie about the template's
    x, y, w, h = face.box
    assert x < face.points[:, 0].min() and face.points[:, 0].max() < x + w
    assert y < face.points[:, 1].min() and face.points[:, 1].max() < y + h
    assert [f.score for f in faces] == sorted((f.score for f in faces), reverse=True)
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_photo_that_lies_on_its_side_gives_the_same_crop(detector, quarters):
    photo, _ = synthetic_photo(1, 8, 1.5)
    rotated = np.rot90(photo, quarters)
    (expected,) = detector.detect(photo)

    (found,) = detector.detect(rotated)

    crops = [align_face(photo, expected.points), align_face(rotated, found.points)]
    assert cv2.absdiff(*crops).mean() < 3


@pytest.mark.parametrize("side", [20, 26, 40])
def test_a_small_face_in_a_corner_is_found(detector, side):
    photo, _ = synthetic_photo(1, 0, side / 80, (640, 640))  # a synthetic face is 80 of its 112 pixels high
    photo = np.roll(photo, (-280, 260), (0, 1))

    (face,) = detector.detect(photo)

    np.testing.assert_allclose(face.points.mean(axis=0), (580, 40), atol=side / 2)


@pytest.mark.parametrize("degrees", slow_unless_quick([45, 90, 135, 180], [180]))
def test_small_faces_are_found_however_the_photo_lies(detector, degrees):
    """Each fills a sixteenth of the photo's side; two of them, so that a group is found whole."""
    upright = np.concatenate([synthetic_photo(1, 0, 0.6, (640, 320))[0], synthetic_photo(3, 5, 0.7, (640, 320))[0]], 1)
    turn = cv2.getRotationMatrix2D((319.5, 319.5), degrees, 1.0)
    photo = cv2.warpAffine(upright, np.add(turn, [[0, 0, 140], [0, 0, 140]]), (920, 920), borderValue=(120, 120, 120))

    faces = detector.detect(photo)

    places = np.array([[160, 320], [480, 320]]) @ turn[:, :2].T + turn[:, 2] + 140
    assert len(faces) == 2
    for place in places:
        assert min(np.linalg.norm(face.points.mean(axis=0) - place) for face in faces) < 15


@pytest.mark.parametrize("width", slow_unless_quick([2000, 6000], ()))
def test_a_face_of_a_sixtieth_of_the_photo_is_found(detector, width):
    """100 pixels in 6000x4000, alone and beside one of 133 pixels, which the usual search finds."""
    photo = np.full((width * 2 // 3, width, 3), 120, np.uint8)
    expected = []
    for x, y, side in ((width * 7 // 10, width // 2, width / 60), (width // 5, width // 10, width / 45)):
        small, points = synthetic_photo(1, 0, side / 80, (160, 160))  # a synthetic face has 80 of 112 pixels
        photo[y : y + 160, x : x + 160] = small
        expected.append(np.add(points, (x, y)))
        faces = detector.detect(photo)

        assert len(faces) == len(expected)
        for points in expected:
            assert min(np.abs(face.points - points).max() for face in faces) < width / 400


def test_a_photo_with_an_upright_face_is_searched_once(detector, monkeypatch):
    searches = []
    search = detector._search
    monkeypatch.setattr(detector, "_search", lambda *given, **flags: searches.append(flags) or search(*given, **flags))

    assert detector.detect(synthetic_photo(1, 0, 1.0)[0])
    assert searches == [{}]


def test_every_face_is_found_once(detector):
    faces = [(1, 0, 1.2), (3, 10, 1.5), (9, 0, 0.8)]
    photo = np.concatenate([synthetic_photo(*face)[0] for face in faces], axis=1)

    found = detector.detect(photo)

    assert sorted(int(face.points[2, 0] // 320) for face in found) == [0, 1, 2]


def test_points_in_a_large_photo_are_in_its_own_pixels(detector):
    small, _ = synthetic_photo(1, 0, 2.0, (600, 800))
    large = cv2.resize(small, (3200, 2400), interpolation=cv2.INTER_CUBIC)
    assert max(small.shape) < SEARCH_SIDE < max(large.shape)

    there, here = (rank_faces(detector.detect(photo), photo.shape[:2])[0] for photo in (large, small))

    np.testing.assert_allclose((there.points + 0.5) / 4 - 0.5, here.points, atol=5.0)
    np.testing.assert_allclose(np.array(there.box) / 4, here.box, atol=12.0)


@pytest.mark.parametrize("size", [(1, 1), (19, 400), (20, 20), (25, 3000), (3000, 21), (112, 112)])
def test_nobody_is_found_where_nobody_is(detector, size):
    blank = np.zeros((*size, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    assert detector.detect(blank) == [] and detector.detect(noise) == []
