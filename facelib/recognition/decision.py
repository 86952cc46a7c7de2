"""Same person or not: the distance that decides, where it came from, and what may be expected of it."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from facelib.errors import FaceError
from facelib.evaluation.thresholds import Calibrated, read_thresholds

DEFAULT_FAR = 1e-3
MAX_DISTANCE = 4.0  # squared L2 of opposite unit vectors


@dataclass(frozen=True)
class Decision:
    """The same person when squared L2 <= `distance`.

    calibrated: where the distance came from; None when the user gave it.
    """

    distance: float
    calibrated: Calibrated | None = None

    @property
    def far(self) -> float | None:
        """The false-accept rate of one comparison, or None when nothing is known about it."""
        return self.calibrated.far if self.calibrated else None

    @property
    def flip(self) -> bool:
        """Whether the mirrored face is added."""
        return bool(self.calibrated and self.calibrated.flip)

    def __str__(self) -> str:
        if self.calibrated is None:
            return f"threshold {self.distance:.4f}, given"
        low, high = self.calibrated.far_ci95
        return (
            f"threshold {self.distance:.4f} for FAR {self.far:g} ({low:.2g} to {high:.2g} with 95 % confidence), "
            f"calibrated on {self.calibrated.set_name}: {self.calibrated.impostors:,} impostor pairs"
        )

    def as_dict(self) -> dict:
        """JSON; see `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict) -> "Decision":
        """Raises KeyError, TypeError or ValueError for what `as_dict` did not write."""
        calibrated = value["calibrated"]
        if calibrated is not None:
            ends = {key: tuple(map(float, calibrated[key])) for key in ("distance_ci95", "far_ci95")}
            calibrated = Calibrated(**{**calibrated, **ends})
        return cls(float(value["distance"]), calibrated)


def about(count: float) -> str:
    """An expected number, as precise as it deserves: '0.06', '1,000'."""
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def decide_by(model: Path, far: float | None, threshold: float | None) -> Decision:
    """`threshold` when given, else the calibrated one of `model` at `far` (default: `DEFAULT_FAR`).

    Raises:
        FaceError: a threshold that is no distance, a FAR that is no rate, or one that `model` is not calibrated for.
    """
    if threshold is not None:
        if not 0 <= threshold <= MAX_DISTANCE:  # also refuses NaN
            raise FaceError(f"A threshold is a squared L2 distance, 0 to 4. Received: --threshold {threshold:g}.")
        return Decision(threshold)
    far = DEFAULT_FAR if far is None else far
    if not (math.isfinite(far) and 0 < far <= 1):
        raise FaceError(f"A FAR is a rate above 0 and at most 1, such as 0.001. Received: --far {far:g}.")
    calibrated = read_thresholds(model, far)
    return Decision(calibrated.distance, calibrated)
