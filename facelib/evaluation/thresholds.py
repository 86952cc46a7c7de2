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
from facelib.files import require_file, write_json
from facelib.sidecar import Sidecar, read_sidecar

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
    """

    set_name: str
    impostors: int
    far: float
    distance: float
    cosine: float
    distance_ci95: tuple[float, float]
    far_ci95: tuple[float, float]
    flip: bool = False


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


def write_thresholds(
    artefact: Path, sets: dict[str, dict[str, Any]], gallery_model: dict[str, str] | None = None
) -> Path | None:
    """Adds calibrated thresholds to the sidecar of `artefact`; those of other sets stay.

    Thresholds of some pairs of a set replace none of all its pairs.

    Args:
        artefact: the tested file.
        sets: {set name: {"sha256", "impostors", "flip", "far": what `calibrate` returned}}, with "drawn_from", the
            number of pairs of the set, where only some of them were tested.
        gallery_model: {"name", "sha256"} of the model that embedded the second face of each pair; None if it is the
            same.

    Returns: path of the sidecar; None when nothing was written: the artefact has no sidecar, or one with thresholds of
        all pairs.
    """
    sidecar = read_sidecar(artefact)
    if sidecar is None:
        return None
    old = sets_of(sidecar, gallery_model["sha256"] if gallery_model else None)
    new = {name: one for name, one in sets.items() if "drawn_from" not in one or "drawn_from" in old.get(name, one)}
    if not new:
        return None
    key, value = "thresholds", {**old, **new}
    if gallery_model:
        key, others = "gallery_thresholds", sidecar.rest.get("gallery_thresholds", {})
        value = {**others, gallery_model["sha256"]: {"model": gallery_model["name"], "sets": value}}
    write_json(sidecar.path, {**sidecar.rest, key: value})
    return sidecar.path


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


def read_thresholds(
    artefact: Path, far: float, set_name: str | None = None, gallery_sha256: str | None = None
) -> Calibrated:
    """The calibrated threshold of `artefact`.

    Args:
        artefact: a model with a sidecar.
        far: the FAR it was calibrated for.
        set_name: the set it was calibrated on; default: the set with most impostor pairs.
        gallery_sha256: SHA-256 of the model of the gallery; None if it is the same.

    Raises:
        FaceError: the sidecar has no threshold, none for this set, or none for this FAR.
    """
    sidecar = read_sidecar(require_file(artefact, "model"))
    sets = sets_of(sidecar, gallery_sha256)
    mend = f"Calibrate it: run the test script of '{artefact}' with --valid, or say --threshold DISTANCE"
    if sidecar is None or not sets:
        raise FaceError(f"'{artefact}' has no calibrated threshold. {mend}.")
    if set_name is not None and set_name not in sets:
        raise FaceError(f"'{artefact}' is not calibrated on '{set_name}' but on {', '.join(sets)}. {mend}.")
    try:
        name = set_name or max(sets, key=lambda key: (f"{far:g}" in sets[key]["far"], sets[key]["impostors"]))
        values, chosen = sets[name], sets[name]["far"].get(f"{far:g}")
        if chosen is None:
            raise FaceError(
                f"'{name}' gave no threshold for FAR={far:g}. The set has {values['impostors']:,} impostor "
                f"pairs, which gave thresholds for FAR {', '.join(values['far']) or 'none'}. Ask for one of "
                "these, or calibrate on a larger set."
            )
        return Calibrated(
            set_name=name,
            impostors=int(values["impostors"]),
            far=far,
            distance=float(chosen["distance"]),
            cosine=float(chosen["cosine"]),
            distance_ci95=_interval(chosen["distance_ci95"]),
            far_ci95=_interval(chosen["far_ci95"]),
            flip=bool(values["flip"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FaceError(f"The thresholds in '{sidecar.path}' are damaged ({error!r}). {mend}.") from error


def _interval(values) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
