"""What a viewer sees: frames with a box and a name on each face, written as a video or shown in a window."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np

from facelib.errors import FaceError
from facelib.recognition.video.tracks import Box

KNOWN, UNKNOWN = (178, 114, 0), (0, 94, 213)  # BGR of Okabe and Ito's blue and vermilion
WHITE = (255, 255, 255)
LONGEST_GAP = 1.0  # seconds that a frame of a camera stands in the video at most
TITLE = "MobileArc: q ends"


def draw_face(pixels: np.ndarray, box: Box, text: str, is_known: bool) -> None:
    """Draws a box and a line of text on a frame.

    Args:
        pixels: uint8 [H, W, 3] BGR; changed.
        box: (x, y, width, height) in pixels.
        text: a name in any script. OpenCV before version 5 shows other letters than ASCII as question marks.
        is_known: whether the person is enrolled: chooses the colour.
    """
    colour = KNOWN if is_known else UNKNOWN
    line = max(1, round(min(pixels.shape[:2]) / 360))
    x, y, width, height = (round(value) for value in box)
    cv2.rectangle(pixels, (x, y), (x + width, y + height), colour, line)
    letters = max(11, round(min(pixels.shape[:2]) / 30))
    wide, pad = _text_width(text, letters), letters // 4
    top = y - letters - 3 * pad if y > letters + 3 * pad else y + height
    left = max(0, min(x, pixels.shape[1] - wide - 2 * pad))
    cv2.rectangle(pixels, (left, top), (left + wide + 2 * pad, top + letters + 3 * pad), colour, -1)
    _put_text(pixels, text, (left + pad, top + letters + pad), letters)


def _put_text(pixels: np.ndarray, text: str, place: tuple[int, int], letters: int) -> None:
    if hasattr(cv2, "FontFace"):
        cv2.putText(pixels, text, place, WHITE, _font(), letters)
    else:
        cv2.putText(pixels, text, place, cv2.FONT_HERSHEY_SIMPLEX, letters / 28, WHITE, 1, cv2.LINE_AA)


def _text_width(text: str, letters: int) -> int:
    if hasattr(cv2, "FontFace"):
        return int(cv2.getTextSize((10_000, 1000), text, (0, 100), _font(), letters)[2])
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, letters / 28, 1)[0][0])


def _font():
    if not _FONT:
        _FONT.append(cv2.FontFace("sans"))  # it finds the letters that it has not in the font of all scripts
    return _FONT[0]


_FONT: list = []


class VideoOut:
    """Writes frames as an MP4 whose clock is that of the source: each frame stands until the next one.

    Args:
        path: the file, which should be a temporary one until it is whole.
        fps: frames a second of the video.
        keeps_all: whether every frame is written, as for a file; a camera's may come faster than `fps`.
    """

    def __init__(self, path: Path, fps: float, keeps_all: bool):
        self._path, self._fps, self._keeps_all = path, fps, keeps_all
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0
        self._origin = 0.0

    def write(self, pixels: np.ndarray, seconds: float) -> None:
        """Writes a frame, uint8 [H, W, 3] BGR, of the time `seconds`.

        Raises:
            FaceError: this OpenCV cannot write MP4.
        """
        if self._writer is None:
            self._start(pixels)
        if pixels.shape[1::-1] != self._size:  # a camera that came back with another one
            pixels = cv2.resize(pixels, self._size, interpolation=cv2.INTER_AREA)
        due = int((seconds - self._origin) * self._fps + 0.01) + 1 - self._written
        most = max(1, int(LONGEST_GAP * self._fps))
        if due > most:
            self._origin += (due - most) / self._fps
        for _ in range(max(int(self._keeps_all), min(due, most))):
            assert self._writer is not None
            self._writer.write(pixels)
            self._written += 1

    def close(self) -> None:
        """Ends the file, which can be played from then on."""
        if self._writer is not None:
            self._writer.release()

    def check(self) -> None:
        """Refuses a file that is not whole, after `close`: OpenCV does not say when a disk is full.

        Raises:
            FaceError: it has not all frames.
        """
        if not self._written:
            raise FaceError("No frame was processed, so there is no annotated video. Leave out --out.")
        capture = cv2.VideoCapture(str(self._path))
        count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else 0.0
        capture.release()
        if round(count) != self._written:
            raise FaceError(
                f"The annotated video has {count:,.0f} of {self._written:,} frames: the others could not be written. "
                "Check that the disk is not full, or choose a different path."
            )

    def _start(self, pixels: np.ndarray) -> None:
        self._size = pixels.shape[1::-1]
        self._writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, self._size)
        if not self._writer.isOpened():
            raise FaceError(
                f"OpenCV cannot write the annotated video as MP4 of {self._size[0]}x{self._size[1]} pixels here. "
                "Leave out --out, or install opencv-python-headless from PyPI."
            )


class Window:
    """A window that shows frames.

    Raises:
        FaceError: this OpenCV has no windows, or there is no screen.
    """

    def __init__(self):
        has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        try:
            if not has_screen:
                raise FaceError("--show needs a screen, but DISPLAY is not set. Use --out MP4 instead.")
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise FaceError(
                "--show needs an OpenCV that can open windows, and the installed OpenCV cannot. Use --out MP4 "
                "instead, or replace the package: pip uninstall opencv-python-headless, pip install opencv-python."
            ) from error

    def show(self, pixels: np.ndarray) -> bool:
        """Shows a frame, uint8 [H, W, 3] BGR. Returns False once the user pressed q or Esc."""
        cv2.imshow(TITLE, pixels)
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)

    def close(self) -> None:
        """Closes the window."""
        cv2.destroyAllWindows()
