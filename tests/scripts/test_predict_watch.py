"""predict.py watch: the events of a film of three people, the annotated video, slow nets, bad input in one line."""

import itertools
import json
import os
import resource
import time
from datetime import UTC, datetime
from functools import partial

import cv2
import numpy as np
import pytest

import predict
from facelib.errors import FaceError
from facelib.evaluation.probability import Ratio
from facelib.evaluation.thresholds import Calibrated
from facelib.model_input import Io
from facelib.recognition.decision import Decision
from facelib.recognition.gallery import open_gallery, write_gallery
from facelib.recognition.video import command, handover
from facelib.recognition.video import source as video_source
from facelib.recognition.video import watch as video_watch
from facelib.recognition.video.annotate import KNOWN, UNKNOWN
from facelib.recognition.video.events import Identify
from facelib.recognition.video.source import Frame, VideoSource
from facelib.sidecar import write_sidecar
from tests.helpers import film
from tests.helpers.film import Knowing, face_at, write_video

NAMES = {film.FRONT: "Ada", film.BEHIND: "王小明"}


def draw(identity, frame):
    """uint8 [112, 112, 3] RGB: patches of the identity's colours, and a little noise of the frame."""
    patches = np.random.default_rng(identity).integers(20, 236, (4, 4, 3))
    noise = np.random.default_rng([identity, frame]).integers(-20, 21, (4, 4, 3))
    return np.clip(patches + noise, 0, 255).astype(np.uint8).repeat(28, 0).repeat(28, 1)


