"""predict.py watch with the detector itself: people cross in films of synthetic faces and of photos."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

import predict
from facelib.data.synthetic.faces import synthetic_face
from facelib.model_input import Io
from facelib.recognition.decision import Decision
from facelib.recognition.gallery import write_gallery
from tests.helpers import film
from tests.helpers.film import write_video

DATA = Path(__file__).parents[3] / "shared" / "data"
PHOTOS, NET = DATA / "raw" / "photos", DATA / "pretrained" / "mobilefacenet_relu6_128.onnx"
NUM_FRAMES, SIZE = 50, (360, 640)
SIDE, LEFT_AT = 150, 30
FRONT, BEHIND, STRANGER = 0, 1, 2


class Small:
    """In the place of a model: the picture in 12x12 pixels, without what all synthetic faces share."""

    name, embedding_size = "small", 432

    def __init__(self, path=None, io=None, threads=1):
        self.mean = 0.0
        self.mean = np.mean([self.view(synthetic_face(0, person, 0)) for person in range(60)], axis=0)

    def view(self, face):
        row = cv2.resize(face, (12, 12), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() - self.mean
        return row - row.mean()

    def __call__(self, images):
        rows = np.stack([self.view(face) for face in images])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw_frame(frame, pictures):
    """Two people cross, the first one in front; the third stands above them and leaves."""
    photo = np.full((*SIZE, 3), 110, np.uint8)
    step = round((SIZE[1] - SIDE) * frame / (NUM_FRAMES - 1))
    places = {BEHIND: (SIZE[1] - SIDE - step, 200), FRONT: (step, 200)}
    if frame < LEFT_AT:
        places[STRANGER] = (250, 20)
    for person, (x, y) in places.items():
        photo[y : y + SIDE, x : x + SIDE] = cv2.resize(pictures[person], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return photo


def check_film(folder, capsys, pictures, *words):
    """Two who are enrolled as Ada and Bea and a stranger: exactly their events come."""
    write_video(folder / "film.mp4", (draw_frame(frame, pictures) for frame in range(NUM_FRAMES)))

    words = ["watch", folder / "film.mp4", folder / "people.npy", *words, "--out", folder / "seen.mp4"]
    assert predict.main([str(word) for word in words]) == 0

    out, err = capsys.readouterr()
    print(out, err)
    events = sorted((json.loads(line) for line in out.splitlines()), key=lambda event: str(event["who"]))
    assert [event["who"] for event in events] == ["Ada", "Bea", None]
    last = (NUM_FRAMES - 1) / film.FPS
    for event, end in zip(events, (last, last, (LEFT_AT - 1) / film.FPS), strict=True):
        assert event["from"] == 0 and event["to"] == pytest.approx(end, abs=0.09)
    assert events[0]["frames"] > NUM_FRAMES - 5 and events[1]["frames"] > NUM_FRAMES / 2
    assert len(film.read_video(folder / "seen.mp4")) == NUM_FRAMES


@pytest.mark.slow
def test_a_film_of_synthetic_faces(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "open_embedder", Small)
    (tmp_path / "net.tflite").write_bytes(b"weights")
    vectors = Small()(np.stack([synthetic_face(0, person, 0) for person in (1, 2)]))
    write_gallery(
        tmp_path / "people.npy", vectors, ["Ada", "Bea"], [1, 1],
        model=tmp_path / "net.tflite", io=Io(), flip=False, decision=Decision(1.4),
    )  # fmt: skip

    check_film(tmp_path, capsys, [synthetic_face(0, person, 1) for person in (1, 2, 7)])


@pytest.mark.slow
@pytest.mark.needs_data(PHOTOS, NET)
def test_a_film_of_photos(tmp_path, capsys):
    """Enrolled with the first photo, filmed with the second; the net is a real one."""
    people = sorted(folder for folder in PHOTOS.iterdir() if len(list(folder.glob("*.jpg"))) > 1)[:3]
    for folder, name in zip(people[:2], ("Ada", "Bea"), strict=True):
        (tmp_path / "people" / name).mkdir(parents=True)
        first = sorted(folder.glob("*.jpg"))[0]
        (tmp_path / "people" / name / "1.jpg").write_bytes(first.read_bytes())
    enroll = ["enroll", tmp_path / "people", tmp_path / "people.npy", "--model", NET, "--threshold", "1.3"]
    assert predict.main([str(word) for word in enroll]) == 0
    capsys.readouterr()

    second = [sorted(folder.glob("*.jpg"))[1] for folder in people]
    check_film(tmp_path, capsys, [cv2.imread(str(path), cv2.IMREAD_COLOR_RGB) for path in second])
