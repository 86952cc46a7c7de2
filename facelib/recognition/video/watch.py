"""Watches a source: one thread reads frames, one finds and aligns faces, the calling one embeds, tracks and draws.

Bounded queues lie between them. Frames of a file wait for the slowest part; those of a camera are dropped, so that the
picture stays that of the clock.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from facelib.alignment.align import Crop, cut_faces
from facelib.alignment.detect import Face
from facelib.embedder import Embedder
from facelib.recognition.photo_embeddings import unit_vectors
from facelib.recognition.video.annotate import VideoOut, Window, draw_face
from facelib.recognition.video.events import MIN_FRAMES, Answer, Identify
from facelib.recognition.video.frame_faces import FollowingDetector, FrameFaces
from facelib.recognition.video.handover import Handover
from facelib.recognition.video.source import Frame, VideoSource
from facelib.recognition.video.tracks import LONGEST_STEP, Track, Tracker

WAITING = 2  # frames between two threads at most
PARTS = ("read", "detect", "align", "embed", "identify", "draw")
END_SECONDS = 2.0  # how long a thread may take to end


@dataclass
class Watched:
    """What was done, for the last line.

    Attributes:
        frames: looked at.
        faces: found in them.
        dropped: frames of a camera for which there was no time.
        brief: tracks of too few frames for an event.
        people: how many events name each person; the key None counts the unknown.
        seconds: from the first frame to the end.
        parts: seconds of work of each of `PARTS`. They overlap.
    """

    frames: int = 0
    faces: int = 0
    dropped: int = 0
    brief: int = 0
    people: Counter = field(default_factory=Counter)
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))

    def milliseconds(self) -> dict[str, float]:
        """Work of each part, ms a frame."""
        return {part: 1000 * seconds / max(1, self.frames) for part, seconds in self.parts.items()}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time of the block to a part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.parts[part] += time.perf_counter() - started


class Due:
    """Chooses the frames that are looked at.

    Args:
        every: every Nth frame.
        max_fps: at most so many frames a second of the source; None for no limit.
    """

    def __init__(self, every: int = 1, max_fps: float | None = None):
        self._every, self._max_fps, self._slot = every, max_fps, -1

    def __call__(self, frame: Frame) -> bool:
        """Whether a frame is looked at."""
        if frame.number % self._every:
            return False
        if self._max_fps is None:
            return True
        slot = int(frame.seconds * self._max_fps + 0.01)
        is_due, self._slot = slot > self._slot, max(slot, self._slot)
        return is_due


class Watch:
    """Finds, follows and identifies the faces of a source.

    Args:
        source: of the frames.
        detector: finds the faces, and follows them.
        embedder: embeds them.
        flip: whether the embeddings of mirrored faces are added.
        identify: tells who an embedding is.
        threshold: squared L2; two faces within it are the same person.
        due: chooses the frames.

    Attributes:
        done: what was done up to now.
    """

    def __init__(
        self,
        source: VideoSource,
        detector: FollowingDetector,
        embedder: Embedder,
        flip: bool,
        identify: Identify,
        threshold: float,
        due: Due,
    ):
        self._source, self._embedder, self._flip, self._identify = source, embedder, flip, identify
        self.done = Watched()
        self._faces = FrameFaces(detector)
        self._tracker, self._due = Tracker(threshold), due
        self._frames: Handover[Frame] = Handover(WAITING, drops=source.is_live)
        self._found: Handover[tuple[Frame, list[Crop]]] = Handover(WAITING)

    def run(
        self,
        tell: Callable[[Track, Answer], None],
        out: VideoOut | None = None,
        window: Window | None = None,
        progress: Callable[[int], object] = lambda count: None,
    ) -> None:
        """Looks at the source until it ends, the window is closed, or, for a camera, Ctrl-C.

        Args:
            tell: gets each track that ended, and who it is.
            out: gets the frames with boxes and names.
            window: shows them.
            progress: gets 1 for each frame.
        """
        threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._find)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        try:
            came = time.monotonic()
            for item in self._found.with_pauses():
                if item is None:
                    if self._source.is_live and time.monotonic() - came > LONGEST_STEP:  # the camera is away
                        self._tell(self._tracker.finish(), tell)
                    continue
                if not self._look(*item, tell, out, window):
                    break
                progress(1)
                came = time.monotonic()
        except KeyboardInterrupt:
            if not self._source.is_live:
                raise
        finally:
            self._source.stop()
            self._frames.stop()
            self._found.stop()
            for thread in threads:
                thread.join(END_SECONDS)
            if not threads[0].is_alive():  # a capture that another thread still reads must not be closed
                self._source.close()
            self.done.seconds = time.perf_counter() - started
            self.done.dropped = self._frames.dropped
        self._tell(self._tracker.finish(), tell)

    def _read(self) -> None:
        """The first thread: source -> frames."""
        error: BaseException | None = None
        try:
            frames = self._source.frames()
            while True:
                with self.done.timed("read"):
                    frame = next(frames, None)
                if frame is None or (self._due(frame) and not self._frames.put(frame)):
                    break
        except BaseException as found:
            error = found
        self._frames.finish(error)

    def _find(self) -> None:
        """The second thread: frames -> aligned faces."""
        error: BaseException | None = None
        try:
            for frame in self._frames:
                photo = cv2.cvtColor(frame.pixels, cv2.COLOR_BGR2RGB)
                with self.done.timed("detect"):
                    faces = self._faces.find(photo, frame.seconds)
                with self.done.timed("align"):
                    crops, _ = cut_faces(photo, _Found(faces), "all")
                if not self._found.put((frame, crops)):
                    break
        except BaseException as found:
            error = found
        self._frames.stop()
        self._found.finish(error)

    def _look(
        self,
        frame: Frame,
        crops: list[Crop],
        tell: Callable[[Track, Answer], None],
        out: VideoOut | None,
        window: Window | None,
    ) -> bool:
        """Embeds, follows, identifies and draws the faces of a frame. Returns False to end."""
        with self.done.timed("embed"):
            vectors = self._embed(frame, crops)
        with self.done.timed("identify"):
            shown, ended = self._tracker.update(crops, vectors, frame.number, frame.seconds)
            answers = [self._identify(track.vector) for track in shown] if out or window else []
            self._tell(ended, tell)
        goes_on = True
        with self.done.timed("draw"):
            for track, answer in zip(shown, answers, strict=False):
                draw_face(frame.pixels, track.box, str(answer), answer.name is not None)
            if out:
                out.write(frame.pixels, frame.seconds)
            if window:
                goes_on = window.show(frame.pixels)
        self.done.frames += 1
        self.done.faces += len(crops)
        return goes_on

    def _embed(self, frame: Frame, crops: list[Crop]) -> np.ndarray:
        if not crops:
            return np.zeros((0, 0), np.float32)
        places = [f"a face in frame {frame.number} of '{self._source.name}'"] * len(crops)
        return unit_vectors(self._embedder, np.stack([crop.pixels for crop in crops]), self._flip, places)

    def _tell(self, ended: list[Track], tell: Callable[[Track, Answer], None]) -> None:
        for track in ended:
            if track.num_frames < MIN_FRAMES:
                self.done.brief += 1
                continue
            answer = self._identify(track.vector)
            self.done.people[answer.name] += 1
            tell(track, answer)


class _Found(NamedTuple):
    """In the place of a detector: the faces of a frame are known."""

    faces: list[Face]

    def detect(self, photo: np.ndarray) -> list[Face]:
        """The faces."""
        return self.faces
