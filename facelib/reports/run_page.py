"""report.html: the page of a run, or of several artefacts beside each other."""

from collections.abc import Sequence
from html import escape

from facelib.reports.artefact_table import Block, group_comparable, stage_rows, warnings_of
from facelib.reports.hardest_pairs import FaceFinder, hardest_section
from facelib.reports.html import figure, figure_grid, folded, photo_figure, render_page, warning
from facelib.reports.html_tables import group_table, identification_table, ijb_tables, stage_table, threshold_table
from facelib.reports.read_run import Run, Stage, flatten
from facelib.reports.training_plots import training_figures
from facelib.reports.verification_plots import verification_figures


def render_report(run: Run, sheet_jpeg: bytes | None = None, finder: FaceFinder | None = None) -> str:
    """The page of a run.

    Args:
        run: what to show; parts that it lacks are left out.   sheet_jpeg: a contact sheet of training faces, JPEG.
        finder: of the faces of the hardest pairs; None shows no faces.
    """
    name = run.path.resolve().name
    parts = [f"<header><h1>{escape(name)}</h1>{_headline(run)}</header>"]
    training = [figure(drawing) for drawing in training_figures([("", run)])]
    training = f"<h2>Training</h2>{figure_grid(training)}" if training else ""
    parts += stage_parts(run.stages, finder, after_table=training)
    if run.ijb:
        parts.append(f"<h2>IJB</h2>{ijb_tables(run.ijb)}")
    if sheet_jpeg:
        sheet = photo_figure(sheet_jpeg, "training faces, one identity a row", "One identity a row, with its images.")
        parts.append(f"<h2>Training faces</h2>{sheet}")
    parts.append(_origin(run))
    return render_page(name, parts)


def render_artefacts(stages: Sequence[Stage], finder: FaceFinder | None = None) -> str:
    """The page of artefacts beside each other, in the given order; arguments as in `render_report`."""
    title = f"{len(stages)} artefacts compared" if len(stages) > 1 else stages[0].name
    facts = " · ".join(stage.name for stage in stages)
    header = f'<header><h1>{escape(title)}</h1><p class="soft">{escape(facts)}</p></header>'
    return render_page(title, [header, *stage_parts(stages, finder)])


def stage_parts(stages: Sequence[Stage], finder: FaceFinder | None, after_table: str = "") -> list[str]:
    """Warnings, the stage table, and a section for each set."""
    rows, blocks = stage_rows(stages), group_comparable(stages)
    parts = [warning(warnings_of(blocks))]
    if rows:
        parts.append(f"<h2>Stages</h2>{stage_table(rows)}")
    return [*parts, after_table, *(_set_section(block, finder) for block in blocks)]


def _set_section(block: Block, finder: FaceFinder | None) -> str:
    figures = figure_grid([figure(drawing, block.title) for drawing in verification_figures(block.results)])
    tables = threshold_table(block) + identification_table(block) + group_table(block)
    pairs = hardest_section(block, finder) if finder else ""
    if not (figures or tables or pairs):
        return ""
    facts = [str(block.measurement), *_folder_facts(block)]
    head = f'<h2>Verification on {escape(block.title)}</h2><p class="soft">{escape(" · ".join(facts))}</p>'
    return head + figures + tables + pairs


def _folder_facts(block: Block) -> list[str]:
    """How many people and images a folder has."""
    for _, result in block.results:
        people = result.get("identities")
        if people:
            return [f"{people['images']:,} images of {people['count']:,} people, {people['single']:,} with one image"]
    return []


def _headline(run: Run) -> str:
    """Length of the training and its last measured loss, in one line."""
    facts = []
    if run.epochs:
        seconds = sum(line.get("seconds") or 0 for line in run.epochs)
        facts.append(f"{len(run.epochs)} epoch{'s' * (len(run.epochs) != 1)} in {_duration(seconds)}")
    if run.steps:
        last = run.steps[-1]
        facts.append(f"{last['step']:,} steps")
        if isinstance(last.get("images_per_s"), int | float):
            rates = sorted(line["images_per_s"] for line in run.steps if line.get("images_per_s"))
            facts.append(f"{rates[len(rates) // 2]:,.0f} images/s")
        if isinstance(last.get("loss"), int | float):
            facts.append(f"last loss {last['loss']:.3f}")
    return f'<p class="soft">{escape(" · ".join(facts))}</p>' if facts else ""


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _origin(run: Run) -> str:
    """The recipe and where the run came from, folded."""
    parts = []
    for title, content in (("Recipe", run.config), ("Provenance", run.provenance)):
        if content:
            lines = "\n".join(f"{key} = {value}" for key, value in flatten(content))
            parts.append(folded(title, f"<pre>{escape(lines)}</pre>"))
    return f'<h2>How it was made</h2><div class="card">{"".join(parts)}</div>' if parts else ""
