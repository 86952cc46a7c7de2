"""The search for faces: squares cover the photo, places are mapped back, and boxes of one face become one."""

import numpy as np
import pytest

from facelib.alignment.face_boxes import (
    ANCHORS,
    VIEW,
    FaceSearch,
    distinct,
    intersection_over_union,
    rotate_back,
    split_in_views,
)
from tests.helpers.placed_faces import synthetic_photo


def test_the_anchors_are_two_at_each_of_16_x_16_places_then_six_at_each_of_8_x_8():
    fine = [((k // 2 % 16) * 8 + 4, k // 32 * 8 + 4) for k in range(512)]
    coarse = [((k // 6 % 8) * 16 + 8, k // 48 * 16 + 8) for k in range(384)]

    np.testing.assert_array_equal(ANCHORS, fine + coarse)


@pytest.mark.parametrize("size", [(128, 128), (300, 320), (90, 500), (37, 20)])
@pytest.mark.parametrize("side", [128, 200, 500])
def test_views_cover_the_photo_and_give_places_back(size, side):
    height, width = size
    photo = np.zeros((height, width, 3), np.uint8)
    photo[..., 0] = np.linspace(0, 250, width)
    covered = np.zeros(size, bool)

    for view, corner, scale in split_in_views(photo, side):
        assert view.shape == (VIEW, VIEW, 3)
        (left, top), (right, bottom) = (np.add(corner, edge) / scale for edge in (0, VIEW))
        covered[max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))] = True
        x = np.flatnonzero(view.any(axis=(0, 2)))[3:-3]  # not at the edges, where pixels are mixed with black
        seen = (x + 0.5 + corner[0]) / scale[0] - 0.5
        np.testing.assert_allclose(view[:, x, 0].max(axis=0), 250 * seen / (width - 1), atol=250 / width + 2)

    assert covered.all()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_place_is_rotated_back(quarters):
    view = np.zeros((VIEW, VIEW), np.uint8)
    view[20, 90] = 1
    (row,), (column,) = np.nonzero(np.rot90(view, quarters))

    np.testing.assert_array_equal(rotate_back(np.array([[column + 0.5, row + 0.5]]), quarters), [[90.5, 20.5]])


def test_intersection_over_union_of_known_boxes():
    boxes = np.array([[5, 5, 10, 10], [10, 5, 10, 10], [20, 5, 10, 10], [5, 5, 5, 5]])

    np.testing.assert_allclose(intersection_over_union(boxes, boxes[0]), [1, 50 / 150, 0, 25 / 100])


def test_of_the_boxes_of_one_face_the_best_score_stays():
    boxes = [(0, 0, 10, 10), (2, 2, 5, 5), (100, 0, 10, 10), (1, 0, 10, 10), (9, 9, 10, 10)]

    assert distinct(boxes, [0.6, 0.7, 0.8, 0.9, 0.5]) == [3, 2, 4]
    assert distinct([], []) == []


def test_the_boxes_of_a_face_hold_its_eyes_and_mouth():
    photo, points = synthetic_photo(1, 0, 1.5)

    found = FaceSearch()(photo, 20)

    best = max(found, key=lambda face: face.score)
    expected = [points[0], points[1], points[3:].mean(axis=0)]
    np.testing.assert_allclose(best.points, expected, atol=20)
    x, y, width, height = best.box
    assert (best.points > (x, y)).all() and (best.points < (x + width, y + height)).all()
