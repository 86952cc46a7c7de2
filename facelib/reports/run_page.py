"""report.html: the page of a run, or of several artefacts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from facelib.reports import face_maps
from facelib.reports.artefact_table import ResultGroup, artefact_rows, group_comparable, warnings_of
from facelib.reports.face_maps import MapPicture, map_pictures
from facelib.reports.hardest_pairs import FaceFinder, Gallery, hardest_galleries
from facelib.reports.html import Figure, Matrix, Table, draw_figure, render
from facelib.reports.html_tables import (
    artefact_table,
    attribute_table,
    identification_table,
    ijb_tables,
    threshold_table,
    tinyface_tables,
)
from facelib.reports.identity_errors import confusion_matrices, identity_tables
from facelib.reports.pareto import CAPTION, comparable_rows, plot_pareto
from facelib.reports.read_run import Artefact, Run, flatten
from facelib.reports.training_plots import training_figures
from facelib.reports.verification_plots import verification_figures
from facelib.wording import counted

NO_NAME = "unnamed"  # of a recipe that has no name


@dataclass(frozen=True)
class Section:
    """What the page says of one group of results.

    Attributes:
        title: name of the set.
        facts: how it was measured, in one line.
        figures: plots.
        tables: thresholds, identification, groups, worst identities.
        galleries: the hardest pairs.
        matrices: who is taken for whom.
        maps: faces on a plane.
    """

    title: str
    facts: str
    figures: list[Figure]
    tables: list[Table]
    galleries: list[Gallery]
    matrices: list[Matrix]
    maps: list[MapPicture]


def render_report(run: Run, sheet_jpeg: bytes | None = None, finder: FaceFinder | None = None) -> str:
    """The page of a run.

    Args:
        run: what to show; parts that it lacks are left out.
        sheet_jpeg: a contact sheet of training faces, JPEG.
        finder: finds the faces of the hardest pairs; None shows no faces.
    """
    parts = (("Recipe", run.config), ("Provenance", run.provenance))
    return render(
        "run.html.j2",
        title=_title(run),
        facts=headline(run),
        training=[draw_figure(drawing) for drawing in training_figures([("", run.log)])],
        ijb=[*ijb_tables(run.ijb), *tinyface_tables(run.tinyface)],
        sheet_jpeg=sheet_jpeg,
        origin=[(title, flatten(content)) for title, content in parts if content],
        **_tested(run.artefacts, finder),
    )


def render_artefacts(artefacts: Sequence[Artefact], finder: FaceFinder | None = None) -> str:
    """The page of several artefacts.

    Args:
        artefacts: in the order of the page; changes are against the first.
        finder: finds the faces of the hardest pairs; None shows no faces.
    """
    return render(
        "run.html.j2",
        title=f"{len(artefacts)} artefacts compared" if len(artefacts) > 1 else artefacts[0].name,
        facts=" · ".join(artefact.name for artefact in artefacts),
        training=[],
        ijb=[],
        sheet_jpeg=None,
        origin=[],
        **_tested(artefacts, finder),
    )


def _tested(artefacts: Sequence[Artefact], finder: FaceFinder | None) -> dict[str, Any]:
    """Warnings, the table of artefacts, their costs, and a section for each group of results."""
    rows, groups = artefact_rows(artefacts), group_comparable(artefacts)
    shown = comparable_rows(rows) if rows else []
    sections = [_section(group, finder) for group in groups]
    return {
        "warnings": warnings_of(groups),
        "artefacts": artefact_table(rows) if rows else None,
        "costs": [draw_figure(("costs", CAPTION, partial(plot_pareto, shown)))] if shown else [],
        "sections": [one for one in sections if one.figures or one.tables or one.galleries or one.maps],
        "map_side": face_maps.PICTURE,
    }


def _section(group: ResultGroup, finder: FaceFinder | None) -> Section:
    tables = [threshold_table(group), identification_table(group), attribute_table(group)]
    tables += identity_tables(group, finder)
    return Section(
        title=group.title,
        facts=" · ".join([str(group.measurement), *_folder_facts(group)]),
        figures=[draw_figure(drawing, group.title) for drawing in verification_figures(group.results)],
        tables=[table for table in tables if table.rows],
        galleries=hardest_galleries(group, finder) if finder else [],
        matrices=confusion_matrices(group),
        maps=map_pictures(group, with_faces=finder is not None),
    )


def _folder_facts(group: ResultGroup) -> list[str]:
    """How many identities and images a folder has."""
    for _, result in group.results:
        found = result.get("identities")
        if found:
            single = f"{found['single']:,} with one image"
            return [f"{found['images']:,} images of {found['count']:,} identities, {single}"]
    return []


def _title(run: Run) -> str:
    """The name of the run: that of its folder, with the recipe's where the folder does not say it."""
    folder, recipe = run.path.resolve().name, run.config.get("name")
    is_said = not isinstance(recipe, str) or recipe in ("", NO_NAME) or recipe in folder
    return folder if is_said else f"{folder} ({recipe})"


def headline(run: Run) -> str:
    """Length of the training and its last logged loss, in one line."""
    if run.log.is_empty and not run.artefacts:
        return "nothing is logged yet"
    facts = []
    if run.log.epochs:
        num_epochs = len(run.log.epochs)
        facts.append(f"{num_epochs} epoch{'s' * (num_epochs != 1)} in {_duration(run.log.seconds)}")
    if run.log.steps:
        last = run.log.steps[-1]
        facts.append(counted(last["step"], "step"))
        if isinstance(last.get("images_per_s"), int | float):
            rates = sorted(line["images_per_s"] for line in run.log.steps if line.get("images_per_s"))
            facts.append(f"{rates[len(rates) // 2]:,.0f} images/s")
        if isinstance(last.get("loss"), int | float):
            facts.append(f"last loss {last['loss']:.3f}")
    return " · ".join(facts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
