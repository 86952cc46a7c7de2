"""The report of one artefact: the table that is printed, the JSON that is written, and the gate between two of them.

Every number of the table comes from the same object as the JSON.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.metrics import OperatingPoint
from facelib.evaluation.report_text import format_findings, format_table
from facelib.evaluation.ten_fold import FoldAccuracy, FoldTar
from facelib.files import read_json, write_json

HISTOGRAM_EDGES = np.linspace(0.0, 4.0, 81)  # squared L2 of unit vectors, steps of 0.05


@dataclass(frozen=True)
class SetResult:
    """The measures of one verification set; rates as fractions, distances as squared L2 of unit vectors.

    The rest as docs/report.md says; what was not measured is None.
    """

    name: str
    pairs: int
    genuine: int
    protocol: str
    accuracy: FoldAccuracy
    auc: float
    eer: float
    vr: tuple[FoldTar, ...]
    vr_all_pairs: tuple[OperatingPoint | None, ...]
    thresholds: dict[str, dict[str, Any]]
    dist_max: float
    dist_min: float
    roc: dict[str, list[float]]
    histogram: dict[str, list]
    hardest: dict[str, list]
    source: dict[str, Any] | None = None
    norms: dict[str, list] | None = None
    groups: dict[str, Any] | None = None
    identification: dict[str, Any] | None = None
    identities: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values; what a set cannot resolve is null."""
        vr = {}
        for fold, whole in zip(self.vr, self.vr_all_pairs, strict=True):
            vr[f"{fold.far_target:g}"] = {
                "vr": fold.tar,
                "vr_std": fold.tar_std,
                "far": fold.far,
                "ci95": list(fold.ci95) if fold.ci95 else None,
                "threshold": _finite(fold.threshold),
                "vr_all_pairs": whole and whole.tar,
                "threshold_all_pairs": _finite(whole.threshold) if whole else None,
                "needs_impostors": fold.needs_impostors,
            }
        optional = ("source", "norms", "groups", "identification", "identities")
        return {
            "protocol": self.protocol,
            "pairs": self.pairs,
            "genuine": self.genuine,
            "acc": self.accuracy.mean,
            "acc_std": self.accuracy.std,
            "acc_ci95": list(self.accuracy.ci95),
            "acc_folds": self.accuracy.accuracies.tolist(),
            "acc_threshold": _finite(float(self.accuracy.thresholds.mean())),
            "auc": self.auc,
            "eer": self.eer,
            "vr": vr,
            "thresholds": self.thresholds,
            "dist_max": self.dist_max,
            "dist_min": self.dist_min,
            "roc": self.roc,
            "histogram": self.histogram,
            "hardest": self.hardest,
            **{name: getattr(self, name) for name in optional if getattr(self, name) is not None},
        }


@dataclass(frozen=True)
class Report:
    """What one artefact scored, and how fast it was.

    artifact: path or name.   sha256, size_bytes: None for a model that is no file.   ms_per_image, images_per_s: the
    runtime alone, without decoding.   mean_norm: of the raw embeddings; None when the runtime hides them.
    mean_cosine: to the artefact it was made from, on all faces of the sets; None where that was not run beside it.
    flip: whether the mirrored face was added.
    """

    artifact: str
    kind: str
    sets: tuple[SetResult, ...]
    sha256: str | None = None
    size_bytes: int | None = None
    images_per_s: float | None = None
    ms_per_image: float | None = None
    threads: int | None = None
    mean_norm: float | None = None
    mean_cosine: float | None = None
    flip: bool = False

    def as_dict(self, folder: Path | None = None) -> dict[str, Any]:
        """The content of `X.report.json`, which names the sets by their paths from `folder`, where it will lie."""
        head = {name: value for name, value in self.__dict__.items() if name != "sets"}
        sets = {result.name: result.as_dict() for result in self.sets}
        for result in sets.values():
            if folder is not None and "source" in result:
                path = os.path.relpath(result["source"]["path"], Path(folder).resolve())
                result["source"] = {**result["source"], "path": Path(path).as_posix()}
        return {**head, "sets": sets}

    def table(self) -> str:
        """The table of all test scripts, as text."""
        return format_table(self.sets)

    def findings(self) -> str:
        """What is printed under the table: thresholds for deployment, groups, identification."""
        return format_findings(self.sets)

    def write(self, path: Path) -> None:
        """Writes the JSON atomically."""
        write_json(path, self.as_dict(Path(path).parent))


