"""Is an artefact up to date, is it tested, and what did it lose? Read from sidecars and reports alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from facelib.cli import FaceError
from facelib.files import sha256_of
from facelib.report import compare, read_report, report_path
from facelib.sidecar import check_sidecar


def is_made(artefact: Path, parent: Path, calibration: str | None = None) -> bool:
    """Whether `artefact` is whole and was made from `parent` as that is now.

    Args:
        calibration: fingerprint of the crops that it must have been calibrated with; None where none are used.
    """
    try:
        sidecar = check_sidecar(artefact) if artefact.is_file() else None
    except FaceError:  # damaged, or changed after its sidecar: made again
        return False
    if sidecar is None or (sidecar.rest.get("made_from") or {}).get("sha256") != sha256_of(parent):
        return False
    return calibration in (None, (sidecar.rest.get("calibration") or {}).get("fingerprint"))


def is_tested(artefact: Path, sets: Mapping[str, str], fars: Sequence[float]) -> bool:
    """Whether the report of `artefact` is of this very file, on these sets, at these FARs, as the gate compares them.

    Args:
        sets: {name: sha256 of what the set is read from}.
    """
    try:
        report = read_report(report_path(artefact)) if report_path(artefact).is_file() else {}
    except FaceError:
        return False
    if report.get("sha256") != sha256_of(artefact) or report.get("flip"):
        return False
    return all(
        (result := report["sets"].get(name)) is not None
        and (result.get("source") or {}).get("sha256") == sha256
        and result.get("protocol") in ("exact", "all-pairs")
        and {f"{far:g}" for far in fars} <= result["vr"].keys()
        for name, sha256 in sets.items()
    )


def find_losses(artefact: Path, parent: Path, first: Path, max_acc_drop: float, max_vr_drop: float) -> list[str]:
    """What `artefact` lost beyond what is allowed: to its parent, else over the whole way from `first`.

    Drops are percentage points. See `tested_part` for what cannot be compared.
    """
    new = read_report(report_path(artefact))
    for other in dict.fromkeys((parent, first)):
        if found := compare(new, read_report(report_path(other)), max_acc_drop, max_vr_drop):
            return [f"{loss} ({other.name})" for loss in found]
    return []


def tested_part(artefact: Path, first: Path) -> int | None:
    """The pairs that `artefact` was tested on, where those are but a part of what `first` was; else None."""
    new, old = (read_report(report_path(path))["sets"] for path in (artefact, first))
    parts = [new[name]["pairs"] for name in new if name in old and new[name].get("pairs", 0) < old[name]["pairs"]]
    return parts[0] if parts else None
