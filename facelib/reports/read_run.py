"""What a run directory says about itself: recipe, provenance, training log, and the report of every artefact."""

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.evaluation.results import read_report
from facelib.evaluation.results_schema import check_figures, check_ijb
from facelib.files import read_json, sha256_of

REPORT_SUFFIX = ".report.json"
IJB_SUFFIX = ".ijb.report.json"
# Artefacts in the order in which the pipeline makes them.
_TFLITE_ORDER = ("float.tflite", "fp16.tflite", "dynamic.tflite", "int8.tflite", ".tflite")
_STAGE_ORDER = ("embedder.h5", ".h5", "frozen.pb", ".pb", *_TFLITE_ORDER, ".onnx", ".om", ".kmodel")


@dataclass(frozen=True)
class Stage:
    """One tested artefact.

    name: file name of the artefact.   report: content of its report file.   is_stale: the artefact was made again
    after it was tested.   folder: of the report file; the paths in it are relative to this.
    """

    name: str
    report: dict[str, Any]
    is_stale: bool = False
    folder: Path = Path()


@dataclass(frozen=True)
class Run:
    """A run directory, read. What is missing is empty."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)  # of metrics.jsonl, in order of the step
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)  # in pipeline order
    ijb: list[Stage] = field(default_factory=list)  # reports of evaluate_ijb.py


def read_run(path: Path) -> Run:
    """Reads a run directory: config.toml, provenance.json, metrics.jsonl, and *.report.json there and in export/.

    Raises:
        FaceError: no such folder, nothing of a run in it, or a damaged file.
    """
    path = Path(path)
    if not path.is_dir():
        raise FaceError(f"RUN_DIR is a folder that train.py made. Received: '{path}'.")
    steps, epochs, _ = read_metrics(path / "metrics.jsonl")
    stages, ijb = _read_stages(path)
    if not (steps or epochs or stages or ijb):
        raise FaceError(
            f"A run directory has a metrics.jsonl or a *{REPORT_SUFFIX}. '{path}' has neither: "
            f"name the --out of train.py."
        )
    provenance = path / "provenance.json"
    said = read_json(provenance, "provenance") if provenance.is_file() else {}
    data = said.get("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("path", ""), str):
        raise FaceError(f"provenance.json names its data as {{'path': TEXT}}. '{provenance}' does not. Remove it.")
    return Run(
        path=path,
        config=_read_toml(path / "config.toml"),
        provenance=said,
        steps=steps,
        epochs=epochs,
        stages=stages,
        ijb=ijb,
    )


def read_artefacts(paths: Sequence[Path]) -> list[Stage]:
    """Reads report files, in their order; names are those of the artefacts, with folders where two are equal.

    Raises:
        FaceError: a file that is no report, or one that is given twice.
    """
    files = [Path(path) for path in paths]
    for i, file in enumerate(files):
        if file.resolve() in [other.resolve() for other in files[:i]]:
            raise FaceError(f"Artefacts are compared with others. '{file}' is named twice: name each report once.")
        if file.is_dir() or not file.name.endswith(REPORT_SUFFIX) or file.name.endswith(IJB_SUFFIX):
            raise FaceError(f"Artefacts are compared by their X{REPORT_SUFFIX} files. Received: '{file}'.")
    stages = [_read_stage(file) for file in files]
    full = [stage.folder.resolve() / stage.name for stage in stages]
    without = [path.parents[1] / path.name if path.parent.name == "export" else path for path in full]
    names = distinct_names(without if len(set(without)) == len(full) else full)  # RUN/X says enough of RUN/export/X
    return [replace(stage, name=name) for stage, name in zip(stages, names, strict=True)]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell it from the others: /a/x.pb /b/x.pb /y.pb -> a/x.pb b/x.pb y.pb.

    Paths are absolute; equal ones keep equal names.
    """
    names = []
    for path in paths:
        others = {other for other in paths if other != path}
        depth = 1
        while any(other.parts[-depth:] == path.parts[-depth:] for other in others):
            depth += 1
        names.append("/".join(path.parts[-depth:]))
    return names


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], ...]:
    """(step lines, epoch lines, stage lines) of metrics.jsonl, each in order; empty lists when the file is missing.

    A resumed run repeats the steps after its checkpoint: the last line of a step counts. A cut last line (the process
    was killed while it wrote) does not count.
    """
    if not path.is_file():
        return [], [], []
    found: dict[str, dict[int, dict]] = {"step": {}, "epoch": {}, "stage": {}}
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else {}
            if entry.get("kind") in found:
                found[entry["kind"]][int(entry[entry["kind"]])] = entry
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise FaceError(
                f"metrics.jsonl has one JSON object a line, with its step. '{path}' line {number} has not. Remove it."
            ) from error
    return tuple([entries[key] for key in sorted(entries)] for entries in found.values())


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FaceError(f"config.toml is TOML. '{path}' is not: {error}.") from error


def _read_stages(run: Path) -> tuple[list[Stage], list[Stage]]:
    stages, ijb = [], []
    for folder in (run, run / "export"):
        for file in sorted(folder.glob(f"*{REPORT_SUFFIX}")):
            (ijb if file.name.endswith(IJB_SUFFIX) else stages).append(_read_stage(file))
    return tuple(sorted(found, key=lambda stage: (_stage_rank(stage.name), stage.name)) for found in (stages, ijb))


def _read_stage(file: Path) -> Stage:
    is_ijb = file.name.endswith(IJB_SUFFIX)
    report = check_ijb(read_json(file, "report"), file) if is_ijb else check_figures(read_report(file), file)
    artefact = file.with_name(file.name.removesuffix(IJB_SUFFIX if is_ijb else REPORT_SUFFIX))
    expected = report.get("sha256")
    is_stale = bool(expected) and artefact.is_file() and sha256_of(artefact) != expected
    return Stage(artefact.name, report, is_stale, file.parent)


def _stage_rank(name: str) -> int:
    return next((i for i, ending in enumerate(_STAGE_ORDER) if name.endswith(ending)), len(_STAGE_ORDER))


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """{'a': {'b': 1}, 'c': [{'d': 2}]} -> [('a.b', 1), ('c.0.d', 2)]."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = enumerate(value)
    else:
        return [(prefix, value)]
    return [pair for key, item in items for pair in flatten(item, f"{prefix}.{key}" if prefix else str(key))]
