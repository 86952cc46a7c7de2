"""Tracks: the faces of one person in the frames of a video, with one averaged embedding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from facelib.alignment.align import Crop

GAP = 1.0  # seconds that a face may be hidden or missed before its track ends,
GAP_FRAMES = 3.0  # and at least this many frames
LONGEST_STEP = 5.0  # seconds between two frames: after a longer one the camera was away
MIN_OVERLAP = 0.2  # intersection over union of a face with the place where its track expects it
CLEARLY_OTHER = 1.0  # squared L2: two overlapping faces below it are one person, whatever the threshold
MIN_WEIGHT = 0.05  # of a face of quality 0 in the average
FORGOTTEN = 100.0  # sum of weights beyond which old faces count less

Box = tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass
class Track:
    """One person from one appearance to the disappearance.

    Attributes:
        number: from 1, in the order of appearance.
        first: seconds of the first frame with the face.
        last: seconds of the last one.
        box: in that frame.
        num_frames: how many frames show the face.
        best: the face of the highest quality.
        best_frame: the number of its frame.
        best_seconds: the time of its frame.
    """

    number: int
    first: float
    last: float
    box: Box
    best: Crop
    best_frame: int
    best_seconds: float
    num_frames: int = 0
    _sum: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _weights: float = 0.0
    _latest: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _speed: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def vector(self) -> np.ndarray:
        """The averaged embedding, float32 [D], of unit length; a face counts as much as its quality."""
        length = float(np.linalg.norm(self._sum))
        return (self._sum / length if length > 1e-6 else self._latest).astype(np.float32)

    def distance(self, vector: np.ndarray) -> float:
        """Squared L2 to the average or to the latest face, whichever is nearer."""
        nearest = max(float(self.vector @ vector), float(self._latest @ vector))
        return max(0.0, 2.0 - 2.0 * nearest)

    def expected(self, seconds: float) -> Box:
        """Where the face is expected if it goes on moving as it did."""
        x, y, width, height = self.box
        dx, dy = self._speed * min(seconds - self.last, GAP)
        return x + dx, y + dy, width, height

    def add(self, crop: Crop, vector: np.ndarray, frame: int, seconds: float) -> None:
        """Takes the face of one more frame.

        Args:
            crop: the face.
            vector: float32 [D], its embedding, of unit length.
            frame: number of the frame.
            seconds: time of the frame.
        """
        box, weight = box_of(crop), max(MIN_WEIGHT, crop.quality.score)
        if self.num_frames and seconds > self.last:
            speed = (_centre(box) - _centre(self.box)) / (seconds - self.last)
            self._speed = speed if self.num_frames == 1 else 0.6 * self._speed + 0.4 * speed
        share = min(1.0, FORGOTTEN / (self._weights + weight))
        self._sum = weight * vector.astype(np.float64) + (share * self._sum if self.num_frames else 0.0)
        self._weights = share * self._weights + weight
        self._latest, self.box, self.last = vector, box, seconds
        if not self.num_frames or crop.quality.score > self.best.quality.score:
            self.best, self.best_frame, self.best_seconds = crop, frame, seconds
        self.num_frames += 1


class Tracker:
    """Gives each face of a frame to a track.

    A face goes on with a track if it lies where the track expects it and does not look clearly different, or if it
    looks like the track by the threshold, wherever it is. The best pairs of faces and tracks are taken first.

    Args:
        threshold: squared L2; two faces within it are the same person.
    """

    def __init__(self, threshold: float):
        self._near, self._there = threshold, max(threshold, CLEARLY_OTHER)
        self._tracks: list[Track] = []
        self._count = 0
        self._seconds: float | None = None
        self._step = 0.0

    def update(
        self, crops: Sequence[Crop], vectors: np.ndarray, frame: int, seconds: float
    ) -> tuple[list[Track], list[Track]]:
        """Takes the faces of the next frame.

        Args:
            crops: the faces of the frame.
            vectors: float32 [N, D], their embeddings, of unit length.
            frame: number of the frame.
            seconds: time of the frame.

        Returns:
            The track of each face, and the tracks that ended.
        """
        gap = self._gap(seconds)
        ended = [track for track in self._tracks if seconds - track.last > gap]
        self._tracks = [track for track in self._tracks if seconds - track.last <= gap]
        given = self._pairs(crops, vectors, seconds)
        shown = []
        for i, (crop, vector) in enumerate(zip(crops, vectors, strict=True)):
            track = given.get(i)
            if track is None:
                self._count += 1
                track = Track(self._count, seconds, seconds, box_of(crop), crop, frame, seconds)
                self._tracks.append(track)
            track.add(crop, vector, frame, seconds)
            shown.append(track)
        return shown, ended

    def finish(self) -> list[Track]:
        """The tracks that are left at the end."""
        ended, self._tracks = self._tracks, []
        return ended

    def _gap(self, seconds: float) -> float:
        """Seconds after which a track ends: longer where frames are rare."""
        step = seconds - self._seconds if self._seconds is not None else 0.0
        self._seconds = seconds
        if step < LONGEST_STEP:
            self._step = 0.8 * self._step + 0.2 * step if self._step else step
        return max(GAP, GAP_FRAMES * self._step)

    def _pairs(self, crops: Sequence[Crop], vectors: np.ndarray, seconds: float) -> dict[int, Track]:
        """The track of each face that has one, by the number of the face."""
        scored = []
        for k, track in enumerate(self._tracks):
            there = track.expected(seconds)
            for i, crop in enumerate(crops):
                share, distance = overlap(box_of(crop), there), track.distance(vectors[i])
                if distance <= (self._there if share >= MIN_OVERLAP else self._near):
                    scored.append((share - distance, i, k))
        given: dict[int, Track] = {}
        taken = set()
        for _, i, k in sorted(scored, key=lambda pair: -pair[0]):
            if i not in given and k not in taken:
                given[i] = self._tracks[k]
                taken.add(k)
        return given


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)


def box_of(crop: Crop) -> Box:
    """Where a face is in its frame; the whole of it for a crop."""
    height, width = crop.pixels.shape[:2]
    return crop.box or (0.0, 0.0, float(width), float(height))


def _centre(box: Box) -> np.ndarray:
    return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])
