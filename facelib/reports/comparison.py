"""Compares several runs: what differs between their recipes, how they trained, and how their artefacts score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.evaluation.results import format_text_table
from facelib.files import read_json
from facelib.reports.artefact_table import (
    ResultGroup,
    all_fars,
    artefact_rows,
    footnotes,
    format_far,
    format_scores,
    group_comparable,
    warnings_of,
)
from facelib.reports.html import Cell, Figure, Table, TableRow, draw_figure, render
from facelib.reports.html_tables import artefact_table
from facelib.reports.read_run import Artefact, Run, distinct_names, flatten, read_run
from facelib.reports.training_plots import training_figures
from facelib.reports.verification_plots import verification_figures

EMBEDDER = "embedder.h5"
_SEPARATOR = " · "
_NAME_HEAD = "run · artefact"
_MAX_KEYS = 3  # differences that the table of runs names; all of them follow in a second table


@dataclass(frozen=True)
class NamedRun:
    """A run under the name that tells it from the others.

    Attributes:
        name: the folder's name, with its parents' names if two are equal.
        run: the run directory.
        best_epoch: the epoch whose weights embedder.h5 has; None when its sidecar does not say.
        artefacts: the artefacts to compare, named after the run.
    """

    name: str
    run: Run
    best_epoch: int | None
    artefacts: list[Artefact]

    @property
    def minutes(self) -> float | None:
        """Duration of all epochs together."""
        return self.run.log.seconds / 60 or None


@dataclass(frozen=True)
class Comparison:
    """Several runs, and what differs between them.

    Attributes:
        runs: in the given order.
        differing: {key of the recipe: its value in each run, None where it is absent}.
        groups: results that may be compared, of embedder.h5 and the smallest artefact of each run.
    """

    runs: list[NamedRun]
    differing: dict[str, list[Any]]
    groups: list[ResultGroup]

    @property
    def warnings(self) -> list[str]:
        """Which results must not be compared and why, and which artefacts were not tested."""
        missing = [run.name for run in self.runs if not any(map(is_embedder, run.artefacts))]
        lines = [f"{name}: {EMBEDDER} was not tested. Run evaluate_data.py on it with --valid." for name in missing]
        return warnings_of(self.groups) + lines


@dataclass(frozen=True)
class Section:
    """What the page says of one group of results.

    Attributes:
        title: name of the set.
        facts: how it was measured, in one line.
        tables: (title, table) of the embedders, and of the smallest artefacts.
        figures: the ROC curves of both.
    """

    title: str
    facts: str
    tables: list[tuple[str, Table]]
    figures: list[Figure]


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Reads two or more run directories.

    Raises:
        FaceError: there are fewer than two, one is given twice, or one is not a run directory.
    """
    folders = [Path(path).resolve() for path in paths]
    if len(set(folders)) != len(folders) or len(folders) < 2:
        raise FaceError(f"A comparison needs at least two different runs. Received: {', '.join(map(str, paths))}.")
    runs = [
        NamedRun(name, run := read_run(path), _best_epoch(run), _pick_artefacts(name, run))
        for name, path in zip(distinct_names(folders), paths, strict=True)
    ]
    artefacts = [artefact for run in runs for artefact in run.artefacts]
    return Comparison(runs, _differing([run.run for run in runs]), group_comparable(artefacts))


def is_embedder(artefact: Artefact) -> bool:
    """Whether a compared artefact is what training wrote, and not an export of it."""
    return artefact.name.endswith(_SEPARATOR + EMBEDDER)


def format_comparison(comparison: Comparison) -> str:
    """Text: warnings, the runs, and a table of results for each set and each way of measuring it."""
    parts = [f"warning: {line}" for line in comparison.warnings]
    lines = [["run", "differs in", "epochs", "minutes", "best epoch"]]
    lines += [
        [run.name, _difference_cell(comparison, i), *_training_cells(run)] for i, run in enumerate(comparison.runs)
    ]
    parts.append(format_text_table(lines, 2))
    if len(comparison.differing) > _MAX_KEYS:
        lines = [["key", *(run.name for run in comparison.runs)]]
        lines += [[key, *map(_format_value, values)] for key, values in comparison.differing.items()]
        parts.append("\n" + format_text_table(lines, 1))
    for group in comparison.groups:
        parts.append(f"\n{group.title}: {group.measurement}\n{_format_results(group)}")
    return "\n".join(parts)


