"""Tracks: who goes on where, when a track ends, and the averaged embedding."""

import numpy as np
import pytest

from facelib.alignment.align import Crop
from facelib.alignment.quality import Quality
from facelib.recognition.video.tracks import GAP, Tracker, overlap
from tests.helpers import film

RNG = np.random.default_rng(4)
PEOPLE = [row / np.linalg.norm(row) for row in RNG.standard_normal((4, 64))]
THRESHOLD = 1.0


def crop(x, y=0.0, quality=0.9, side=90.0):
    return Crop(np.zeros((2, 2, 3), np.uint8), (x, y, side, side), Quality(quality, 1.0, 1.0))


def seen(person, noise=0.06):
    row = PEOPLE[person] + noise * np.random.default_rng().standard_normal(64)
    return (row / np.linalg.norm(row)).astype(np.float32)


def run(tracker, frames, fps=25.0):
    """frames: lists of (person, x) -> (numbers of the tracks of each frame, tracks that ended)."""
    numbers, ended = [], []
    for k, faces in enumerate(frames):
        vectors = np.array([seen(person) for person, _ in faces], np.float32)
        shown, gone = tracker.update([crop(x) for _, x in faces], vectors, k, k / fps)
        numbers.append([track.number for track in shown])
        ended += gone
    return numbers, ended + tracker.finish()


def test_people_who_cross_keep_their_tracks():
    names = {film.FRONT: 0, film.BEHIND: 1, film.STRANGER: 2}
    tracker, of = Tracker(THRESHOLD), {}
    for frame in range(film.NUM_FRAMES):
        shown = film.found(frame)
        tracks, _ = tracker.update(
            [crop(*place) for place in shown.values()],
            np.array([seen(names[identity]) for identity in shown]), frame, frame / film.FPS,
        )  # fmt: skip
        for identity, track in zip(shown, tracks, strict=True):
            of.setdefault(identity, set()).add(track.number)

    assert sorted(map(len, of.values())) == [1, 1, 1] and len(set().union(*of.values())) == 3


def test_another_person_at_the_same_place_is_another_track():
    numbers, ended = run(Tracker(THRESHOLD), [[(0, 100)]] * 10 + [[(1, 100)]] * 10)

    assert numbers == [[1]] * 10 + [[2]] * 10
    assert [(track.num_frames, track.first, track.last) for track in ended] == [(10, 0.0, 0.36), (10, 0.4, 0.76)]


def test_a_face_that_is_missed_for_less_than_the_gap_goes_on_and_after_it_is_new():
    hidden = int(GAP * 25) - 2
    numbers, _ = run(Tracker(THRESHOLD), [[(0, 100)]] * 5 + [[]] * hidden + [[(0, 400)]] * 2)
    assert numbers[-1] == [1]

    numbers, ended = run(Tracker(THRESHOLD), [[(0, 100)]] * 5 + [[]] * (hidden + 5) + [[(0, 100)]] * 2)
    assert numbers[-1] == [2] and [track.num_frames for track in ended] == [5, 2]


def test_where_frames_are_rare_a_track_lasts_from_one_to_the_next():
    numbers, _ = run(Tracker(THRESHOLD), [[(0, 100)]] * 8, fps=0.5)

    assert numbers == [[1]] * 8


def test_a_camera_that_was_away_ends_all_tracks():
    tracker = Tracker(THRESHOLD)
    for k in range(5):
        tracker.update([crop(100)], seen(0)[None], k, k / 25)

    _, ended = tracker.update([], np.zeros((0, 0)), 5, 60.0)

    assert [track.num_frames for track in ended] == [5]


def test_the_average_is_nearer_to_the_person_than_a_frame_and_weighs_by_quality():
    tracker = Tracker(THRESHOLD)
    for k in range(40):
        (track,), _ = tracker.update([crop(100, quality=0.3)], seen(0)[None], k, k / 25)
    single = np.mean([PEOPLE[0] @ seen(0) for _ in range(40)])
    assert PEOPLE[0] @ track.vector > single + 0.02
    assert np.linalg.norm(track.vector) == pytest.approx(1.0, abs=1e-5)

    tracker.update([crop(100, quality=0.9)], seen(0)[None], 40, 40 / 25)
    assert (track.best_frame, track.best.quality.score, track.num_frames) == (40, 0.9, 41)


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1.0
    assert overlap((0, 0, 2, 2), (1, 0, 2, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 2, 2), (5, 0, 2, 2)) == 0.0
