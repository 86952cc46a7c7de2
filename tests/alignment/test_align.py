"""A face is moved onto the template, and one face of a photo is chosen by the rule."""

import cv2
import numpy as np
import pytest

from facelib.alignment.align import align_face, cut_faces, rank_faces
from facelib.alignment.detect import Face
from facelib.data.synthetic.faces import synthetic_face
from facelib.model_input import TEMPLATE_112
from tests.helpers.placed_faces import moved, placed

TEMPLATE = np.array(TEMPLATE_112)


def face_of(x, y, w, h, score=0.9):
    return Face((x, y, w, h), TEMPLATE * (w / 112) + (x, y), score)


# -------------------------------------------------------------------------------------------------------- the crop


def test_a_face_that_is_on_the_template_is_not_changed():
    crop = synthetic_face(0, 1, 0)

    np.testing.assert_array_equal(align_face(crop, TEMPLATE), crop)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.5), (25, 1.0), (-40, 1.9), (12, 3.0), (90, 2.5), (8, 0.8)])
def test_a_face_that_was_rotated_and_scaled_comes_back(degrees, scale):
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
        ([LEFT, MIDDLE], "all", MIDDLE),
        ([], "largest", None),
        ([], "central", None),
    ],
)
def test_the_rule_ranks_the_faces(faces, rule, chosen):
    ranked = rank_faces(faces, (400, 400), rule)

    assert next(iter(ranked), None) is chosen and len(ranked) == len(faces)


def test_the_better_score_wins_a_tie_and_an_unknown_rule_is_refused():
    worse, better = face_of(0, 0, 50, 50, 0.8), face_of(350, 350, 50, 50, 0.9)

    assert rank_faces([worse, better], (400, 400), "largest") == [better, worse]
    assert rank_faces([better, worse], (400, 400), "central") == [better, worse]
    with pytest.raises(ValueError, match="central, largest, all"):
        rank_faces([better], (400, 400), "first")


class StandIn:
    """A stand-in for the detector: the faces it was given, whatever the photo."""

    def __init__(self, *faces):
        self.faces = list(faces)

    def detect(self, photo):
        return self.faces


@pytest.mark.parametrize(("rule", "expected"), [("central", [MIDDLE]), ("largest", [LEFT]), ("all", [MIDDLE, LEFT])])
def test_a_photo_becomes_the_crops_of_the_chosen_faces_or_nothing(rule, expected):
    photo = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)

    crops, num_faces = cut_faces(photo, StandIn(LEFT, MIDDLE), rule)

    assert num_faces == 2 and [crop.box for crop in crops] == [face.box for face in expected]
    for crop, face in zip(crops, expected, strict=True):
        np.testing.assert_array_equal(crop.pixels, align_face(photo, face.points))
    assert cut_faces(photo, StandIn(), rule) == ([], 0)
