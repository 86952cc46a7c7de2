"""Thresholds for deployment: calibrated on a verification set, kept in the artefact's sidecar, used by predict.py.

For each FAR: the loosest distance at which at most that share of *all* impostor pairs of the set is accepted. Its
precision depends only on the number of impostor pairs, so each threshold has an interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.evaluation.metrics import Scores, can_resolve, wilson_interval
from facelib.evaluation.probability import Ratio
from facelib.files import require_file
from facelib.sidecar import Sidecar, read_sidecar

USUAL_PROTOCOLS = (None, "exact", "all-pairs")  # None in older sidecars
DEPLOYMENT_FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@dataclass(frozen=True)
class Calibrated:
    """One deployable threshold: the same person when squared L2 <= `distance`, which is cosine >= `cosine`.

    Attributes:
        set_name: the set that it was calibrated on.
        impostors: number of impostor pairs of that set.
        far: the FAR asked for.
        distance: squared L2 of unit vectors.
        cosine: the same threshold as a cosine.
        distance_ci95: 95 % interval of the threshold for `far`.
        far_ci95: 95 % interval of the true FAR at `distance`.
        flip: whether the embedding of the mirrored face is added.
        date: of the test, such as '2026-11-28'; None in older sidecars.
        executor: runtime and kernels of the test; None where it is not known.
    """

    set_name: str
    impostors: int
    far: float
    distance: float
    cosine: float
    distance_ci95: tuple[float, float]
    far_ci95: tuple[float, float]
    flip: bool = False
    date: str | None = None
    executor: str | None = None


def calibrate(
    scores: Scores, tar_interval: Callable[[float], tuple[float, float]], fars: Sequence[float] = DEPLOYMENT_FARS
) -> dict[str, dict[str, Any]]:
    """{"0.001": {"distance", "cosine", "distance_ci95", "far_ci95", "vr", "vr_ci95"}} for each FAR the set resolves.

    The ends of a threshold's interval are the distances that accept as many impostor pairs as the ends of Wilson's
    interval of the FAR (the sign-test interval of a quantile). A threshold below all distances is left out.

    Args:
        scores: all pairs of the set.
        tar_interval: gives the 95 % interval of the VR at a threshold.
        fars: each in (0, 1].
    """
    found = {}
    num_impostors = len(scores.impostor)
    for far in fars:
        if not can_resolve(num_impostors, far):
            continue
        point = scores.tar_at_far(far)
        if not math.isfinite(point.threshold):
            continue
        low, high = wilson_interval(round(point.far * num_impostors), num_impostors)
        ends = [scores.impostor[min(math.floor(end * num_impostors), num_impostors - 1)] for end in (low, high)]
        found[f"{far:g}"] = {
            "distance": point.threshold,
            "cosine": 1.0 - point.threshold / 2,
            "distance_ci95": [float(min(ends[0], point.threshold)), float(max(ends[1], point.threshold))],
            "far_ci95": [low, high],
            "vr": point.tar,
            "vr_ci95": list(tar_interval(point.threshold)),
        }
    return found


def too_few_impostors(set_name: str, impostors: int) -> str | None:
    """Says that a set is too small for every FAR, and how many impostor pairs the loosest needs; None if it is not."""
    loosest = max(DEPLOYMENT_FARS)
    if can_resolve(impostors, loosest):
        return None
    return (
        f"'{set_name}' has {impostors:,} impostor pairs, too few for any threshold: FAR {loosest:g} needs "
        f"{1 / loosest:,.0f}, FAR 0.001 needs 1,000"
    )


def is_usual(entry: dict[str, Any]) -> bool:
    """Whether thresholds are of all pairs of their set, without flip, by the exact protocol."""
    is_plain = not entry.get("drawn_from") and not entry.get("flip")
    return is_plain and entry.get("protocol") in USUAL_PROTOCOLS


def best_set(sets: dict[str, Any], chosen: str | None = None, far: float | None = None) -> str:
    """The set whose thresholds count: the chosen one; else one that has `far`, is usual and has most impostor pairs."""
    if chosen in sets:
        return str(chosen)
    return max(sets, key=lambda name: (far is None or f"{far:g}" in sets[name]["far"], is_usual(sets[name]),
                                       sets[name]["impostors"]))  # fmt: skip


def sets_of(sidecar: Sidecar | None, gallery_sha256: str | None = None) -> dict[str, Any]:
    """The calibrated thresholds of each set in a sidecar; {} if there are none.

    Args:
        sidecar: of the model of the probes.
        gallery_sha256: SHA-256 of the model of the gallery; None if it is the same.
    """
    sets = sidecar.rest.get("thresholds") if sidecar else None
    if sidecar and gallery_sha256:
        sets = sidecar.rest.get("gallery_thresholds", {}).get(gallery_sha256, {}).get("sets")
    return sets if isinstance(sets, dict) else {}


def calibration_set(sidecar: Sidecar, gallery_sha256: str | None = None) -> str | None:
    """The set that --calibrate chose; None if nobody did. Arguments as for `sets_of`."""
    rest = sidecar.rest.get("gallery_thresholds", {}).get(gallery_sha256, {}) if gallery_sha256 else sidecar.rest
    return rest.get("calibration_set")


def read_thresholds(
    artefact: Path, far: float, set_name: str | None = None, gallery_sha256: str | None = None
) -> Calibrated:
    """The calibrated threshold of `artefact`.

    Args:
        artefact: a model with a sidecar.
        far: the FAR it was calibrated for.
        set_name: the set it was calibrated on; default: that of `best_set`.
        gallery_sha256: SHA-256 of the model of the gallery; None if it is the same.

    Raises:
        FaceError: the sidecar has no threshold, none for this set, or none for this FAR.
    """
    sidecar = read_sidecar(require_file(artefact, "model"))
    sets = sets_of(sidecar, gallery_sha256)
    mend = f"Calibrate it: run the test script of '{artefact}' with --valid, or pass --threshold DISTANCE"
    if sidecar is None or not sets:
        raise FaceError(f"'{artefact}' has no calibrated threshold. {mend}.")
    if set_name is not None and set_name not in sets:
        raise FaceError(f"'{artefact}' is calibrated on {', '.join(sets)}, not on '{set_name}'. {mend}.")
    try:
        name = set_name or best_set(sets, calibration_set(sidecar, gallery_sha256), far)
        values, chosen = sets[name], sets[name]["far"].get(f"{far:g}")
        if chosen is None:
            raise FaceError(_no_threshold(artefact, far, name, values))
        return Calibrated(
            set_name=name,
            impostors=int(values["impostors"]),
            far=far,
            distance=float(chosen["distance"]),
            cosine=float(chosen["cosine"]),
            distance_ci95=_interval(chosen["distance_ci95"]),
            far_ci95=_interval(chosen["far_ci95"]),
            flip=bool(values["flip"]),
            date=values.get("date"),
            executor=values.get("executor"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FaceError(f"The thresholds in '{sidecar.path}' are damaged ({error!r}). {mend}.") from error


def read_ratio(artefact: Path, flip: bool) -> tuple[Ratio, str] | None:
    """(the log-likelihood ratio of a distance, the set it was calibrated on); None where the sidecar has none.

    Args:
        artefact: a model.
        flip: whether the embedding of the mirrored face is added.
    """
    sidecar = read_sidecar(artefact)
    sets = {
        name: one
        for name, one in sets_of(sidecar).items()
        if isinstance(one, dict) and one.get("probability") and bool(one.get("flip")) == flip
    }
    if sidecar is None or not sets:
        return None
    name = best_set(sets, calibration_set(sidecar))
    try:
        return Ratio.of(sets[name]["probability"]), name
    except (KeyError, TypeError, ValueError) as error:
        raise FaceError(
            f"The probability in '{sidecar.path}' is damaged ({error!r}). Run the test script of '{artefact}' again."
        ) from error


def _no_threshold(artefact: Path, far: float, name: str, values: dict[str, Any]) -> str:
    """Why the thresholds of a set have none for `far`, and what to do."""
    if why := too_few_impostors(name, values["impostors"]):
        return (
            f"'{artefact}' has no threshold: {why}. Run its test script with --valid and a larger set, or pass "
            f"--threshold DISTANCE."
        )
    return (
        f"'{name}' gave no threshold for FAR={far:g}. The set has {values['impostors']:,} impostor pairs, which gave "
        f"thresholds for FAR {', '.join(values['far']) or 'none'}. "
        f"{'Use one of these with --far, or c' if values['far'] else 'C'}alibrate on a larger set."
    )


def _interval(values) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
