"""Groups of people or photos: a CSV that says which group an identity or an image belongs to.

    name,group          the first line; `name` is an identity, or an image as the set names it
    Aaron_Eckhart,m     (entry number of a .bin, path below the folder of a folder or pair list)

A pair belongs to a group when both of its faces do.
"""

import csv
import io
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facelib.errors import FaceError
from facelib.evaluation.metrics import wilson_interval
from facelib.evaluation.ten_fold import FoldTar
from facelib.files import read_text

MIN_PAIRS = 20  # genuine and impostor; fewer say nothing of a group


def read_attributes(path: Path, encoding: str | None = None) -> dict[str, str]:
    """{identity or image: group}.

    Args:
        path: the table.
        encoding: of the table; None finds it.

    Raises:
        FaceError: no such file, no two columns, or a name in two groups. Names the line.
    """
    groups: dict[str, str] = {}
    try:
        text, _ = read_text(path, "attribute table", encoding)
        with io.StringIO(text, newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != 2 or not row[0].strip() or not row[1].strip():
                    raise FaceError(
                        f"An attribute table must have two columns, name and group. '{path}' line {number}: "
                        f"{','.join(row)[:80]!r}. Correct the line."
                    )
                name, group = unicodedata.normalize("NFC", row[0].strip()), row[1].strip()
                if number == 1 and (name.lower(), group.lower()) == ("name", "group"):
                    continue
                if groups.setdefault(name, group) != group:
                    raise FaceError(
                        f"Each name must belong to only one group. '{path}' line {number} gives '{name}' the group "
                        f"'{group}', but an earlier line gives it the group '{groups[name]}'. Remove one of these "
                        "lines."
                    )
    except csv.Error as error:
        raise FaceError(f"An attribute table must be a CSV file. '{path}' is not: {error}.") from error
    if not groups:
        raise FaceError(f"The attribute table '{path}' is empty. Make the file again.")
    return groups


def group_faces(groups: dict[str, str], names: list[str], identities: list[str] | None, where: str) -> np.ndarray:
    """The group of each face, '' where the table does not say.

    Args:
        groups: what `read_attributes` returned.
        names: names of the images.
        identities: who is on each image; None when not known.
        where: names the set in errors.

    Raises:
        FaceError: no face of the set is in the table.
    """
    owners = identities if identities is not None else names
    keys = ([unicodedata.normalize("NFC", name) for name in some] for some in (names, owners))  # a Mac's are NFD
    found = np.array([groups.get(name) or groups.get(owner, "") for name, owner in zip(*keys, strict=True)])
    if not np.any(found != ""):
        raise FaceError(
            (
                f"The attribute table lists no face of {where}. The first name in the table is "
                f"{next(iter(groups))!r}, the first in the set is {names[0]!r}"
            )
            + (f" of {identities[0]!r}" if identities is not None else "")
            + ". Use the names of identities or images in the set."
        )
    return found


def measure_group(genuine: np.ndarray, impostor: np.ndarray, threshold: float, vr: Sequence[FoldTar]) -> dict[str, Any]:
    """ACC, VR and FAR of one group at the thresholds of the whole set; None where the group has too few pairs.

    ACC is balanced, so that groups with different shares of genuine pairs can be compared.

    Args:
        genuine: float [G], distances of the genuine pairs within the group.
        impostor: float [I], distances of its impostor pairs.
        threshold: of the ACC of the whole set.
        vr: VR of the whole set, with thresholds.

    Returns: an object of `groups` in docs/report.md.
    """
    counts = {"pairs": len(genuine) + len(impostor), "genuine": len(genuine)}
    result: dict[str, Any] = {**counts, "acc": None, "acc_ci95": None, "vr": {}}
    if min(len(genuine), len(impostor)) < MIN_PAIRS:
        return result
    tar, far = _rate(genuine, threshold), _rate(impostor, threshold)
    result["acc"] = (tar["rate"] + 1.0 - far["rate"]) / 2
    result["acc_ci95"] = [(tar["ci95"][0] + 1 - far["ci95"][1]) / 2, (tar["ci95"][1] + 1 - far["ci95"][0]) / 2]
    for one in vr:
        if one.threshold is not None:
            tar, far = _rate(genuine, one.threshold), _rate(impostor, one.threshold)
            result["vr"][f"{one.far_target:g}"] = {
                "vr": tar["rate"], "ci95": tar["ci95"], "far": far["rate"], "far_ci95": far["ci95"],
            }  # fmt: skip
    return result


def _rate(distances: np.ndarray, threshold: float) -> dict[str, Any]:
    accepted = int(np.count_nonzero(distances <= threshold))
    return {"rate": accepted / len(distances), "ci95": list(wilson_interval(accepted, len(distances)))}
