"""The identities of a folder on a page: the worst of them as a table, and who is taken for whom as a matrix."""

from typing import Any

from facelib.reports.artefact_table import ResultGroup, format_percent
from facelib.reports.hardest_pairs import FaceFinder, FacesMissing, thumbnail
from facelib.reports.html import Cell, Matrix, MatrixCell, Table, TableRow, notes
from facelib.reports.read_run import Artefact
from facelib.wording import counted

_NOTE = (
    "A number counts the faces of the row that are nearest to a face of the column. The stronger a colour, the closer "
    "the mean embeddings of the two. These are the identities that are confused most often, or else are closest."
)
_LETTERS = 16  # of a name beside the matrix
_FARTHEST = 2.0  # squared L2 of unit vectors without a common direction: no colour


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


def confusion_matrices(group: ResultGroup) -> list[Matrix]:
    """Who is taken for whom, a matrix for each artefact that was tested on a folder."""
    return [
        _matrix(name, result["by_identity"]["confusion"]) for name, result in group.results if result.get("by_identity")
    ]


def _matrix(artefact: str, confusion: dict[str, Any]) -> Matrix:
    rows = []
    for i, (counts, distances) in enumerate(zip(confusion["nearest"], confusion["distance"], strict=True)):
        closeness = [0.0 if i == j else max(0.0, 1 - distance / _FARTHEST) for j, distance in enumerate(distances)]
        rows.append([
            MatrixCell(f"{count:,}" if count else "", round(share, 2), f"distance {distance:.3f}")
            for count, share, distance in zip(counts, closeness, distances, strict=True)
        ])  # fmt: skip
    names = [(name, _short(name)) for name in confusion["identities"]]
    return Matrix(f"Who is taken for whom by {artefact}", names, rows, _NOTE)


def _short(name: str) -> str:
    """The name, without its middle if it is long: names of one data set often begin with the same letters."""
    half = _LETTERS // 2
    return name if len(name) <= _LETTERS else f"{name[: half - 1]}…{name[-half:]}"


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
