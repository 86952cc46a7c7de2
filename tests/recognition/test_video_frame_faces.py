"""Successive frames: when the detector searches, and that it finds a face again that has moved."""

import numpy as np
import pytest

from facelib.alignment.detect import FaceDetector
from facelib.recognition.video.frame_faces import SEARCH_EVERY, FrameFaces
from tests.helpers.film import face_at
from tests.helpers.placed_faces import synthetic_photo

PHOTO = np.zeros((4, 4, 3), np.uint8)


class Counting:
    """A detector that finds what `there` has, and counts its searches."""

    def __init__(self, *there):
        self.there, self.searches = list(there), 0

    def detect(self, photo):
        self.searches += 1
        return [face_at(*place) for place in self.there]

    def follow(self, photo, face):
        near = [face_at(*place) for place in self.there if abs(place[0] + 11 - face.box[0]) < 30]
        return near[0] if near else None


def searches(detector, count, step=0.04, move=lambda k: None):
    """The numbers of the frames that are searched."""
    faces, searched = FrameFaces(detector), []
    for k in range(count):
        move(k)
        before = detector.searches
        assert len(faces.find(PHOTO, k * step)) <= len(detector.there)
        searched += [k] * (detector.searches - before)
    return searched


def test_known_faces_are_followed_and_every_fifth_frame_is_searched():
    detector = Counting((100, 0), (400, 0))

    assert searches(detector, 12) == [0, SEARCH_EVERY, 2 * SEARCH_EVERY]
    assert searches(Counting(), 12) == [0, SEARCH_EVERY, 2 * SEARCH_EVERY], (
        "nor is an empty picture searched more often"
    )


def test_a_lost_face_is_searched_at_once():
    detector = Counting((100, 0), (400, 0))

    def move(k):
        detector.there = [(100, 0), (400, 0) if k < 2 else (600, 0)]

    assert searches(detector, 6, move=move) == [0, 2]


def test_two_faces_that_became_one_are_searched_at_once():
    detector = Counting((100, 0), (400, 0))

    def move(k):
        detector.there = [(100 + 50 * k, 0), (400, 0)] if k < 3 else [(400, 0)]

    detector.follow = lambda photo, face: face_at(400, 0)
    assert searches(detector, 3, move=move) == [0, 1, 2]


def test_where_frames_are_rare_each_is_searched():
    assert searches(Counting((100, 0)), 4, step=0.5) == [0, 1, 2, 3]


def test_the_detector_finds_a_face_again_where_a_search_finds_it():
    photo, _ = synthetic_photo(3, 4, 1.0, (200, 220))
    moved = np.roll(photo, (6, 12), (0, 1))
    detector = FaceDetector(is_thorough=False)
    (before,), (searched,) = detector.detect(photo), detector.detect(moved)

    followed = detector.follow(moved, before)

    assert followed.box == pytest.approx(searched.box, abs=2)
    np.testing.assert_allclose(followed.points, searched.points, atol=1.5)
    assert detector.follow(np.full_like(photo, 120), before) is None
