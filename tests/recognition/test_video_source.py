"""Frames of files and cameras: all of a file with their times; what cannot be read is one line; a camera comes back."""

import itertools

import cv2
import numpy as np
import pytest

from facelib.errors import FaceError
from facelib.recognition.video import source as video_source
from facelib.recognition.video.source import VideoSource, without_password
from tests.helpers.film import write_video


def frames(count, size=(48, 64)):
    return (np.full((*size, 3), 5 * k % 250, np.uint8) for k in range(count))


@pytest.fixture
def said():
    return []


def test_a_file_gives_all_its_frames_with_their_times(tmp_path, said):
    source = VideoSource(str(write_video(tmp_path / "a.mp4", frames(30), fps=10.0)), said.append)
    seen = list(source.frames())

    assert [frame.number for frame in seen] == list(range(30))
    np.testing.assert_allclose([frame.seconds for frame in seen], np.arange(30) / 10, atol=1e-3)
    assert (source.is_live, source.fps, source.num_frames, said) == (False, 10.0, 30, [])
    np.testing.assert_allclose([frame.pixels.mean() for frame in seen], 5 * np.arange(30), atol=4)


@pytest.mark.parametrize("content", [b"no video", b"\0" * 5000, None], ids=["text", "zeros", "mp4 without its end"])
def test_a_file_without_frames_is_one_line(tmp_path, said, capfd, content):
    path = write_video(tmp_path / "a.mp4", frames(20))
    path.write_bytes(path.read_bytes()[:-900] if content is None else content)

    with pytest.raises(FaceError, match=r"frames that OpenCV can decode\. '.*a\.mp4' has none") as caught:
        VideoSource(str(path), said.append)
    assert "\n" not in str(caught.value) and capfd.readouterr().err == ""


def test_a_video_of_zero_frames_is_one_line(tmp_path, said):
    whole = write_video(tmp_path / "a.avi", frames(10), code="MJPG").read_bytes()
    path = tmp_path / "zero.avi"
    path.write_bytes(whole[: whole.index(b"movi") + 4])

    with pytest.raises(FaceError, match="has none"):
        VideoSource(str(path), said.append)


def test_a_file_that_is_cut_short_gives_what_it_has_and_is_said(tmp_path, said):
    path = write_video(tmp_path / "a.avi", frames(40), code="MJPG")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + (data.index(b"idx1") - data.index(b"movi")) // 2])

    seen = list(VideoSource(str(path), said.append).frames())

    assert 10 < len(seen) < 30
    if said:  # FFmpeg may count what is there
        assert "cut short or damaged" in said[0]


@pytest.mark.parametrize(
    "name, line",
    [
        ("none.mp4", "No video at"),
        (".", "is a folder"),
        ("99", "gave none: check"),
        ("rtsp://me:secret@127.0.0.1:9/x", r"rtsp://me:\*\*\*@127.0.0.1:9/x gave none: check"),
    ],
)
def test_a_source_that_is_not_there_is_one_line(tmp_path, monkeypatch, said, capfd, name, line):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(FaceError, match=line):
        VideoSource(name, said.append)
    assert said == [] and capfd.readouterr().err == ""


class Camera:
    """In the place of cv2.VideoCapture: plugged in for some frames, then away when it is opened twice, then back."""

    opened = 0

    def __init__(self, *args):
        Camera.opened += 1
        self.is_there, self.left = Camera.opened not in (2, 3), 3

    def isOpened(self):
        return self.is_there

    def read(self):
        self.left -= 1
        return (True, np.zeros((4, 4, 3), np.uint8)) if self.left >= 0 else (False, None)

    def get(self, which):
        return {cv2.CAP_PROP_FPS: 1000.0}.get(which, 0.0)

    def release(self):
        pass


def test_a_camera_that_vanishes_is_waited_for_and_said(monkeypatch, said):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "opened", 0)
    monkeypatch.setattr(video_source, "FIRST_WAIT", 0.001)
    source = VideoSource("rtsp://me:secret@host/stream", said.append)

    seen = list(itertools.islice(source.frames(), 5))

    assert [frame.number for frame in seen] == [0, 1, 2, 3, 4] and Camera.opened == 4
    assert source.is_live and source.fps == 25.0
    assert said == [
        "rtsp://me:***@host/stream gives no more frames: waiting until it does",
        "rtsp://me:***@host/stream is back after 0 s",
    ]


def test_the_waiting_ends_when_the_source_is_stopped(monkeypatch, said):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "opened", 0)
    source = VideoSource("0", said.append)
    source.stop()

    assert len(list(source.frames())) == 3


def test_no_password_is_printed():
    assert without_password("rtsp://a:b@h/x?y@z") == "rtsp://a:***@h/x?y@z"
    assert without_password("rtsp://h:554/x") == "rtsp://h:554/x" and without_password("film.mp4") == "film.mp4"