class Patches:
    """In the place of a model: the mean colours of 16 patches. It takes `seconds` for a call."""

    name, embedding_size = "patches", 48

    def __init__(self, path=None, io=None, threads=1, seconds=0.0):
        self.seconds = seconds

    def __call__(self, images):
        time.sleep(self.seconds)
        rows = images.reshape(-1, 4, 28, 4, 28, 3).mean((2, 4)).reshape(len(images), -1) - 128.0
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a gallery of two people and the film; the detector knows the film."""
    monkeypatch.setattr(predict, "open_embedder", Patches)
    monkeypatch.setattr("facelib.alignment.detect.FaceDetector", Knowing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.tflite").write_bytes(b"weights")
    vectors = np.concatenate([Patches()(draw(identity, 999)[None]) for identity in NAMES])
    write_gallery(
        tmp_path / "people.npy", vectors, list(NAMES.values()), [1, 1],
        model=tmp_path / "net.tflite", io=Io(embedding_size=48), flip=False, decision=Decision(0.5),
    )  # fmt: skip
    write_video(tmp_path / "film.mp4", (film.draw_frame(frame, draw) for frame in range(film.NUM_FRAMES)))
    return tmp_path


def run(capsys, *words):
    """(events, lines on stderr)"""
    assert predict.main(["watch", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_the_film_of_three_people_gives_three_events(place, capsys):
    events, err = run(capsys, "film.mp4", "people.npy")

    assert [event["who"] for event in sorted(events, key=lambda event: str(event["who"]))] == ["Ada", None, "王小明"]
    by_name = {event["who"]: event for event in events}
    last = (film.NUM_FRAMES - 1) / film.FPS
    for name in NAMES.values():
        assert (by_name[name]["from"], by_name[name]["to"]) == (0, pytest.approx(last, abs=1e-3))
        assert by_name[name]["distance"] < 0.1
    stranger = by_name[None]
    assert (stranger["from"], stranger["to"]) == (0, pytest.approx((film.LEFT_AT - 1) / film.FPS, abs=1e-3))
    assert stranger["distance"] > 1 and stranger["frames"] == film.LEFT_AT
    hidden = sum(film.BEHIND not in film.found(frame) for frame in range(film.NUM_FRAMES))
    assert hidden > 5 and by_name["王小明"]["frames"] == film.NUM_FRAMES - hidden
    assert by_name["Ada"]["frames"] == film.NUM_FRAMES
    assert "50 frames" in err and "seen: " in err and "1 unknown" in err and "dropped" not in err


def test_what_chance_alone_gives_is_said_beside_the_events(place, capsys):
    known = Calibrated("lfw", 3000, 0.01, 0.5, 0.4, (0.4, 0.6), (1e-3, 2e-2), flip=False)
    write_gallery(
        place / "people.npy", open_gallery(place / "people.npy").vectors, list(NAMES.values()), [1, 1],
        model=place / "net.tflite", io=Io(embedding_size=48), flip=False, decision=Decision(0.5, known),
    )  # fmt: skip

    events, err = run(capsys, "film.mp4", "people.npy")

    assert len(events) == 3 and "note: 2 comparisons at this FAR match a stranger with 0.02 people" in err


def test_the_best_frame_is_where_the_face_is(place, capsys):
    events, _ = run(capsys, "film.mp4", "people.npy")

    names = {name: identity for identity, name in NAMES.items()} | {None: film.STRANGER}
    for event in events:
        best = event["best_frame"]
        x, y = film.places(best["frame"])[names[event["who"]]]
        assert best["box"] == [round(x + 11), round(y + 22), 90, 90]
        assert best["seconds"] == pytest.approx(best["frame"] / film.FPS, abs=1e-3) and 0 <= best["quality"] <= 1


def test_the_annotated_video_has_every_frame_with_a_name_on_each_face(place, capsys):
    run(capsys, "film.mp4", "people.npy", "--out", "seen.mp4")

    pictures = film.read_video(place / "seen.mp4")
    assert len(pictures) == film.NUM_FRAMES and not list(place.glob(".*"))
    for frame in (3, 25, 49):
        for identity, (x, y) in film.found(frame).items():
            colour = np.array((UNKNOWN if identity == film.STRANGER else KNOWN)[::-1], int)
            label = pictures[frame, y + 7 : y + 20, round(x) + 13 : round(x) + 53].reshape(-1, 3)
            assert np.abs(np.median(label, axis=0) - colour).max() < 30, f"frame {frame}, {identity}"


def test_every_nth_frame_and_a_rate_look_at_fewer_frames(place, capsys, monkeypatch):
    monkeypatch.setattr("facelib.alignment.detect.FaceDetector", partial(Knowing, 5))
    by_step, err = run(capsys, "film.mp4", "people.npy", "--every", 5, "--out", "seen.mp4")
    assert "10 frames" in err and len(film.read_video(place / "seen.mp4")) == 10
    by_rate, err = run(capsys, "film.mp4", "people.npy", "--max-fps", 5, "--out", "seen.mp4")
    assert "10 frames" in err and len(film.read_video(place / "seen.mp4")) == 10

    assert {event["who"] for event in by_step} == {event["who"] for event in by_rate} == {*NAMES.values(), None}
    assert by_step == by_rate


def test_a_slow_net_loses_no_frame_of_a_file(place, capsys, monkeypatch):
    monkeypatch.setattr(predict, "open_embedder", partial(Patches, seconds=0.005))

    _, err = run(capsys, "film.mp4", "people.npy")

    assert "50 frames" in err and "dropped" not in err


class Camera:
    """In the place of cv2.VideoCapture: a camera of 200 frames a second, until Ctrl-C comes with frame `last`."""

    last = 60

    def __init__(self, *args):
        self.frame = 0

    def isOpened(self):
        return True

    def read(self):
        time.sleep(0.005)
        self.frame += 1
        return True, np.full((200, 300, 3), self.frame % 250, np.uint8)

    def get(self, which):
        return 200.0 if which == cv2.CAP_PROP_FPS else 0.0

    def release(self):
        pass


class Interrupted(Patches):
    """A net of 30 ms; Ctrl-C comes in its twentieth call."""

    def __call__(self, images):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 20:
            raise KeyboardInterrupt
        return super().__call__(images)


class Standing:
    """In the detector's place: a face in each frame."""

    def __init__(self, is_thorough=True):
        pass

    def detect(self, photo):
        return [face_at(100, 40)]

    def follow(self, photo, face):
        return face


def test_a_slow_net_drops_frames_of_a_camera_and_ctrl_c_ends_it_in_order(place, capsys, monkeypatch):
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: Camera() if name == 0 else real(name))
    monkeypatch.setattr("facelib.alignment.detect.FaceDetector", Standing)
    monkeypatch.setattr(predict, "open_embedder", partial(Interrupted, seconds=0.03))
    before = datetime.now(UTC)

    (event,), err = run(capsys, "0", "people.npy", "--out", "seen.mp4")

    assert event["who"] is None and event["frames"] == 19
    assert event["to"] > 0.25, "the clock of the camera goes on: nineteen frames of it take 0.1 s"
    start, end = (datetime.fromisoformat(event[key]) for key in ("from_time", "to_time"))
    assert before <= start < end <= datetime.now(UTC)
    assert (end - start).total_seconds() == pytest.approx(event["to"] - event["from"], abs=0.01)
    assert "frames were dropped" in err and "wrote seen.mp4" in err
    monkeypatch.undo()
    written = len(film.read_video(place / "seen.mp4"))
    assert written == pytest.approx(200 * event["to"], abs=5), "the video has the clock of the camera"


