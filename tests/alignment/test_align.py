"""Alignment is Umeyama's transform onto the template, and the detector's points are those of the face on the photo."""

import math
import os

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from facelib.alignment.align import align_face, align_photo, choose_face, similarity_transform
from facelib.alignment.detect import SEARCH_SIDE, Face, FaceDetector
from facelib.data.synthetic.faces import synthetic_face
from facelib.face_template import TEMPLATE_112

TEMPLATE = np.array(TEMPLATE_112)
coordinates = st.floats(-500, 500, width=32)
five_points = st.lists(st.tuples(coordinates, coordinates), min_size=5, max_size=5).map(np.array)


def umeyama(points, template):
    """Umeyama 1991, eq. 40 to 42, as it stands there: covariance, SVD, a sign against mirroring, scale, shift."""
    mean_from, mean_to = points.mean(axis=0), template.mean(axis=0)
    covariance = (template - mean_to).T @ (points - mean_from) / len(points)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / points.var(axis=0).sum()
    return np.column_stack([scale * rotation, mean_to - scale * rotation @ mean_from])


def placed(degrees, scale, x, y):
    """The similarity float64 [2, 3] that turns by `degrees`, scales, and shifts by (x, y)."""
    a, b = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[a, -b, x], [b, a, y]])


def moved(transform, points):
    return points @ transform[:, :2].T + transform[:, 2]


def face_of(x, y, w, h, score=0.9):
    return Face((x, y, w, h), TEMPLATE * (w / 112) + (x, y), score)


# --------------------------------------------------------------------------------------------------- the transform


@given(five_points)
def test_the_transform_is_umeyamas(points):
    centred = points - points.mean(axis=0)
    assume(np.linalg.svd(centred)[1][1] > 1.0)  # on a line the sign of the SVD is a matter of taste
    covariance = centred.T @ (TEMPLATE - TEMPLATE.mean(axis=0))
    assume(abs(np.linalg.det(covariance)) > 1.0)

    found, expected = similarity_transform(points, TEMPLATE), umeyama(points, TEMPLATE)

    assert found.dtype == np.float64 and found.shape == (2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


@given(st.floats(-180, 180), st.floats(0.05, 20), coordinates, coordinates)
def test_points_that_are_the_template_moved_are_moved_back(degrees, scale, x, y):
    there = placed(degrees, scale, x, y)

    found = similarity_transform(moved(there, TEMPLATE), TEMPLATE)

    np.testing.assert_allclose(moved(found, moved(there, TEMPLATE)), TEMPLATE, atol=1e-6)


def test_mirrored_points_are_not_mirrored_back():
    found = similarity_transform(TEMPLATE * (-1, 1), TEMPLATE)

    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.where(np.eye(5, 2) > 0, np.nan, TEMPLATE)])
def test_points_at_one_place_or_not_finite_are_refused(points):
    with pytest.raises(ValueError, match="finite and apart"):
        similarity_transform(points, TEMPLATE)


# -------------------------------------------------------------------------------------------------------- the crop


def test_a_face_that_is_on_the_template_is_taken_as_it_is():
    crop = synthetic_face(0, 1, 0)

    np.testing.assert_array_equal(align_face(crop, TEMPLATE), crop)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.5), (25, 1.0), (-40, 1.9), (12, 3.0), (90, 2.5), (8, 0.8)])
def test_a_face_that_was_turned_and_scaled_comes_back(degrees, scale):
    crop = cv2.GaussianBlur(synthetic_face(0, 3, 0), (0, 0), 2.0)
    there = placed(degrees, scale, 0, 0)
    there[:, 2] = (260, 240) - there[:, :2] @ (56, 56)
    photo = cv2.warpAffine(crop, there, (500, 480), flags=cv2.INTER_CUBIC)

    found = align_face(photo, moved(there, TEMPLATE))

    off = np.abs(found[8:-8, 8:-8].astype(int) - crop[8:-8, 8:-8])
    assert off.mean() < 0.2  # half a pixel beside it would be 0.64


def test_the_crop_is_rgb_as_the_photo_and_black_where_the_photo_ends():
    photo = np.full((60, 200, 3), (200, 100, 50), np.uint8)

    crop = align_face(photo, np.add(TEMPLATE, (40, -20)))

    assert (crop.dtype, crop.shape) == (np.uint8, (112, 112, 3))
    np.testing.assert_array_equal(crop[:15], 0)
    np.testing.assert_array_equal(crop[25:75], np.broadcast_to((200, 100, 50), (50, 112, 3)))
    np.testing.assert_array_equal(crop[85:], 0)


def test_another_size_has_the_template_of_that_size():
    photo = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)

    np.testing.assert_array_equal(align_face(photo, TEMPLATE * (128 / 112), (128, 128)), photo)
    with pytest.raises(ValueError, match="square"):
        align_face(photo, TEMPLATE, (112, 96))


