"""Several runs beside each other: what differs between their recipes, how they trained, and what they score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from facelib.errors import FaceError
from facelib.files import read_json
from facelib.reports.artefact_table import (
    Block,
    all_fars,
    footnotes,
    format_far,
    format_interval,
    format_percent,
    format_rate,
    group_comparable,
    stage_rows,
    warnings_of,
)
from facelib.reports.html import figure, figure_grid, name_cell, render_page, table, warning
from facelib.reports.html_tables import stage_table
from facelib.reports.read_run import Run, Stage, distinct_names, flatten, read_run
from facelib.reports.training_plots import training_figures
from facelib.reports.verification_plots import verification_figures
from facelib.text_table import format_text_table

EMBEDDER = "embedder.h5"
_SEPARATOR = " · "
_MAX_KEYS = 3  # that the table of runs names; the others follow in a table of their own


@dataclass(frozen=True)
class NamedRun:
    """A run and what the table says of it.

    name: the folder's, with its parents' where two are equal.   best_epoch: whose weights embedder.h5 has; None when
    its sidecar does not say.   stages: the artefacts compared, named after the run.
    """

    name: str
    run: Run
    best_epoch: int | None
    stages: list[Stage]

    @property
    def minutes(self) -> float | None:
        """Of all epochs together."""
        seconds = [line["seconds"] for line in self.run.epochs if isinstance(line.get("seconds"), int | float)]
        return sum(seconds) / 60 if seconds else None


@dataclass(frozen=True)
class Comparison:
    """runs: in the given order.   differing: {key of the recipe: its value in each run, None where it is absent}.
    blocks: results that may be compared, with embedder.h5 and the smallest artefact of each run.
    """

    runs: list[NamedRun]
    differing: dict[str, list[Any]]
    blocks: list[Block]

    @property
    def warnings(self) -> list[str]:
        """Why some results must not be compared, and what was not tested."""
        missing = [run.name for run in self.runs if not any(map(is_embedder, run.stages))]
        lines = [f"{name}: {EMBEDDER} was not tested. Run evaluate_data.py on it with --valid." for name in missing]
        return warnings_of(self.blocks) + lines


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Reads two or more run directories.

    Raises:
        FaceError: fewer than two, one named twice, or one that is no run.
    """
    folders = [Path(path).resolve() for path in paths]
    if len(set(folders)) != len(folders) or len(folders) < 2:
        raise FaceError(f"Runs are compared with others: name at least two different ones. Received: {len(folders)}.")
    runs = [
        NamedRun(name, run := read_run(path), _best_epoch(run), _pick_stages(name, run))
        for name, path in zip(distinct_names(folders), paths, strict=True)
    ]
    stages = [stage for run in runs for stage in run.stages]
    return Comparison(runs, _differing([run.run for run in runs]), group_comparable(stages))


def is_embedder(stage: Stage) -> bool:
    """Whether a compared artefact is what training wrote, and not an export of it."""
    return stage.name.endswith(_SEPARATOR + EMBEDDER)


def format_comparison(comparison: Comparison) -> str:
    """Text: warnings, the runs, and a table of results for each set and each way of measuring it."""
    parts = [f"warning: {line}" for line in comparison.warnings]
    lines = [["run", "differs in", "epochs", "minutes", "best epoch"]]
    lines += [[run.name, *cells] for run, cells in zip(comparison.runs, run_cells(comparison), strict=True)]
    parts.append(format_text_table(lines, 2))
    if len(comparison.differing) > _MAX_KEYS:
        lines = [["key", *(run.name for run in comparison.runs)]]
        lines += [[key, *map(format_value, values)] for key, values in comparison.differing.items()]
        parts.append("\n" + format_text_table(lines, 1))
    for block in comparison.blocks:
        parts.append(f"\n{block.title}: {block.measurement}\n{_format_results(block)}")
    return "\n".join(parts)


def run_cells(comparison: Comparison) -> list[list[str]]:
    """For each run: its differing keys with their values, epochs, minutes, best epoch."""
    cells = []
    for i, run in enumerate(comparison.runs):
        differs = [f"{key}={format_value(values[i])}" for key, values in comparison.differing.items()]
        more = [f"{len(differs) - _MAX_KEYS} more"] if differs[_MAX_KEYS:] else []
        differs = ", ".join(differs[:_MAX_KEYS] + more) if run.run.config else "no recipe"
        minutes = "-" if run.minutes is None else f"{run.minutes:.1f}"
        cells.append([differs or "nothing", str(len(run.run.epochs) or "-"), minutes, str(run.best_epoch or "-")])
    return cells


