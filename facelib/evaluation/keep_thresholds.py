"""Which thresholds a sidecar keeps when its artefact is tested again: a threshold is a decision, not a side effect.

A test writes thresholds only where they are not worse than those that are there: of all pairs, without flip, by the
exact protocol, on the same executor, and of as many impostor pairs. `--calibrate` writes them whatever they are, and
names the set to deploy.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.evaluation.thresholds import (
    USUAL_PROTOCOLS,
    best_set,
    calibration_set,
    is_usual,
    sets_of,
    too_few_impostors,
)
from facelib.files import write_json
from facelib.sidecar import Sidecar, read_sidecar


@dataclass(frozen=True)
class Written:
    """What a test did to the thresholds in a sidecar.

    Attributes:
        path: the sidecar; None when it did not change.
        notes: what was kept or replaced, and why.
    """

    path: Path | None = None
    notes: tuple[str, ...] = ()


def write_thresholds(
    artefact: Path,
    sets: dict[str, dict[str, Any]],
    gallery_model: dict[str, str] | None = None,
    *,
    calibrate: bool = False,
) -> Written:
    """Adds calibrated thresholds to the sidecar of `artefact`; those of other sets stay, and so do better ones.

    Args:
        artefact: the tested file.
        sets: {set name: {"sha256", "pairs", "impostors", "flip", "protocol", "date", "executor", "far": what
            `thresholds.calibrate` returned}}, with "drawn_from", the number of pairs of the set, where only some of
            them were tested.
        gallery_model: {"name", "sha256"} of the model that embedded the second face of each pair; None if it is the
            same.
        calibrate: replace what is there, and deploy the largest of `sets`.

    Raises:
        FaceError: `calibrate`, and there is no sidecar, or no set is large enough for a threshold.
    """
    sidecar = read_sidecar(artefact)
    if calibrate:
        _check_calibration(artefact, sidecar, sets)
    if sidecar is None:
        return Written()
    gallery_sha256 = gallery_model["sha256"] if gallery_model else None
    old, chosen = sets_of(sidecar, gallery_sha256), calibration_set(sidecar, gallery_sha256)
    kept = {} if calibrate else {name: _why_kept(name, sets[name], old.get(name), chosen) for name in sets}
    new = {name: one for name, one in sets.items() if not kept.get(name)}
    notes = [why for why in kept.values() if why]
    merged = {**old, **{name: one for name, one in new.items() if not _is_again(one, old.get(name))}}
    deployed = max(sets, key=lambda name: sets[name]["impostors"]) if calibrate else chosen
    notes += _changes(old, merged, chosen, deployed, is_asked=calibrate)
    if merged == old and deployed == chosen:
        return Written(notes=tuple(notes))
    value: dict[str, Any] = {"thresholds": merged, **({"calibration_set": deployed} if deployed else {})}
    if gallery_model:
        others = sidecar.rest.get("gallery_thresholds", {})
        one = {"model": gallery_model["name"], "sets": merged, **({"calibration_set": deployed} if deployed else {})}
        value = {"gallery_thresholds": {**others, gallery_model["sha256"]: one}}
    write_json(sidecar.path, {**sidecar.rest, **value})
    return Written(sidecar.path, tuple(notes))


def _check_calibration(artefact: Path, sidecar: Sidecar | None, sets: dict[str, dict[str, Any]]) -> None:
    if sidecar is None:
        raise FaceError(
            f"--calibrate needs a sidecar, because it writes thresholds into the sidecar. '{artefact}' has none. "
            "Leave out --calibrate."
        )
    largest = max(sets, key=lambda name: sets[name]["impostors"])
    if not sets[largest]["far"]:
        why = too_few_impostors(largest, sets[largest]["impostors"]) or f"'{largest}' gave no threshold for any FAR"
        raise FaceError(f"--calibrate needs a set that is large enough for a threshold. {why}. Use a larger set.")


def _why_kept(name: str, new: dict[str, Any], old: dict[str, Any] | None, chosen: str | None) -> str | None:
    """Why the thresholds of a set stay, in a sentence with what to do; None if `new` may replace them."""
    if old is None or _is_again(new, old):
        return None
    if name == chosen:
        why = "they were set with --calibrate"
    elif is_usual(new) and not is_usual(old):
        return None  # whatever ran the lesser test
    elif None not in (old.get("executor"), new.get("executor")) and old["executor"] != new["executor"]:
        why = f"they were measured on {old['executor']}, and this test ran on {new['executor']}"
    elif is_usual(old) and not is_usual(new):
        why = f"this test has {_describe(new)}"
    elif is_usual(old) == is_usual(new) and new["impostors"] < old["impostors"]:
        why = f"this test has {new['impostors']:,} impostor pairs"
    else:
        return None
    return f"the sidecar keeps its thresholds of {name}, {_describe(old)}: {why}; to replace them: --calibrate"


def _is_again(new: dict[str, Any], old: dict[str, Any] | None) -> bool:
    """Whether a test gave the same thresholds once more, on another day."""
    return old is not None and {**new, "date": None} == {**old, "date": None}


def _describe(entry: dict[str, Any]) -> str:
    """'3,000 impostor pairs, with flip, 2026-11-28'."""
    words = [f"{entry['impostors']:,} impostor pairs"]
    words += [f"of {entry['drawn_from']:,} pairs in all, by --pairs"] if entry.get("drawn_from") else []
    words += ["with flip"] if entry.get("flip") else []
    words += [f"protocol {entry['protocol']}"] if entry.get("protocol") not in USUAL_PROTOCOLS else []
    return ", ".join([*words, *filter(None, [entry.get("date")])])


def _changes(
    old: dict[str, Any], new: dict[str, Any], chosen: str | None, deployed: str | None, *, is_asked: bool
) -> list[str]:
    """Says which thresholds predict.py used and uses now, where that is another set or was asked for."""
    if not old:
        return []
    before, after = best_set(old, chosen), best_set(new, deployed)
    if not is_asked and (before == after or not old[before]["far"]):
        return []
    text = f"predict.py now uses the thresholds of {after}, {_describe(new[after])}"
    replaced = old[before]
    far = next((far for far in ("0.001", *replaced["far"]) if far in replaced["far"]), None)
    at = f", {replaced['far'][far]['distance']:.4f} for FAR {far}" if far else ""
    return [f"{text}; before: {before}, {_describe(replaced)}{at}"]
