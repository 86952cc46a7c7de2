"""The page of compare_runs.py: runs beside each other, what differs between them, their curves over each other."""

from html import escape

from facelib.reports.artefact_table import stage_rows
from facelib.reports.comparable import Block
from facelib.reports.comparison import Comparison, format_value, is_embedder, run_cells
from facelib.reports.html import figure, figure_grid, name_cell, render_page, table, warning
from facelib.reports.html_tables import stage_table
from facelib.reports.training_plots import training_figures
from facelib.reports.verification_plots import verification_figures


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
