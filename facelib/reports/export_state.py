"""Is an artefact up to date, is it tested, and what did it lose? Read from sidecars and reports alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from facelib.errors import FaceError
from facelib.evaluation.results import compare, read_report, report_path
from facelib.files import sha256_of
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


def find_losses(report: Path, references: Sequence[Path], max_acc_drop: float, max_vr_drop: float) -> list[str]:
    """What the artefact of `report` lost beyond what is allowed, to the first of `references` that it lost to.

    Args:
        references: report files: of its parent, where it lost by itself, before that of the whole way's beginning.
        max_acc_drop, max_vr_drop: in percentage points.
    """
    new = read_report(report)
    for reference in dict.fromkeys(references):
        old = read_report(reference)
        if found := compare(new, old, max_acc_drop, max_vr_drop):
            return [f"{loss} ({old.get('artifact')})" for loss in found]
    return []
