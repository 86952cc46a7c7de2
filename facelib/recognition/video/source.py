"""Where frames come from: a video file, a camera, or the address of a stream. A camera that vanishes is waited for."""

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file

USUAL_FPS = 25.0  # where a source does not say its rate
MAX_FPS = 240.0  # above it, what a source says is its clock and not its rate
OPEN_MS, READ_MS = 10_000, 10_000  # how long a stream may take to open, and to give a frame
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds before a camera is opened again: doubled each time
CUT_SHORT = 0.9  # a file that has a smaller share of the frames that it names is cut short


@dataclass(frozen=True)
class Frame:
    """A frame of a source.

    Attributes:
        number: of the frame in the source, from 0; a camera counts from its start.
        seconds: since the first frame.
        pixels: uint8 [H, W, 3], BGR, as OpenCV gives them.
    """

    number: int
    seconds: float
    pixels: np.ndarray


class VideoSource:
    """A video file, a camera or a stream, opened.

    Args:
        name: a path, the number of a camera, or an address such as rtsp://HOST/PATH.
        say: gets a line when a camera vanishes and when it is back, and when a file is cut short.

    Attributes:
        name: for messages, without the password of an address.
        is_live: whether frames come by the clock, so that those that nobody takes are lost.
        fps: frames a second, as the source says.
        num_frames: in the file, as it says; 0 where it is not known.
        started: time of the first frame of a live source, in seconds since 1970.

    Raises:
        FaceError: no such file or camera, or it gives no frame.
    """

    def __init__(self, name: str, say: Callable[[str], None]):
        quiet_opencv()
        self.name = without_password(name)
        self._target, self.is_live = _target_of(name)
        self._say, self._stopped = say, threading.Event()
        self._capture = self._open()
        self._first = _read(self._capture) if self._capture is not None else None
        if self._first is None:
            self.close()
            raise FaceError(self._refusal())
        self.started = time.time()
        fps = self._capture.get(cv2.CAP_PROP_FPS) if self._capture is not None else 0.0
        self.fps = fps if 0 < fps <= MAX_FPS else USUAL_FPS
        count = 0.0 if self.is_live or self._capture is None else self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(count) if 0 < count < 1e9 else 0

    def frames(self) -> Iterator[Frame]:
        """All frames, the first one too. Those of a live source never end."""
        begin, number, last = time.monotonic(), 0, -1.0
        pixels, self._first = self._first, None
        while pixels is not None:
            seconds = time.monotonic() - begin if self.is_live else self._place(number, last)
            yield Frame(number, seconds, pixels)
            number, last = number + 1, seconds
            pixels = _read(self._capture) if self._capture is not None else None
            if pixels is None and self.is_live:
                pixels = self._reopened()
        if number < CUT_SHORT * self.num_frames:
            self._say(
                f"'{self.name}' ends after {number:,} of {self.num_frames:,} frames: the file is cut short or "
                "damaged. Copy the file again"
            )

    def stop(self) -> None:
        """Ends the waiting for a camera that vanished."""
        self._stopped.set()

    def close(self) -> None:
        """Gives the camera or the file back."""
        if self._capture is not None:
            self._capture.release()

    def _open(self) -> cv2.VideoCapture | None:
        """The capture; None if it does not open."""
        try:
            if isinstance(self._target, str) and "://" in self._target:
                limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
                capture = cv2.VideoCapture(self._target, cv2.CAP_FFMPEG, limits)
            else:
                capture = cv2.VideoCapture(self._target)
        except cv2.error:
            return None
        return capture if capture.isOpened() else None

    def _place(self, number: int, last: float) -> float:
        """Seconds of a frame of a file; by its number where the file has no times."""
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0 if self._capture is not None else 0.0
        return seconds if seconds > last and (seconds > 0 or number == 0) else max(last, 0.0) + 1.0 / self.fps

    def _reopened(self) -> np.ndarray | None:
        """Waits until the source gives frames again; returns the first one, or None if it is stopped."""
        lost, wait = time.monotonic(), FIRST_WAIT
        self._say(f"{self.name} gives no more frames: waiting until it does")
        self.close()
        while not self._stopped.wait(wait):
            self._capture = self._open()
            if self._capture is not None and (pixels := _read(self._capture)) is not None:
                self._say(f"{self.name} is back after {time.monotonic() - lost:.0f} s")
                return pixels
            self.close()
            wait = min(2 * wait, LONGEST_WAIT)
        return None

    def _refusal(self) -> str:
        if not self.is_live:
            return (
                f"A video must have frames that OpenCV can decode. '{self.name}' has none: the file is damaged, empty "
                "or not a video. Copy the file again, or convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"
            )
        return (
            f"A camera must give frames when it is opened. {self.name} gave none: check that the camera is connected, "
            "that its number or address is right, and that no other program uses it."
        )


def quiet_opencv() -> None:
    """Keeps OpenCV and FFmpeg from printing: their lines name no file, and errors here say what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, at the first video
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def without_password(name: str) -> str:
    """The name of a source as it may be printed: rtsp://user:***@host/path."""
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", name)


def _target_of(name: str) -> tuple[str | int, bool]:
    """(what OpenCV opens, whether it is live)."""
    if name.isdecimal() and name.isascii():
        return int(name[:9]), True
    if "://" in name:
        return name, True
    path = Path(name)
    try:
        if stat.S_ISCHR(path.stat().st_mode) and path.name.startswith("video"):  # /dev/video0
            return str(path), True
    except (OSError, ValueError):
        pass
    return str(require_file(path, "video")), False


def _read(capture: cv2.VideoCapture) -> np.ndarray | None:
    """The next frame, uint8 [H, W, 3] BGR; None at the end, or if the camera gives none."""
    try:
        is_read, pixels = capture.read()
    except cv2.error:  # a frame that does not fit into memory, a damaged one
        return None
    return pixels if is_read and pixels is not None and pixels.ndim == 3 and pixels.size else None
