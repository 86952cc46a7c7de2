"""Groups of people or photos: a CSV that says which group an identity or an image belongs to.

    name,group          the first line; `name` is an identity, or an image as the set names it
    Aaron_Eckhart,m     (entry number of a .bin, path below the folder of a folder or pair list)

A pair belongs to a group when both of its faces do.
"""

import csv
from pathlib import Path

import numpy as np

from facelib.errors import FaceError
from facelib.files import require_file

MIN_PAIRS = 20  # genuine and impostor; fewer say nothing of a group


def read_attributes(path: Path) -> dict[str, str]:
    """{identity or image: group}.

    Raises:
        FaceError: no such file, no two columns, or a name that stands in two groups. Names the line.
    """
    groups: dict[str, str] = {}
    try:
        with open(require_file(path, "attribute table"), newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != 2 or not row[0].strip() or not row[1].strip():
                    raise FaceError(
                        f"An attribute table has two columns, name and group. '{path}' line {number}: "
                        f"{','.join(row)[:80]!r}. Mend the line."
                    )
                name, group = row[0].strip(), row[1].strip()
                if number == 1 and (name.lower(), group.lower()) == ("name", "group"):
                    continue
                if groups.setdefault(name, group) != group:
                    raise FaceError(
                        f"A name belongs to one group. '{path}' line {number} puts '{name}' into '{group}', an earlier "
                        f"line into '{groups[name]}'. Remove one."
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise FaceError(f"An attribute table is a CSV file. '{path}' is not: {error}.") from error
    if not groups:
        raise FaceError(f"The attribute table '{path}' has no lines. Make it again.")
    return groups


def group_faces(groups: dict[str, str], names: list[str], identities: list[str] | None, where: str) -> np.ndarray:
    """The group of each face, '' where the table does not say.

    Args:
        groups: what `read_attributes` gave.   names: of the images.   identities: of the people; None when not known.

    Raises:
        FaceError: no face of the set is in the table.
    """
    owners = identities if identities is not None else names
    found = np.array([groups.get(name) or groups.get(owner, "") for name, owner in zip(names, owners, strict=True)])
    if not np.any(found != ""):
        raise FaceError(
            f"The attribute table names no face of {where}. It has {next(iter(groups))!r}, the set has {names[0]!r}"
            + (f" of {identities[0]!r}" if identities is not None else "")
            + ". Name identities or images as the set does."
        )
    return found