def render_comparison(comparison: Comparison) -> str:
    """The whole page."""
    names = [run.name for run in comparison.runs]
    differences = [
        TableRow([Cell(key, is_name=True), *(Cell(_format_value(value)) for value in values)])
        for key, values in comparison.differing.items()
    ]
    return render(
        "comparison.html.j2",
        title=f"{len(names)} runs compared",
        facts=" · ".join(names),
        warnings=comparison.warnings,
        runs=Table(
            ["run", "epochs", "minutes", "best epoch"],
            [TableRow([Cell(run.name, is_name=True), *map(Cell, _training_cells(run))]) for run in comparison.runs],
        ),
        differences=Table(["recipe", *names], differences) if differences else None,
        without_recipe=[run.name for run in comparison.runs if not run.run.config],
        training=[draw_figure(one) for one in training_figures([(run.name, run.run.log) for run in comparison.runs])],
        sections=[_section(group) for group in comparison.groups],
    )


def _difference_cell(comparison: Comparison, i: int) -> str:
    """The values of run i for the keys that differ."""
    if not comparison.runs[i].run.config:
        return "no recipe"
    differs = [f"{key}={_format_value(values[i])}" for key, values in comparison.differing.items()]
    more = [f"{len(differs) - _MAX_KEYS} more"] if differs[_MAX_KEYS:] else []
    return ", ".join(differs[:_MAX_KEYS] + more) or "nothing"


def _training_cells(run: NamedRun) -> list[str]:
    """Epochs, minutes, best epoch."""
    minutes = "-" if run.minutes is None else f"{run.minutes:.1f}"
    return [str(len(run.run.log.epochs) or "-"), minutes, str(run.best_epoch or "-")]


def _format_value(value: Any) -> str:
    """A value of a recipe as TOML writes it; '-' where the key is absent."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _format_results(group: ResultGroup) -> str:
    rows = [row for row in artefact_rows(group.artefacts) if row.set_name == group.set_name]
    fars = all_fars(rows)
    lines = [[_NAME_HEAD, "ACC", "AUC", *(f"VR@FAR={format_far(far)}" for far in fars)]]
    lines += [[row.artefact + "*" * row.is_stale, *format_scores(row, fars)] for row in rows]
    return "\n".join([format_text_table(lines, 1), *footnotes(rows)])


def _section(group: ResultGroup) -> Section:
    embedders = [artefact for artefact in group.artefacts if is_embedder(artefact)]
    others = [artefact for artefact in group.artefacts if not is_embedder(artefact)]
    tables, figures = [], []
    for title, artefacts in ((EMBEDDER, embedders), ("smallest artefact", others)):
        if artefacts:
            rows = [row for row in artefact_rows(artefacts) if row.set_name == group.set_name]
            tables.append((title, artefact_table(rows, _NAME_HEAD)))
            results = [(artefact.name, artefact.report["sets"][group.set_name]) for artefact in artefacts]
            curves = [drawing for drawing in verification_figures(results) if drawing[0] == "roc"]
            figures += [draw_figure(curve, f"{group.title}, {title}") for curve in curves]
    return Section(group.title, str(group.measurement), tables, figures)


def _pick_artefacts(name: str, run: Run) -> list[Artefact]:
    """embedder.h5, and the smallest int8 artefact or else the smallest export."""
    exports = [artefact for artefact in run.artefacts if not artefact.name.endswith(".h5")]
    int8 = [artefact for artefact in exports if "int8" in artefact.name]
    smallest = sorted(int8 or exports, key=lambda artefact: artefact.report.get("size_bytes") or float("inf"))[:1]
    picked = [artefact for artefact in run.artefacts if artefact.name == EMBEDDER] + smallest
    return [replace(artefact, name=f"{name}{_SEPARATOR}{artefact.name}") for artefact in picked]


def _best_epoch(run: Run) -> int | None:
    sidecar = run.path / f"{EMBEDDER}.json"
    epoch = read_json(sidecar, "sidecar").get("epoch") if sidecar.is_file() else None
    return epoch if isinstance(epoch, int) else None


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Keys in which the recipes or the training data differ, with the value of each run.

    Runs without a recipe do not make a difference.
    """
    recipes = [dict(flatten(run.config)) for run in runs]
    for recipe, run in zip(recipes, runs, strict=True):
        fingerprint = run.provenance.get("data", {}).get("fingerprint")
        recipe["data (fingerprint)"] = fingerprint[:8] if isinstance(fingerprint, str) else None
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key != "name")
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    known = [i for i, run in enumerate(runs) if run.config]
    return {key: found for key, found in values.items() if any(found[i] != found[known[0]] for i in known)}
