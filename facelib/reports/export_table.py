"""The table of export_all.py: one row for each artefact and set, with size, speed, losses and the verdict of the gate.

Also decides which artefacts are up to date and which are tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from facelib.errors import FaceError
from facelib.evaluation.gate import compare, is_whole_test
from facelib.evaluation.results import format_markdown_table, read_report, report_path
from facelib.export.targets import LOW_COSINE
from facelib.files import sha256_of
from facelib.reports.artefact_table import (
    Row,
    all_fars,
    artefact_rows,
    footnotes,
    format_far,
    format_ms,
    format_percent,
)
from facelib.reports.pareto import comparable_rows, plot_pareto
from facelib.reports.read_run import read_artefacts
from facelib.sidecar import check_sidecar, read_sidecar


@dataclass(frozen=True)
class Outcome:
    """How one artefact fared.

    Attributes:
        path: of the artefact.
        gate: verdict of the gate, or why there is none, for the table.
        is_bad: whether the gate or a script failed.
        is_tested: whether the artefact has a report.
        report_file: the report; None for the one beside the file.
    """

    path: Path
    gate: str
    is_bad: bool = False
    is_tested: bool = False
    report_file: Path | None = None

    @property
    def report(self) -> Path:
        """The report file."""
        return self.report_file or report_path(self.path)

    @property
    def name(self) -> str:
        """File name of the artefact."""
        return self.path.name


def format_outcomes(run: Path, outcomes: Sequence[Outcome]) -> str:
    """The table as aligned Markdown, with its notes; changes are against the first artefact."""
    rows = _rows(outcomes)
    fars, has_sets = all_fars(rows), len({row.set_name for row in rows}) > 1
    heads = ["artefact", *(["set"] if has_sets else []), "gate", "mean cosine", "worst cosine", "executor"]
    heads += ["MiB", "ms", "ACC %", "change"]
    heads += [head for far in fars for head in (f"VR@FAR={format_far(far)} %", "change")]
    lines = [heads]
    for outcome in outcomes:
        found = [row for row in rows if row.artefact == outcome.name and outcome.is_tested]
        for row in found:
            names = [outcome.name, *([row.set_name] if has_sets else []), outcome.gate, *_format_cosines(outcome)]
            lines.append([*names, row.executor or "-", *_cells(row, fars)])
        if not found:
            names = [outcome.name, *(["-"] if has_sets else []), outcome.gate]
            lines.append(names + ["-"] * (len(heads) - len(names)))
    notes = "ms: median of calls with one image on one thread. Changes in percentage points against embedder.h5; "
    notes += "cosines to the parent."
    for row in rows:
        if row.obstacles:
            notes += f" {row.artefact}: {row.measurement}; the gate compares it with its parent on the same pairs."
    return "\n".join(
        [f"# {run.resolve().name}\n", format_markdown_table(lines, 5 + has_sets), "", notes, *footnotes(rows)]
    )


def draw_outcomes(outcomes: Sequence[Outcome]) -> bytes | None:
    """Accuracy against time and size of the tested artefacts, PNG; None for fewer than two."""
    rows = _rows(outcomes)
    shown = comparable_rows(rows) if rows else []
    return plot_pareto(shown) if shown else None


def _rows(outcomes: Sequence[Outcome]) -> list[Row]:
    tested = [outcome for outcome in outcomes if outcome.is_tested]
    return artefact_rows(read_artefacts([outcome.report for outcome in tested])) if tested else []


def _cells(row: Row, fars: Sequence[str]) -> list[str]:
    """MiB, ms, ACC and its change, each VR and its change."""
    before = row.reference
    cells = ["-" if row.size_bytes is None else f"{row.size_bytes / 2**20:.2f}"]
    cells.append(format_ms(row.ms_single))
    cells += [format_percent(row.acc), _change(row.acc, before.acc if before else None)]
    for far in fars:
        rate = row.vr.get(far, {}).get("vr")
        cells += ["n/a" if rate is None else format_percent(rate)]
        cells.append(_change(rate, before.vr.get(far, {}).get("vr") if before else None))
    return cells


def _change(rate: float | None, first: float | None) -> str:
    return "-" if rate is None or first is None else f"{100 * (rate - first):+.2f}"


def cosines_of(artefact: Path, report: Path) -> tuple[float, float] | None:
    """(mean, worst) cosine to the parent's embeddings: of the test, else of the conversion; None where none is known.

    Args:
        artefact: its file.
        report: its report file.
    """
    sidecar = read_sidecar(artefact)
    parity = ((sidecar.rest.get("parity") if sidecar else None) or {}) if artefact.is_file() else {}
    for found in (read_report(report) if report.is_file() else {}, parity):
        mean, worst = found.get("mean_cosine"), found.get("min_cosine")
        if isinstance(mean, int | float) and isinstance(worst, int | float):
            return mean, worst
    return None


def layers_picture(outcome: Outcome) -> Path | None:
    """The picture that the conversion drew of the cosine of each layer, where the mean cosine is low."""
    cosines = cosines_of(outcome.path, outcome.report)
    picture = outcome.path.with_suffix(".layers.png")
    return picture if cosines and cosines[0] < LOW_COSINE and picture.is_file() else None


def _format_cosines(outcome: Outcome) -> list[str]:
    cosines = cosines_of(outcome.path, outcome.report)
    return [f"{cosine:.5f}" for cosine in cosines] if cosines else ["-", "-"]


def is_made(artefact: Path, parent: Path, calibration: str | None = None) -> bool:
    """Whether `artefact` is undamaged and was made from the present `parent`.

    Args:
        artefact: its file.
        parent: the file that it is converted from.
        calibration: fingerprint of the crops that it must be calibrated with; None where none are used.
    """
    try:
        sidecar = check_sidecar(artefact) if artefact.is_file() else None
    except FaceError:  # damaged, or changed after its sidecar was written
        return False
    if sidecar is None or (sidecar.rest.get("made_from") or {}).get("sha256") != sha256_of(parent):
        return False
    return calibration in (None, (sidecar.rest.get("calibration") or {}).get("fingerprint"))


def is_tested(
    artefact: Path,
    sets: Mapping[str, str],
    fars: Sequence[float],
    report_file: Path | None = None,
    num_pairs: int | None = None,
) -> bool:
    """Whether the report of `artefact` is of this very file, with a whole test on each set (`gate.is_whole_test`).

    Args:
        artefact: its file.
        sets: {name: sha256 of what the set is read from}.
        fars: FARs that the report must have.
        report_file: the report; None for the one beside the file.
        num_pairs: so many pairs of each set are enough; None for all.
    """
    path = report_file or report_path(artefact)
    try:
        report = read_report(path) if path.is_file() else {}
    except FaceError:
        return False
    if report.get("sha256") != sha256_of(artefact):
        return False
    return all(is_whole_test(report, name, sha256, fars, num_pairs) for name, sha256 in sets.items())


def find_losses(
    report: Path, references: Sequence[Path], max_acc_drop: float, max_vr_drop: float
) -> tuple[list[str], list[str]]:
    """(what an artefact lost beyond the allowed drops, what its pairs are too few to tell).

    The losses are those against the first of `references` where it lost too much.

    Args:
        report: report file of the artefact.
        references: report files; the parent's first, then that of embedder.h5, so that a loss is blamed on the step
            that caused it.
        max_acc_drop: allowed drop of ACC, percentage points.
        max_vr_drop: allowed drop of VR, percentage points.
    """
    new, unclear = read_report(report), {}
    for reference in dict.fromkeys(references):
        old = read_report(reference)
        findings = compare(new, old, max_acc_drop, max_vr_drop)
        if losses := [finding for finding in findings if finding.is_loss()]:
            return [f"{loss} ({old.get('artifact')})" for loss in losses], []
        for finding in findings:
            if finding.is_loss(strict=True) and finding.rate not in unclear:
                needs = f" needs about {finding.needs}" if finding.needs else ""
                unclear[finding.rate] = f"{finding.rate}{needs} ({old.get('artifact')})"
    return [], list(unclear.values())
