"""Same person or not (1:1): the threshold, where it came from, and the picture of a verdict."""

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.metrics import check_far
from facelib.evaluation.thresholds import Calibrated, read_thresholds

_GROUND, _TEXT, _FAINT = "#ffffff", "#24292f", "#6e7781"
_SAME, _DIFFERENT = "#0072b2", "#d55e00"  # Okabe and Ito: told apart by colour-blind readers
_SIZE, _DPI = (6.0, 4.4), 160  # inches

DEFAULT_FAR = 1e-3
MAX_DISTANCE = 4.0  # squared L2 of opposite unit vectors


@dataclass(frozen=True)
class OpenSet:
    """What a threshold for a gallery is made for.

    Attributes:
        fpir: the share of strangers who are taken for somebody in the gallery.
        people: who are in the gallery.
    """

    fpir: float
    people: int


@dataclass(frozen=True)
class Decision:
    """A threshold: the same person when squared L2 <= `distance`.

    Attributes:
        distance: squared L2 of unit vectors, 0 to 4.
        calibrated: where the distance came from; None when the user gave it, or the people of a gallery.
        open_set: the gallery that it was made for; None for a threshold of one comparison.
    """

    distance: float
    calibrated: Calibrated | None = None
    open_set: OpenSet | None = None

    @property
    def far(self) -> float | None:
        """The false-accept rate of one comparison, or None when nothing is known about it."""
        return self.calibrated.far if self.calibrated else None

    @property
    def flip(self) -> bool:
        """Whether the mirrored face is added."""
        return bool(self.calibrated and self.calibrated.flip)

    def __str__(self) -> str:
        size = f"for FPIR {self.open_set.fpir:g} among {self.open_set.people:,} people" if self.open_set else ""
        if self.calibrated is None:
            return f"threshold {self.distance:.4f}" + (f" {size}, measured among them" if size else ", given")
        way = f"{size}, by" if size else "for"
        low, high = self.calibrated.far_ci95
        source = f"{self.calibrated.set_name}: {self.calibrated.impostors:,} impostor pairs{_when(self.calibrated)}"
        return (
            f"threshold {self.distance:.4f} {way} FAR {self.far:g} ({low:.2g} to {high:.2g} with 95 % confidence), "
            f"calibrated on {source}"
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
        open_set = value.get("open_set")  # galleries of version 0.2 have none
        if open_set is not None:
            open_set = OpenSet(float(open_set["fpir"]), int(open_set["people"]))
        decision = cls(float(value["distance"]), calibrated, open_set)
        if not 0 <= decision.distance <= MAX_DISTANCE:
            raise ValueError(f"a threshold must be from 0 to {MAX_DISTANCE:g}")
        str(decision)  # raises for a value that is no number where one is printed
        return decision


def about(count: float) -> str:
    """An expected number with two digits below 10: '0.06', '1,000'."""
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def decide_by(model: Path, far: float | None, threshold: float | None, gallery_sha256: str | None = None) -> Decision:
    """`threshold` when given, else the calibrated one of `model` at `far` (default: `DEFAULT_FAR`).

    Args:
        model: embeds the probe.
        far: the rate of the calibrated threshold.
        threshold: squared L2 distance.
        gallery_sha256: SHA-256 of the model that embedded the gallery; None if it is the same.

    Raises:
        FaceError: the threshold is not a distance, or the FAR is not a rate or `model` is not calibrated for it.
    """
    if threshold is not None:
        if not 0 <= threshold <= MAX_DISTANCE:  # also refuses NaN
            raise FaceError(f"--threshold must be a squared L2 distance from 0 to 4. Received: {threshold:g}.")
        return Decision(threshold)
    far = check_far(DEFAULT_FAR if far is None else far)
    calibrated = read_thresholds(model, far, gallery_sha256=gallery_sha256)
    return Decision(calibrated.distance, calibrated)


def verdict_picture(faces: list[np.ndarray], names: list[str], distance: float, decision: Decision) -> bytes:
    """PNG bytes.

    Args:
        faces: two faces, uint8 [112, 112, 3], RGB, as they were embedded.
        names: their captions.
        distance: squared L2 of their embeddings.
        decision: the threshold.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    is_same = distance <= decision.distance
    colour, verdict = (_SAME, "same person") if is_same else (_DIFFERENT, "different people")
    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor=_GROUND)
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.925, verdict, ha="center", va="center", fontsize=19, weight="bold", color=colour)
    for left, face, name in zip((0.115, 0.525), faces, names, strict=True):
        ax = figure.add_axes((left, 0.355, 0.36, 0.49))
        ax.imshow(face, interpolation="lanczos")
        ax.set(xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=2)
        ax.set_xlabel(_shortened(name), fontsize=9, color=_TEXT, labelpad=5, parse_math=False)
    _draw_scale(figure.add_axes((0.1, 0.165, 0.8, 0.055)), distance, decision, colour)
    note = f"distance (squared L2) {distance:.4f}   cosine {1 - distance / 2:.4f}   threshold {decision.distance:.4f}"
    figure.text(0.5, 0.055, note, ha="center", fontsize=10, color=_TEXT)
    figure.text(0.5, 0.015, _origin(decision), ha="center", fontsize=8, color=_FAINT, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_GROUND, metadata={"Software": None})
    return buffer.getvalue()


def _draw_scale(ax, distance: float, decision: Decision, colour: str) -> None:
    """A bar from 0 to 4, split at the threshold, its 95 % interval shaded, a mark at the distance."""
    ax.axvspan(0, decision.distance, color=_SAME, alpha=0.22, linewidth=0)
    ax.axvspan(decision.distance, MAX_DISTANCE, color=_DIFFERENT, alpha=0.22, linewidth=0)
    if decision.calibrated:
        ax.axvspan(*decision.calibrated.distance_ci95, color=_TEXT, alpha=0.25, linewidth=0)
    ax.axvline(decision.distance, color=_TEXT, linewidth=1.4)
    ax.plot([distance], [1.3], marker="v", markersize=11, color=colour, clip_on=False, zorder=3)
    ax.set(xlim=(0, MAX_DISTANCE), ylim=(0, 1), yticks=[], xticks=range(5))
    ax.tick_params(colors=_FAINT, labelsize=8, length=2)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _when(calibrated: Calibrated) -> str:
    """' (2026-11-28, LiteRT, XNNPACK)', as far as it is known."""
    facts = ", ".join(filter(None, (calibrated.date, calibrated.executor)))
    return f" ({facts})" if facts else ""


def _origin(decision: Decision) -> str:
    known = decision.calibrated
    if known is None:
        return "threshold given by the user"
    name = _shortened(known.set_name, 24)
    return f"threshold for FAR {known.far:g} from {name}, {known.impostors:,} impostor pairs; shaded: its 95 % interval"


def _shortened(name: str, limit: int = 34) -> str:
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-limit // 2 :]}"
