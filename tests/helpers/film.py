"""A film of three people, and a detector that knows where they are in each frame.

Two people who are enrolled cross, the one behind is hidden for a while; a stranger stands and leaves before the end.
"""

import cv2
import numpy as np

from facelib.alignment.detect import Face
from facelib.model_input import TEMPLATE_112
from facelib.recognition.video.source import quiet_opencv

NUM_FRAMES, FPS, SIZE = 50, 25.0, (270, 640)  # height, width
LEFT_AT = 30  # the frame in which the stranger is no longer there
FRONT, BEHIND, STRANGER = 0, 1, 77
HIDDEN = 90  # pixels: the one behind is not found while the one in front is nearer


def places(frame):
    """{identity: (x, y)} of the crops in a frame, the one in front last."""
    step = 500 * frame / (NUM_FRAMES - 1)
    shown = {BEHIND: (510 - step, 140), FRONT: (10 + step, 140)}
    return {STRANGER: (280, 10), **shown} if frame < LEFT_AT else shown


def found(frame):
    """Those of `places` whom a detector finds."""
    shown = places(frame)
    if abs(shown[FRONT][0] - shown[BEHIND][0]) < HIDDEN:
        del shown[BEHIND]
    return shown


def draw_frame(frame, draw):
    """uint8 [H, W, 3] RGB. `draw(identity, frame)` gives a crop."""
    photo = np.full((*SIZE, 3), 90, np.uint8)
    for identity, (x, y) in places(frame).items():
        x, y = round(x), round(y)
        photo[y : y + 112, x : x + 112] = draw(identity, frame)
    return photo


def write_video(path, frames, fps=FPS, code="mp4v"):
    """Writes frames, uint8 [H, W, 3] RGB, as a video."""
    quiet_opencv()
    frames = iter(frames)
    first = next(frames)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, first.shape[1::-1])
    assert writer.isOpened()
    writer.write(np.ascontiguousarray(first[:, :, ::-1]))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path


def read_video(path):
    """All frames of a video, uint8 [N, H, W, 3] RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1])
    capture.release()
    return np.array(frames)


def face_at(x, y, score=0.9):
    """A face whose crop of 112x112 pixels begins at (x, y)."""
    return Face((x + 11, y + 22, 90, 90), np.add(TEMPLATE_112, (round(x), round(y))), score)


class Knowing:
    """In the detector's place: it knows the film, and sees the frames in their order.

    Args:
        step: it gets every `step`th frame.
    """

    def __init__(self, step=1, is_thorough=True):
        self.step, self.calls = step, 0

    def detect(self, photo):
        frame, self.calls = self.calls * self.step, self.calls + 1
        return [face_at(x, y) for x, y in found(frame).values()]

    def follow(self, photo, face):
        """Follows none, so that the film is searched in each frame."""
