"""The identities of a folder on a page: the worst of them as a table, and who is taken for whom as a matrix."""

from functools import partial
from typing import Any

import numpy as np

from facelib.figure_style import Drawing, begin, finish, label
from facelib.reports.artefact_table import ResultGroup, format_percent
from facelib.reports.hardest_pairs import FaceFinder, FacesMissing, thumbnail
from facelib.reports.html import Cell, Table, TableRow, notes
from facelib.reports.read_run import Artefact
from facelib.wording import counted

_CAPTION = (
    "Who is taken for whom by {name}: a number counts the faces of the row that are nearest to a face of the column. "
    "The stronger a colour, the closer the mean embeddings of the two. These are the identities that are confused most "
    "often, or else are closest."
)
_LETTERS = 16  # of a name beside the matrix
_FARTHEST = 2.0  # squared L2 of unit vectors without a common direction: no colour
_SIDE = 3.9  # inches


def identity_tables(group: ResultGroup, finder: FaceFinder | None) -> list[Table]:
    """The worst identities, a table for each artefact that was tested on a folder.

    Args:
        group: results on one set.
        finder: finds the two closest faces; None shows no faces.
    """
    return [
        _table(artefact, result, finder)
        for artefact, (_, result) in zip(group.artefacts, group.results, strict=True)
        if result.get("by_identity")
    ]


def confusion_figures(group: ResultGroup) -> list[Drawing]:
    """The matrix of the first artefact that was tested on a folder."""
    for name, result in group.results:
        found = (result.get("by_identity") or {}).get("confusion")
        if found and len(found["identities"]) > 1:
            return [("confusion", _CAPTION.format(name=name), partial(plot_confusion, found))]
    return []


def plot_confusion(confusion: dict[str, Any], theme: str = "light") -> bytes:
    """The matrix `confusion` of docs/report.md, PNG."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    figure, (ax,), colours = begin(theme, height=_SIDE)
    names = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in confusion["identities"]]
    closeness = 1 - np.clip(np.array(confusion["distance"]) / _FARTHEST, 0, 1)
    np.fill_diagonal(closeness, 0)
    shades = LinearSegmentedColormap.from_list("closeness", [colours.ground, colours.series[0]])
    ax.imshow(closeness, cmap=shades, vmin=0, vmax=1, aspect="equal")
    dark, light = sorted((colours.ground, colours.text), key=lambda one: sum(to_rgb(one)))
    for i, row in enumerate(confusion["nearest"]):
        for j, count in enumerate(row):
            if count:
                red, green, blue, _ = shades(closeness[i, j])
                is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
                ax.text(j, i, f"{count:,}", ha="center", va="center", fontsize=8.5, color=dark if is_bright else light,
                        weight="normal" if i == j else "bold")  # fmt: skip
    ax.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8.5)
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.grid(False)
    label(ax, colours, "nearest face is of", "faces of")
    return finish(figure)


def _table(artefact: Artefact, result: dict[str, Any], finder: FaceFinder | None) -> Table:
    found = result["by_identity"]
    try:
        read = finder.find(result, artefact.folder) if finder else None
    except FacesMissing:  # the hardest pairs say why
        read = None
    rows = []
    for one in found["worst"]:
        faces = [((name, thumbnail(read(name))),) if read else () for name in one["faces"]]
        vr = one["accepted"] / one["genuine"] if one["genuine"] else None
        share = one["confused"] / one["images"]
        rows.append(
            TableRow([
                Cell(one["identity"], is_name=True, faces=faces[0]),
                Cell(one["nearest"], is_name=True, faces=faces[1]),
                Cell(f"{one['distance']:.3f}"),
                Cell(f"{one['images']:,}"),
                Cell(f"{one['confused']:,}", notes(f"{format_percent(share)} %" if share else "")),
                Cell(format_percent(vr), notes(f"of {counted(one['genuine'], 'pair')}" if one["genuine"] else "")),
            ])
        )  # fmt: skip
    heads = ["identity", "closest other", "distance", "images", "confused", "VR %"]
    note = (
        f"{found['confused']:,} of {found['faces']:,} faces are confused: the nearest other face is of another "
        f"identity. VR: genuine pairs at distance ≤ {found['threshold']:.4f}. The identities with the largest share of "
        "confused faces stand first, then those with the lowest VR. The pictures are the two closest faces."
    )
    return Table(heads, rows, note, f"Worst identities of {artefact.name}", num_left=2)