def read_report(path: Path) -> dict[str, Any]:
    """Reads `X.report.json`."""
    report = read_json(path, "report")
    if not isinstance(report.get("sets"), dict) or not report["sets"]:
        raise FaceError(f"A report has 'sets'. '{path}' has none: name the X.report.json of a test script.")
    for name, result in report["sets"].items():
        if not isinstance(result, dict) or not isinstance(result.get("acc"), int | float):
            raise FaceError(f"A report says 'acc' for each set. '{path}' does not for '{name}'. Make it again.")
        if not isinstance(result.get("vr"), dict) or not all(isinstance(vr, dict) for vr in result["vr"].values()):
            raise FaceError(f"A report says 'vr' for each set. '{path}' does not for '{name}'. Make it again.")
        where = f"'{path}', set '{name}'"
        _require_numbers(result, ("acc_std", "auc", "eer"), where)
        for far, vr in result["vr"].items():
            _require_numbers({"FAR": _number_or_text(far)}, ("FAR",), where)
            _require_numbers(vr, ("vr",), where)
        roc = result.get("roc") or {"far": [], "tar": []}
        columns = [roc.get("far"), roc.get("tar")] if isinstance(roc, dict) else [None]
        if not all(isinstance(column, list) for column in columns) or len(columns[0]) != len(columns[1]):
            raise FaceError(f"The 'roc' of a report has two lists of equal length. {where}: it has not. Make it again.")
    _require_numbers(report, ("size_bytes", "ms_per_image", "images_per_s", "threads"), f"'{path}'")
    return report


def _require_numbers(values: dict, keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        value = values.get(key)
        if value is not None and not isinstance(value, int | float):
            raise FaceError(f"A report says {key} as a number. {where}: {str(value)[:40]!r}. Make it again.")


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def compare(report: dict, reference: dict, max_acc_drop: float, max_vr_drop: float) -> list[str]:
    """What `report` does worse than `reference` allows; empty when it passes.

    Args:
        report, reference: content of report files.
        max_acc_drop, max_vr_drop: allowed losses in percentage points: 0.5 lets 99.4 % fall to 98.9 %.

    Raises:
        FaceError: nothing in common to compare, or measured on other pairs or in another way.
    """
    common = [name for name in reference["sets"] if name in report["sets"]]
    if not common:
        raise FaceError(
            f"No set stands in both reports: {', '.join(report['sets'])} against {', '.join(reference['sets'])}. "
            f"Test both with the same --valid."
        )
    if bool(report.get("flip")) != bool(reference.get("flip")):
        raise FaceError("One report adds the mirrored face, the other does not. Test both with --flip or both without.")
    failures = []
    for name in common:
        new, old = report["sets"][name], reference["sets"][name]
        if (new.get("pairs"), new.get("genuine")) != (old.get("pairs"), old.get("genuine")):
            raise FaceError(
                f"Set '{name}' has {new.get('pairs')} pairs here and {old.get('pairs')} in the reference. "
                f"Test both with the same .bin."
            )
        if "protocol" in old and new.get("protocol") != old["protocol"]:
            raise FaceError(
                f"Set '{name}' has the protocol '{new.get('protocol')}' here and '{old['protocol']}' in the "
                f"reference. Test both with the same --protocol."
            )
        failures += _find_drop(f"{name}: ACC", new.get("acc"), old.get("acc"), max_acc_drop)
        new_vr, old_vr = new.get("vr", {}), old.get("vr", {})
        fars = [far for far in old_vr if far in new_vr]
        if not fars:
            raise FaceError(f"Set '{name}': no FAR stands in both reports ({list(new_vr)}, {list(old_vr)}). Use --far.")
        for far in fars:
            new_rate, old_rate = new_vr[far].get("vr"), old_vr[far].get("vr")
            if old_rate is not None:  # where the reference has no number, there is nothing to lose
                failures += _find_drop(f"{name}: VR@FAR={far}", new_rate, old_rate, max_vr_drop)
    return failures


def _find_drop(what: str, new: Any, old: Any, allowed: float) -> list[str]:
    if not isinstance(new, int | float) or not isinstance(old, int | float):
        return [f"{what} cannot be compared: {new} against {old}"]
    drop = 100 * (old - new)
    if drop <= allowed + 1e-9:
        return []
    return [f"{what} {100 * new:.2f} % against {100 * old:.2f} %: {drop:.2f} points lost, {allowed:g} allowed"]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no infinity


def report_path(artefact: Path) -> Path:
    """`X` -> `X.report.json`."""
    return Path(os.fspath(artefact) + ".report.json")