def format_value(value: Any) -> str:
    """A value of a recipe; '-' for an absent one."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _format_results(block: Block) -> str:
    rows = [row for row in stage_rows(block.stages) if row.set_name == block.set_name]
    fars = all_fars(rows)
    lines = [["run · artefact", "ACC", "AUC", *(f"VR@FAR={format_far(far)}" for far in fars)]]
    for row in rows:
        acc = f"{format_percent(row.acc)} {format_interval(row.acc_ci95)}".rstrip()
        auc = "-" if row.auc is None else f"{row.auc:.5f}"
        lines.append([row.stage + "*" * row.is_stale, acc, auc, *(format_rate(row.vr.get(far)) for far in fars)])
    return "\n".join([format_text_table(lines, 1), *footnotes(rows)])


def _pick_stages(name: str, run: Run) -> list[Stage]:
    """embedder.h5, and the smallest int8 artefact or else the smallest of all exports."""
    exports = [stage for stage in run.stages if not stage.name.endswith(".h5")]
    int8 = [stage for stage in exports if "int8" in stage.name]
    smallest = sorted(int8 or exports, key=lambda stage: stage.report.get("size_bytes") or float("inf"))[:1]
    picked = [stage for stage in run.stages if stage.name == EMBEDDER] + smallest
    return [replace(stage, name=f"{name}{_SEPARATOR}{stage.name}") for stage in picked]


def _best_epoch(run: Run) -> int | None:
    sidecar = run.path / f"{EMBEDDER}.json"
    said = read_json(sidecar, "sidecar").get("epoch") if sidecar.is_file() else None
    return said if isinstance(said, int) else None


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Keys of the recipes, and the training data, in which the runs that have a recipe are not all equal."""
    recipes = [dict(flatten(run.config)) for run in runs]
    for recipe, run in zip(recipes, runs, strict=True):
        fingerprint = run.provenance.get("data", {}).get("fingerprint")
        recipe["data (fingerprint)"] = fingerprint[:8] if isinstance(fingerprint, str) else None
    keys = dict.fromkeys(key for recipe in recipes for key in recipe if key != "name")
    values = {key: [recipe.get(key) for recipe in recipes] for key in keys}
    known = [i for i, run in enumerate(runs) if run.config]
    return {key: found for key, found in values.items() if any(found[i] != found[known[0]] for i in known)}


def render_comparison(comparison: Comparison) -> str:
    """The whole page."""
    title = f"{len(comparison.runs)} runs compared"
    names = " · ".join(run.name for run in comparison.runs)
    parts = [
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(names)}</p></header>',
        warning(comparison.warnings),
        f"<h2>Runs</h2>{_run_table(comparison)}",
        f"<h2>What differs</h2>{_difference_table(comparison)}",
    ]
    training = [figure(drawing) for drawing in training_figures([(run.name, run.run) for run in comparison.runs])]
    parts.append(f"<h2>Training</h2>{figure_grid(training)}" if training else "")
    parts += [_block_section(block) for block in comparison.blocks]
    return render_page(title, parts)


def _run_table(comparison: Comparison) -> str:
    rows = [
        [name_cell(run.name), escape(epochs), escape(minutes), escape(best)]
        for run, (_, epochs, minutes, best) in zip(comparison.runs, run_cells(comparison), strict=True)
    ]
    return table(["run", "epochs", "minutes", "best epoch"], rows)


def _difference_table(comparison: Comparison) -> str:
    unknown = ", ".join(run.name for run in comparison.runs if not run.run.config)
    note = f'<p class="soft">No recipe (config.toml): {escape(unknown)}.</p>' if unknown else ""
    if not comparison.differing:
        return f'<p class="soft">Recipes and training data are equal.</p>{note}'
    rows = [
        [name_cell(key), *(escape(format_value(value)) for value in values)]
        for key, values in comparison.differing.items()
    ]
    return table(["recipe", *(run.name for run in comparison.runs)], rows) + note


def _block_section(block: Block) -> str:
    """Results that may be compared: embedders, then small artefacts, each as a table and as curves over each other."""
    parts = [f'<h2>{escape(block.title)}</h2><p class="soft">{escape(str(block.measurement))}</p>']
    embedders = [stage for stage in block.stages if is_embedder(stage)]
    others = [stage for stage in block.stages if not is_embedder(stage)]
    figures = []
    for title, stages in (("embedder.h5", embedders), ("smallest artefact", others)):
        if stages:
            rows = [row for row in stage_rows(stages) if row.set_name == block.set_name]
            results = [(stage.name, stage.report["sets"][block.set_name]) for stage in stages]
            curves = [drawing for drawing in verification_figures(results) if drawing[0] == "roc"]
            figures += [figure(curve, f"{block.title}, {title}") for curve in curves]
            parts.append(f"<h3>{title}</h3>{stage_table(rows, 'run · artefact')}")
    return "".join(parts) + figure_grid(figures)
