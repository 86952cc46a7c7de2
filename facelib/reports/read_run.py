"""Reads a run directory: recipe, provenance, training log, and the report of every tested artefact."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.projector import map_folder
from facelib.evaluation.results import read_ijb_report, read_report, read_tinyface_report
from facelib.export.targets import file_order
from facelib.files import parse_json, parse_toml, read_json, sha256_of

Lines = list[dict[str, Any]]

REPORT_SUFFIX = ".report.json"
IJB_SUFFIX = ".ijb.report.json"
TINYFACE_SUFFIX = ".tinyface.report.json"
_READERS = {IJB_SUFFIX: read_ijb_report, TINYFACE_SUFFIX: read_tinyface_report, REPORT_SUFFIX: read_report}


@dataclass(frozen=True)
class TrainingLog:
    """The lines of a metrics.jsonl by kind, each kind in the order of its number.

    Attributes:
        steps: {"step", "epoch", "loss", "accuracy", "learning_rate", ...}, one each logged step. The accuracy is in %.
        epochs: {"epoch", "step", "loss", "seconds", "sets": {name: result}, ...}, one each finished epoch. "accuracy",
            and "acc" and "acc_std" of a result, are in %.
        stages: {"stage", "step", "loss", ...}, one each stage of the schedule that has begun; `loss` is its name.
    """

    steps: Lines = field(default_factory=list)
    epochs: Lines = field(default_factory=list)
    stages: Lines = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was logged yet."""
        return not (self.steps or self.epochs)

    @property
    def set_names(self) -> list[str]:
        """The verification sets, in order of their first appearance."""
        return list(dict.fromkeys(name for line in self.epochs for name in line.get("sets") or {}))

    @property
    def seconds(self) -> float:
        """Duration of all finished epochs; 0 where the log does not say."""
        return sum(line["seconds"] for line in self.epochs if isinstance(line.get("seconds"), int | float))

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values of `key`) of the step lines where the value is finite, float64 [N] each."""
        points = [(line["step"], line[key]) for line in self.steps if isinstance(line.get(key), int | float)]
        points = [point for point in points if math.isfinite(point[1])]
        return np.array([step for step, _ in points], float), np.array([value for _, value in points], float)

    def results(self, set_name: str) -> Lines:
        """The epoch lines that have a result of this set, each with that result under "result"."""
        found = [line for line in self.epochs if set_name in (line.get("sets") or {})]
        return [{**line, "result": line["sets"][set_name]} for line in found]

    def places(self, steps: Sequence[int], by: str) -> np.ndarray:
        """Where steps lie on the horizontal axis of a plot.

        Args:
            steps: step numbers [N].
            by: "epochs", "steps" or "hours".

        Returns:
            float64 [N]. Within an epoch they are spread evenly; the unfinished epoch has the pace of the one before.
        """
        at = np.asarray(steps, float)
        if by == "steps" or not self.epochs:
            return at
        ends = np.array([0, *(line["step"] for line in self.epochs)], float)
        values = np.array([0, *(line["epoch"] for line in self.epochs)], float)
        if by == "hours":
            values = np.concatenate([[0], np.cumsum([line.get("seconds", 0) for line in self.epochs])]) / 3600
        pace = (values[-1] - values[-2]) / max(ends[-1] - ends[-2], 1)
        return np.where(at <= ends[-1], np.interp(at, ends, values), values[-1] + pace * (at - ends[-1]))


@dataclass(frozen=True)
class Artefact:
    """One tested artefact, as its report file describes it.

    Attributes:
        name: file name of the artefact.
        report: content of the report file.
        is_stale: whether the artefact has changed since it was tested.
        folder: where the report file lies; the paths in it are relative to this folder.
        map_folder: where its maps are, if it has any.
    """

    name: str
    report: dict[str, Any]
    is_stale: bool = False
    folder: Path = Path()
    map_folder: Path = Path()


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
        tinyface: those with a report of evaluate_tinyface.py, in the same order.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    log: TrainingLog = field(default_factory=TrainingLog)
    artefacts: list[Artefact] = field(default_factory=list)
    ijb: list[Artefact] = field(default_factory=list)
    tinyface: list[Artefact] = field(default_factory=list)


def read_run(path: Path, may_be_empty: bool = False) -> Run:
    """Reads config.toml, provenance.json, metrics.jsonl, *.report.json and export/*.report.json of a run directory.

    Args:
        path: the folder.
        may_be_empty: whether it may have neither a logged step nor a report yet.

    Raises:
        FaceError: there is no such folder, it is not a run directory, or a file in it is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise FaceError(f"RUN_DIR must be a folder made by train.py. Received: '{path}'.")
    log = read_training_log(path / "metrics.jsonl")
    artefacts, ijb, tinyface = _read_reports(path)
    if log.is_empty and not (artefacts or ijb or tinyface or may_be_empty):
        raise FaceError(
            f"A run directory must have a metrics.jsonl or a *{REPORT_SUFFIX}. '{path}' has neither. Use the --out "
            "folder of train.py."
        )
    return Run(path, _read_toml(path / "config.toml"), _read_provenance(path), log, artefacts, ijb, tinyface)


def read_artefacts(paths: Sequence[Path]) -> list[Artefact]:
    """Reads report files, in the given order. Artefacts with equal names get the names of their folders before them.

    Raises:
        FaceError: a file is not a report, or is given twice.
    """
    files = [Path(path) for path in paths]
    for i, file in enumerate(files):
        if file.resolve() in [other.resolve() for other in files[:i]]:
            raise FaceError(f"The same report cannot be compared with itself. '{file}' is passed twice: pass it once.")
        if file.is_dir() or not file.name.endswith(REPORT_SUFFIX) or _suffix_of(file) != REPORT_SUFFIX:
            raise FaceError(f"To compare artefacts, pass their X{REPORT_SUFFIX} files. Received: '{file}'.")
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
        return parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FaceError(f"config.toml must be valid TOML. '{path}' is not: {error}.") from error


def _read_provenance(run: Path) -> dict[str, Any]:
    path = run / "provenance.json"
    provenance = read_json(path, "provenance") if path.is_file() else {}
    data = provenance.get("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("path", ""), str):
        raise FaceError(
            f"provenance.json must describe the training data as {{'path': TEXT}}. '{path}' does not. Remove this file."
        )
    return provenance


def _read_reports(run: Path) -> tuple[list[Artefact], list[Artefact], list[Artefact]]:
    """Artefacts with a report of a test script, of evaluate_ijb.py, and of evaluate_tinyface.py."""
    found: dict[str, list[Artefact]] = {suffix: [] for suffix in _READERS}
    for folder in (run, run / "export"):
        for file in sorted(folder.glob(f"*{REPORT_SUFFIX}")):
            found[_suffix_of(file)].append(_read_artefact(file))
    for artefacts in found.values():
        artefacts.sort(key=lambda one: (_rank(one.name), one.name))
    return found[REPORT_SUFFIX], found[IJB_SUFFIX], found[TINYFACE_SUFFIX]


def _suffix_of(report_file: Path) -> str:
    return next(suffix for suffix in _READERS if report_file.name.endswith(suffix))


def _read_artefact(report_file: Path) -> Artefact:
    suffix = _suffix_of(report_file)
    report = _READERS[suffix](report_file)
    path = report_file.with_name(report_file.name.removesuffix(suffix))
    expected = report.get("sha256")
    is_stale = bool(expected) and path.is_file() and sha256_of(path) != expected
    return Artefact(path.name, report, is_stale, report_file.parent, map_folder(report_file))


def _rank(name: str) -> int:
    """Position in the pipeline; unknown kinds come last."""
    order = file_order()
    return next((i for i, ending in enumerate(order) if name.endswith(ending)), len(order))


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted keys: {'a': {'b': 1}, 'c': [{'d': 2}]} -> [('a.b', 1), ('c.0.d', 2)]."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = enumerate(value)
    else:
        return [(prefix, value)]
    return [pair for key, item in items for pair in flatten(item, f"{prefix}.{key}" if prefix else str(key))]


def read_training_log(path: Path) -> TrainingLog:
    """Reads a metrics.jsonl; the log is empty when there is no such file.

    A resumed run repeats the steps after its checkpoint: the last line of a step counts. An incomplete last line does
    not count, since the process may have been killed while it wrote. Accuracies are in %, also those of older runs,
    whose lines have shares of 1.

    Raises:
        FaceError: a line before the last one is not a JSON object with its number.
    """
    if not path.is_file():
        return TrainingLog()
    found: dict[str, dict[int, dict]] = {"step": {}, "epoch": {}, "stage": {}}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry: Any = parse_json(line) if line.strip() else {}
            if entry.get("kind") in found:
                found[entry["kind"]][int(entry[entry["kind"]])] = _in_percent(entry)
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise FaceError(
                f"Each line of metrics.jsonl must be a JSON object with its step. Line {number} of '{path}' is not. "
                "Remove that line."
            ) from error
    return TrainingLog(*([entries[key] for key in sorted(entries)] for entries in found.values()))


def _in_percent(entry: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl with its accuracies in %; one without an "accuracy_unit" has shares of 1."""
    if entry.get("accuracy_unit") == "%":
        return entry
    sets = entry.get("sets") or {}
    scaled = _scaled(entry, ("accuracy",))
    return scaled | {"sets": {name: _scaled(sets[name], ("acc", "acc_std")) for name in sets}} if sets else scaled


def _scaled(values: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return values | {key: 100 * values[key] for key in keys if isinstance(values.get(key), int | float)}


def require_training_log(run: Path) -> TrainingLog:
    """Reads RUN/metrics.jsonl, which must have something in it.

    Raises:
        FaceError: no such file, nothing logged in it, or a damaged line.
    """
    path = Path(run) / "metrics.jsonl"
    log = read_training_log(path)
    if log.is_empty:
        raise FaceError(
            f"A run directory must have a metrics.jsonl that lists the steps. '{path}' is missing or lists no steps. "
            "Use the --out folder of train.py."
        )
    return log
