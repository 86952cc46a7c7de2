"""Who a track is, by its averaged embedding, and its event as JSON."""

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from facelib.evaluation.nearest import Nearest
from facelib.evaluation.probability import Ratio, probability
from facelib.recognition.decision import Decision
from facelib.recognition.gallery import Gallery
from facelib.recognition.video.tracks import Track, box_of

MIN_FRAMES = 3  # a face in fewer frames makes no event: most are other things, or a face that was half hidden


@dataclass(frozen=True)
class Answer:
    """Who a face is.

    Attributes:
        name: of the nearest person of the gallery; None if nobody is within the threshold.
        distance: squared L2 to the nearest person, enrolled or not.
        probability: that it is that person; None where the model is not calibrated for it.
    """

    name: str | None
    distance: float
    probability: float | None = None

    def __str__(self) -> str:
        sure = "" if self.probability is None else f" {100 * self.probability:.0f} %"
        return f"{self.name or 'unknown'} {self.distance:.2f}{sure}"


class Identify:
    """Embedding -> `Answer`, from a gallery.

    Args:
        gallery: the enrolled people.
        decision: the threshold.
        ratio: calibrated, for the probability; None where the model has none.
    """

    def __init__(self, gallery: Gallery, decision: Decision, ratio: Ratio | None = None):
        self._names, self._nearest = gallery.names, Nearest(gallery.vectors)
        self._decision, self._ratio = decision, ratio
        self._prior = 1.0 / (len(gallery) + 1)  # everybody in the gallery, and a stranger, are equally likely

    def __call__(self, vector: np.ndarray) -> Answer:
        """Who has this embedding, float32 [D] of unit length."""
        found = self._nearest(vector, 1)
        distance = float(np.clip(2.0 - 2.0 * float(found.cosines[0]), 0.0, 4.0))
        name = self._names[int(found.rows[0])] if distance <= self._decision.distance else None
        sure = probability(float(self._ratio.at(distance)), self._prior) if self._ratio else None
        return Answer(name, distance, sure)


def event_of(track: Track, answer: Answer, started: float | None) -> dict:
    """The event of a track that ended, as JSON: who, from when to when in seconds, and the best frame.

    Args:
        track: that ended.
        answer: who it is.
        started: time of the first frame of a live source, in seconds since 1970; None for a file.
    """
    event: dict = {"who": answer.name, "from": round(track.first, 3), "to": round(track.last, 3)}
    if started is not None:
        for name, seconds in (("from_time", track.first), ("to_time", track.last)):
            event[name] = datetime.fromtimestamp(started + seconds, UTC).isoformat(timespec="milliseconds")
    event["distance"] = round(answer.distance, 4)
    if answer.probability is not None:
        event["probability"] = round(answer.probability, 4)
    best = {
        "frame": track.best_frame,
        "seconds": round(track.best_seconds, 3),
        "box": [round(value) for value in box_of(track.best)],
        "quality": round(track.best.quality.score, 3),
    }
    return {**event, "frames": track.num_frames, "track": track.number, "best_frame": best}
