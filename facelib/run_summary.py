"""What a run directory says about itself: recipe, provenance, training log, and the report of every artefact."""

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facelib.cli import FaceError
from facelib.files import read_json, sha256_of
from facelib.report import read_report

REPORT_SUFFIX = ".report.json"
# Artefacts in the order in which the pipeline makes them.
_TFLITE_ORDER = ("float.tflite", "fp16.tflite", "dynamic.tflite", "int8.tflite", ".tflite")
_STAGE_ORDER = ("embedder.h5", ".h5", "frozen.pb", ".pb", *_TFLITE_ORDER, ".onnx", ".om", ".kmodel")


@dataclass(frozen=True)
class Stage:
    """One tested artefact.

    name: file name of the artefact.   report: content of its report file.   is_stale: the artefact was made again
    after it was tested.
    """

    name: str
    report: dict[str, Any]
    is_stale: bool = False


@dataclass(frozen=True)
class Run:
    """A run directory, read. What is missing is empty."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)  # of metrics.jsonl, in order of the step
    epochs: list[dict[str, Any]] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)  # in pipeline order


def read_run(path: Path) -> Run:
    """Reads a run directory: config.toml, provenance.json, metrics.jsonl, and *.report.json there and in export/.

    Raises:
        FaceError: no such folder, nothing of a run in it, or a damaged file.
    """
    path = Path(path)
    if not path.is_dir():
        raise FaceError(f"RUN_DIR is a folder that train.py made. Received: '{path}'.")
    steps, epochs = read_metrics(path / "metrics.jsonl")
    stages = _read_stages(path)
    if not (steps or epochs or stages):
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
    )


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(step lines, epoch lines) of metrics.jsonl, ordered by step; two empty lists when the file is missing.

    A resumed run repeats the steps after its checkpoint: the last line of a step counts. A cut last line (the process
    was killed while it wrote) does not count.
    """
    if not path.is_file():
        return [], []
    found: dict[str, dict[int, dict]] = {"step": {}, "epoch": {}}
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else {}
            if entry.get("kind") in found:
                found[entry["kind"]][int(entry["step" if entry["kind"] == "step" else "epoch"])] = entry
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


def _read_stages(run: Path) -> list[Stage]:
    stages = []
    for folder in (run, run / "export"):
        for file in sorted(folder.glob(f"*{REPORT_SUFFIX}")):
            report, artefact = read_report(file), file.with_name(file.name.removesuffix(REPORT_SUFFIX))
            expected = report.get("sha256")
            is_stale = bool(expected) and artefact.is_file() and sha256_of(artefact) != expected
            stages.append(Stage(artefact.name, report, is_stale))
    return sorted(stages, key=lambda stage: (_stage_rank(stage.name), stage.name))


def _stage_rank(name: str) -> int:
    return next((i for i, ending in enumerate(_STAGE_ORDER) if name.endswith(ending)), len(_STAGE_ORDER))


# ---------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One line of the stage table: an artefact on one verification set. Rates are fractions; None = not measured.

    vr: {FAR as the report writes it: VR@FAR}.   first: the same set's row of the first stage, None for itself.
    """

    stage: str
    set_name: str
    size_bytes: int | None
    ms_per_image: float | None
    threads: int | None
    acc: float
    auc: float | None
    vr: dict[str, float | None]
    is_stale: bool
    first: "Row | None" = None


def stage_rows(stages: list[Stage]) -> list[Row]:
    """The rows of the stage table, set by set within a stage."""
    rows: list[Row] = []
    first: dict[str, Row] = {}
    for stage in stages:
        for name, result in stage.report["sets"].items():
            row = Row(
                stage=stage.name,
                set_name=name,
                size_bytes=stage.report.get("size_bytes"),
                ms_per_image=stage.report.get("ms_per_image"),
                threads=stage.report.get("threads"),
                acc=result["acc"],
                auc=result.get("auc"),
                vr={far: value.get("vr") for far, value in result.get("vr", {}).items()},
                is_stale=stage.is_stale,
                first=first.get(name),
            )
            first.setdefault(name, row)
            rows.append(row)
    return rows


def all_fars(rows: list[Row]) -> list[str]:
    """Every FAR that a row has, largest first."""
    return sorted({far for row in rows for far in row.vr}, key=float, reverse=True)


def format_far(far: str) -> str:
    """'0.001' -> '1e-3'."""
    exponent = f"{float(far):e}"
    mantissa, power = exponent.split("e")
    return f"{float(mantissa):g}e{int(power)}"


def format_size(size_bytes: int | None) -> str:
    """Bytes as '3.98 MiB'; '-' for None."""
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.2f} MiB"


def format_percent(rate: float | None) -> str:
    """A fraction as '99.37'; '-' for None."""
    return "-" if rate is None else f"{100 * rate:.2f}"


def format_table(rows: list[Row]) -> str:
    """The stage table as text: stage | size | ms | ACC | AUC | VR@FAR. ACC and VR in %, ms for one image."""
    fars, has_sets = all_fars(rows), len({row.set_name for row in rows}) > 1
    lines = [["stage", *(["set"] if has_sets else []), "size", "ms", "ACC", "AUC",
              *(f"VR@FAR={format_far(far)}" for far in fars)]]  # fmt: skip
    for row in rows:
        cells = [row.stage + "*" * row.is_stale, *([row.set_name] if has_sets else []), format_size(row.size_bytes)]
        cells += ["-" if row.ms_per_image is None else f"{row.ms_per_image:.2f}", format_percent(row.acc)]
        cells += ["-" if row.auc is None else f"{row.auc:.5f}", *(format_percent(row.vr.get(far)) for far in fars)]
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    num_names = 2 if has_sets else 1

    def join(cells):
        texts = [
            cell.ljust(w) if i < num_names else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return " | ".join(texts).rstrip()

    text = "\n".join([join(lines[0]), "-+-".join("-" * width for width in widths), *map(join, lines[1:])])
    if any(row.is_stale for row in rows):
        text += "\n* the artefact was made again after this test: run its test script again"
    return text