class Unplugged(Camera):
    """It gives ten frames; opened again it has none until somebody who was seen is told, then Ctrl-C comes."""

    def read(self):
        if self.frame == 10:
            return False, None
        return super().read()


def test_an_event_does_not_wait_for_a_camera_that_is_away(place, capsys, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: Unplugged())
    monkeypatch.setattr("facelib.alignment.detect.FaceDetector", Standing)
    monkeypatch.setattr(video_source, "FIRST_WAIT", 60.0)
    monkeypatch.setattr(video_watch, "LONGEST_STEP", 0.4)
    monkeypatch.setattr(handover, "PATIENCE", 0.02)

    def event_then_ctrl_c(track, answer, started):
        told.append(track.num_frames)
        raise KeyboardInterrupt

    told = []
    monkeypatch.setattr(command, "event_of", event_then_ctrl_c)

    assert predict.main(["watch", "0", "people.npy"]) == 0
    assert len(told) == 1 and told[0] > 2 and "gives no more frames: waiting until it does" in capsys.readouterr().err


def test_ctrl_c_in_a_file_leaves_nothing_half_written(place, capsys, monkeypatch):
    monkeypatch.setattr(predict, "open_embedder", Interrupted)

    with pytest.raises(KeyboardInterrupt):
        predict.main(["watch", "film.mp4", "people.npy", "--out", "seen.mp4"])
    assert sorted(path.name for path in place.iterdir()) == ["film.mp4", "net.tflite", "people.npy", "people.npy.json"]


def test_a_video_that_the_disk_did_not_take_whole_is_refused(place, monkeypatch):
    real = cv2.VideoWriter

    class Full:
        """OpenCV's writer on a full disk: it says nothing, and the end of the file is missing."""

        def __init__(self, path, *words):
            self.path, self.writer = path, real(path, *words)
            self.isOpened, self.write = self.writer.isOpened, self.writer.write

        def release(self):
            self.writer.release()
            if os.path.exists(self.path):
                with open(self.path, "r+b") as file:
                    file.truncate(9000)

        fourcc = real.fourcc

    monkeypatch.setattr(cv2, "VideoWriter", Full)

    assert "Check that the disk is not full" in refused(place, ["film.mp4", "people.npy", "--out", "seen.mp4"])
    assert not list(place.glob(".*"))


def test_a_face_in_two_frames_makes_no_event_and_is_said(place, capsys, monkeypatch):
    calls = itertools.count()
    monkeypatch.setattr(Knowing, "detect", lambda self, photo: [face_at(280, 10)] if next(calls) < 2 else [])

    events, err = run(capsys, "film.mp4", "people.npy")

    assert events == [] and "1 faces in fewer than 3 frames made no event" in err


def test_a_4k_film_goes_through(place, capsys, monkeypatch):
    large = np.zeros((2160, 3840, 3), np.uint8)
    large[1000:1112, 2000:2112] = draw(film.FRONT, 1)
    write_video(place / "4k.mp4", [large] * 3)
    monkeypatch.setattr(Knowing, "detect", lambda self, photo: [face_at(2000, 1000)])

    (event,), _ = run(capsys, "4k.mp4", "people.npy")

    assert (event["who"], event["frames"], event["best_frame"]["box"]) == ("Ada", 3, [2011, 1022, 90, 90])


