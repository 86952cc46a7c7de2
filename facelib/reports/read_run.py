"""Reads a run directory: recipe, provenance, training log, and the report of every tested artefact."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.evaluation.results import read_ijb_report, read_report
from facelib.files import read_json, sha256_of
from facelib.reports.training_log import TrainingLog, read_training_log

REPORT_SUFFIX = ".report.json"
IJB_SUFFIX = ".ijb.report.json"
# Artefacts in the order in which the pipeline makes them.
_TFLITE_ORDER = ("float.tflite", "fp16.tflite", "dynamic.tflite", "int8.tflite", ".tflite")
_PIPELINE_ORDER = ("embedder.h5", ".h5", "frozen.pb", ".pb", *_TFLITE_ORDER, ".onnx", ".om", ".kmodel")


@dataclass(frozen=True)
class Artefact:
    """One tested artefact, as its report file describes it.

    Attributes:
        name: file name of the artefact.
        report: content of the report file.
        is_stale: whether the artefact has changed since it was tested.
        folder: where the report file lies; the paths in it are relative to this folder.
    """

    name: str
    report: dict[str, Any]
    is_stale: bool = False
    folder: Path = Path()


@dataclass(frozen=True)
class Run:
    """A run directory. What is missing in the directory is empty here.

    Attributes:
        path: the directory.
        config: content of config.toml.
        provenance: content of provenance.json.
        log: content of metrics.jsonl.
        artefacts: those with a report, in the order in which the pipeline makes them.
        ijb: those with a report of evaluate_ijb.py, in the same order.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    log: TrainingLog = field(default_factory=TrainingLog)
    artefacts: list[Artefact] = field(default_factory=list)
    ijb: list[Artefact] = field(default_factory=list)


def read_run(path: Path) -> Run:
    """Reads config.toml, provenance.json, metrics.jsonl, *.report.json and export/*.report.json of a run directory.

    Raises:
        FaceError: there is no such folder, it is not a run directory, or a file in it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise FaceError(f"RUN_DIR is a folder that train.py made. Received: '{path}'.")
    log = read_training_log(path / "metrics.jsonl")
    artefacts, ijb = _read_reports(path)
    if log.is_empty and not (artefacts or ijb):
        raise FaceError(
            f"A run directory has a metrics.jsonl or a *{REPORT_SUFFIX}. '{path}' has neither: "
            f"name the --out of train.py."
        )
    return Run(path, _read_toml(path / "config.toml"), _read_provenance(path), log, artefacts, ijb)


def read_artefacts(paths: Sequence[Path]) -> list[Artefact]:
    """Reads report files, in the given order. Artefacts with equal names get the names of their folders before them.

    Raises:
        FaceError: a file is not a report, or is given twice.
    """
    files = [Path(path) for path in paths]
    for i, file in enumerate(files):
        if file.resolve() in [other.resolve() for other in files[:i]]:
            raise FaceError(f"Each report is compared with the others. '{file}' is named twice: name it once.")
        if file.is_dir() or not file.name.endswith(REPORT_SUFFIX) or file.name.endswith(IJB_SUFFIX):
            raise FaceError(f"Artefacts are compared by their X{REPORT_SUFFIX} files. Received: '{file}'.")
    artefacts = [_read_artefact(file) for file in files]
    full = [artefact.folder.resolve() / artefact.name for artefact in artefacts]
    short = [path.parents[1] / path.name if path.parent.name == "export" else path for path in full]
    names = distinct_names(short if len(set(short)) == len(full) else full)  # RUN/X is enough for RUN/export/X
    return [replace(artefact, name=name) for artefact, name in zip(artefacts, names, strict=True)]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ending of each path that no other path has: /a/x.pb /b/x.pb /y.pb -> a/x.pb b/x.pb y.pb.

    Args:
        paths: absolute paths; equal paths get equal names.
    """
    names = []
    for path in paths:
        others = {other for other in paths if other != path}
        depth = 1
        while any(other.parts[-depth:] == path.parts[-depth:] for other in others):
            depth += 1
        names.append("/".join(path.parts[-depth:]))
    return names


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FaceError(f"config.toml is TOML. '{path}' is not: {error}.") from error


def _read_provenance(run: Path) -> dict[str, Any]:
    path = run / "provenance.json"
    provenance = read_json(path, "provenance") if path.is_file() else {}
    data = provenance.get("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("path", ""), str):
        raise FaceError(f"provenance.json names its data as {{'path': TEXT}}. '{path}' does not. Remove it.")
    return provenance


def _read_reports(run: Path) -> tuple[list[Artefact], list[Artefact]]:
    """(artefacts with a report of a test script, artefacts with a report of evaluate_ijb.py)."""
    artefacts, ijb = [], []
    for folder in (run, run / "export"):
        for file in sorted(folder.glob(f"*{REPORT_SUFFIX}")):
            (ijb if file.name.endswith(IJB_SUFFIX) else artefacts).append(_read_artefact(file))
    artefacts, ijb = (sorted(found, key=lambda one: (_rank(one.name), one.name)) for found in (artefacts, ijb))
    return artefacts, ijb


def _read_artefact(report_file: Path) -> Artefact:
    is_ijb = report_file.name.endswith(IJB_SUFFIX)
    report = read_ijb_report(report_file) if is_ijb else read_report(report_file)
    path = report_file.with_name(report_file.name.removesuffix(IJB_SUFFIX if is_ijb else REPORT_SUFFIX))
    expected = report.get("sha256")
    is_stale = bool(expected) and path.is_file() and sha256_of(path) != expected
    return Artefact(path.name, report, is_stale, report_file.parent)


def _rank(name: str) -> int:
    """Position in the pipeline; unknown kinds come last."""
    return next((i for i, ending in enumerate(_PIPELINE_ORDER) if name.endswith(ending)), len(_PIPELINE_ORDER))


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted keys: {'a': {'b': 1}, 'c': [{'d': 2}]} -> [('a.b', 1), ('c.0.d', 2)]."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = enumerate(value)
    else:
        return [(prefix, value)]
    return [pair for key, item in items for pair in flatten(item, f"{prefix}.{key}" if prefix else str(key))]