def test_a_large_face_is_averaged_not_picked_from():
    noise = np.random.default_rng(0).integers(0, 2, (1120, 1120, 1), np.uint8).repeat(3, axis=2) * 255

    crop = align_face(noise, TEMPLATE * 10)[1:-1, 1:-1]

    assert abs(crop.mean() - 127.5) < 1 and crop.std() < 15  # 100 pixels averaged: 12.8; four of them picked: over 60


def test_a_view_with_reversed_channels_is_aligned_too():
    photo = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)

    np.testing.assert_array_equal(align_face(photo[:, :, ::-1], TEMPLATE), photo[:, :, ::-1])


# ------------------------------------------------------------------------------------------------------ which face


LEFT, MIDDLE, HUGE = face_of(10, 150, 90, 120), face_of(170, 160, 70, 80), face_of(20, 20, 300, 320)


@pytest.mark.parametrize(
    ("faces", "rule", "chosen"),
    [
        ([LEFT, MIDDLE], "largest", LEFT),
        ([MIDDLE, LEFT], "central", MIDDLE),
        ([HUGE, MIDDLE], "central", HUGE),  # somebody small in the background, though nearer to the middle
        ([LEFT], "central", LEFT),
        ([], "largest", None),
        ([], "central", None),
    ],
)
def test_one_face_is_chosen_by_the_rule(faces, rule, chosen):
    assert choose_face(faces, (400, 400), rule) is chosen


def test_the_better_score_wins_a_tie_and_an_unknown_rule_is_refused():
    worse, better = face_of(0, 0, 50, 50, 0.8), face_of(350, 350, 50, 50, 0.9)

    assert choose_face([worse, better], (400, 400), "largest") is better
    assert choose_face([better, worse], (400, 400), "central") is better
    with pytest.raises(ValueError, match="largest, central"):
        choose_face([better], (400, 400), "first")


class StandIn:
    """A stand-in for the detector: the faces it was given, whatever the photo."""

    def __init__(self, *faces):
        self.faces = list(faces)

    def detect(self, photo):
        return self.faces


def test_a_photo_becomes_the_crop_of_the_chosen_face_or_nothing():
    photo = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)

    np.testing.assert_array_equal(align_photo(photo, StandIn(LEFT, MIDDLE)), align_face(photo, LEFT.points))
    np.testing.assert_array_equal(
        align_photo(photo, StandIn(LEFT, MIDDLE), "central"), align_face(photo, MIDDLE.points)
    )
    assert align_photo(photo, StandIn()) is None


# ---------------------------------------------------------------------------------------------------- the detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The real one, loaded in a folder with files of its weights' names that are none."""
    folder, before = tmp_path_factory.mktemp("elsewhere"), os.getcwd()
    for name in ("pnet.lz4", "rnet.lz4", "onet.lz4"):
        (folder / name).write_bytes(b"not the weights")
    os.chdir(folder)
    try:
        return FaceDetector()
    finally:
        os.chdir(before)


def synthetic_photo(identity, degrees, scale, size=(300, 320)):
    """(photo uint8 [H, W, 3] RGB with a toy face in its middle, where the template's points are on it)."""
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
    return photo, moved(there, TEMPLATE)


@pytest.mark.parametrize(("identity", "degrees", "scale"), [(1, 0, 1.0), (1, 12, 1.5), (3, -10, 1.2), (9, 0, 0.6)])
def test_a_face_is_found_with_its_points_in_the_templates_order(detector, identity, degrees, scale):
    photo, expected = synthetic_photo(identity, degrees, scale)
    before = photo.copy()

    faces = detector.detect(photo)

    face = choose_face(faces, photo.shape[:2])
    assert face.points.shape == (5, 2) and face.points.dtype == np.float64 and 0.5 < face.score <= 1
    assert np.abs(face.points - expected).max() < 12 * scale  # drawn eyes and mouths lie about the template's
    x, y, w, h = face.box
    assert x < face.points[:, 0].min() and face.points[:, 0].max() < x + w
    assert y < face.points[:, 1].min() and face.points[:, 1].max() < y + h
    assert [f.score for f in faces] == sorted((f.score for f in faces), reverse=True)
    np.testing.assert_array_equal(photo, before)


def test_points_on_a_large_photo_are_in_its_own_pixels(detector):
    small, _ = synthetic_photo(1, 0, 2.0, (600, 800))
    large = cv2.resize(small, (3200, 2400), interpolation=cv2.INTER_CUBIC)
    assert max(small.shape) < SEARCH_SIDE < max(large.shape)

    there, here = choose_face(detector.detect(large), large.shape[:2]), choose_face(detector.detect(small), (600, 800))

    np.testing.assert_allclose((there.points + 0.5) / 4 - 0.5, here.points, atol=5.0)
    np.testing.assert_allclose(np.array(there.box) / 4, here.box, atol=12.0)


@pytest.mark.parametrize("size", [(1, 1), (19, 400), (20, 20), (25, 3000), (3000, 21), (112, 112)])
def test_nobody_is_found_where_nobody_is(detector, size):
    blank = np.zeros((*size, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    assert detector.detect(blank) == [] and detector.detect(noise) == []