def refused(place, words):
    with pytest.raises(FaceError) as caught:
        predict.main(["watch", *words])
    line = str(caught.value)
    assert "\n" not in line and not (place / "seen.mp4").exists()
    return line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["none.mp4", "people.npy"], "No video at 'none.mp4'"),
        (["text.mp4", "people.npy"], "has none: the file is damaged, empty or not a video"),
        (["cut.mp4", "people.npy"], "has none: the file is damaged, empty or not a video"),
        (["film.mp4", "none.npy"], "No gallery at 'none.npy'"),
        (["film.mp4", "people.npy", "--model", "other.tflite"], "searched with the model that made it"),
        (["film.mp4", "people.npy", "--every", "0"], "--every must be 1 or more"),
        (["film.mp4", "people.npy", "--max-fps", "nan"], "above 0. Received: --max-fps nan"),
        (["film.mp4", "people.npy", "--out", "seen.avi"], r"must end in \.mp4"),
        (["film.mp4", "people.npy", "--out", "film.mp4"], "must not be the source"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_bad_input_is_one_line(place, words, line):
    (place / "text.mp4").write_bytes(b"this is no video")
    (place / "cut.mp4").write_bytes((place / "film.mp4").read_bytes()[:4000])
    (place / "other.tflite").write_bytes(b"other weights")

    with pytest.raises(FaceError, match=line):
        predict.main(["watch", *words])
    assert "\n" not in refused(place, words)
    assert (place / "film.mp4").stat().st_size > 4000


def test_a_window_that_cannot_be_opened_is_one_line(place, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert "needs a screen" in refused(place, ["film.mp4", "people.npy", "--show"])

    def no_windows(*args):
        raise cv2.error("The function is not implemented")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", no_windows)
    assert "pip install opencv-python" in refused(place, ["film.mp4", "people.npy", "--show"])


def test_a_model_that_is_run_wrong_is_refused_before_the_first_frame(place, monkeypatch):
    def wrong(embedder, sidecar):
        raise FaceError("looks like BGR fed to an RGB model")

    monkeypatch.setattr(predict, "run_self_test", wrong)

    assert "looks like BGR" in refused(place, ["film.mp4", "people.npy", "--out", "seen.mp4"])


def test_an_event_has_a_probability_where_the_model_is_calibrated(place, capsys):
    ratio = Ratio(slope=-8.0, offset=6.0, limit=5.0)
    found = {"sha256": "0", "impostors": 3000, "flip": False, "far": {}, "probability": ratio.as_dict()}
    before, _ = run(capsys, "film.mp4", "people.npy")
    write_sidecar(
        place / "net.tflite", kind="tflite", made_from=None, io=Io(embedding_size=48), thresholds={"t": found}
    )

    events, _ = run(capsys, "film.mp4", "people.npy")

    assert not any("probability" in event for event in before) and len(events) == 3
    for event in events:
        expected = 1 / (1 + np.exp(-np.clip(6 - 8 * event["distance"], -5, 5) + np.log(2)))  # two people and a stranger
        assert event["probability"] == pytest.approx(expected, abs=2e-3)
    gallery = open_gallery(place / "people.npy")
    answer = Identify(gallery, gallery.decision, ratio)(gallery.vectors[0].astype(np.float32))
    assert str(answer) == "Ada 0.00 99 %"


def test_an_embedding_of_another_size_is_one_line(place, monkeypatch):
    monkeypatch.setattr(Patches, "__call__", lambda self, images: np.ones((len(images), 7), np.float32))

    assert "A query must have 48 finite numbers" in refused(place, ["film.mp4", "people.npy", "--out", "seen.mp4"])


@pytest.mark.slow
def test_the_memory_stays_flat_over_ten_thousand_frames(place, capsys, monkeypatch):
    """People come and go all the time; the rise from frame 2,000 to the end is below 8 MB."""
    sizes = {}

    def frames(self):
        picture = cv2.imread("frame.png")
        for number in range(10_000):
            if number in (2000, 9999):
                with open("/proc/self/statm") as file:
                    sizes[number] = int(file.read().split()[1]) * resource.getpagesize() / 1e6
            yield Frame(number, number / 25, picture.copy())

    cv2.imwrite("frame.png", film.draw_frame(0, draw)[:, :, ::-1])
    monkeypatch.setattr(VideoSource, "frames", frames)
    calls = itertools.count()

    def detect(self, photo):
        k = next(calls)
        return [face_at(x, y) for i, (x, y) in enumerate(film.places(0).values()) if (k // 40 + i) % 3]

    monkeypatch.setattr(Knowing, "detect", detect)

    events, err = run(capsys, "film.mp4", "people.npy", "--out", "seen.mp4")

    print(f"RSS {sizes[2000]:.1f} MB after 2,000 frames, {sizes[9999]:.1f} MB after 10,000; {len(events)} events")
    assert "10,000 frames" in err and len(events) > 200
    assert sizes[9999] - sizes[2000] < 8
